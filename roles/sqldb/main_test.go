package sqldb_test

import (
	"context"
	"database/sql"
	"testing"
	"testing/fstest"

	"github.com/setkit/setkit/roles/sqldb"
	"github.com/setkit/setkit/roles/sqldb/sqldbtest"
)

func TestMain(m *testing.M) { sqldbtest.Main(m) }

// testSchema is the smallest party: numbered counters, and one unique column.
var testSchema = fstest.MapFS{"00001_counter.sql": {Data: []byte(`
-- +goose Up
CREATE TABLE counter (id BIGINT NOT NULL PRIMARY KEY, name TEXT NOT NULL, n BIGINT NOT NULL);
CREATE TABLE parent (id BIGINT NOT NULL PRIMARY KEY);
CREATE TABLE child (id BIGINT NOT NULL PRIMARY KEY REFERENCES parent (id));
INSERT INTO counter (id, name, n) VALUES (1, 'one', 0), (2, 'two', 0);
`)}}

func open(t *testing.T, url string) *sqldb.DB {
	t.Helper()
	db, err := sqldb.Open(context.Background(), url, testSchema)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func counter(t *testing.T, db *sqldb.DB, id int) (n int) {
	t.Helper()
	err := db.View(t.Context(), func(tx *sql.Tx) error {
		return tx.QueryRowContext(t.Context(), `SELECT n FROM counter WHERE id = $1`, id).Scan(&n)
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}
