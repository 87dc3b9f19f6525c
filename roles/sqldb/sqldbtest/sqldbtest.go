// Package sqldbtest runs a store's tests on both engines of sqldb: SQLite, and a real PostgreSQL server
// that belongs to the test process alone.
//
// The server is started by the first test that needs it, from the newest PostgreSQL under
// /usr/lib/postgresql, on a Unix socket in a temporary directory and without a TCP port. As it refuses
// to run as root, it then runs as the user postgres, or nobody. It ends with the test process, however
// that ends. Its data is not synced to disk.
package sqldbtest

import (
	"context"
	"fmt"
	"net/url"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Main runs the tests of a package and then stops the PostgreSQL server, if a test started it:
//
//	func TestMain(m *testing.M) { sqldbtest.Main(m) }
func Main(m *testing.M) {
	defer shared.stop()
	m.Run()
}

// Each runs test as two parallel subtests, "sqlite" and "postgres", with the URL of a fresh, empty
// database of that engine for sqldb.Open. The package needs [Main].
func Each(t *testing.T, test func(t *testing.T, dbURL string)) {
	t.Helper()
	for engine, newURL := range map[string]func(*testing.T) string{"sqlite": SQLite, "postgres": Postgres} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			test(t, newURL(t))
		})
	}
}

// SQLite is the URL of a database file that does not exist yet, in a directory of the test.
func SQLite(t *testing.T) string {
	return "sqlite:" + filepath.Join(t.TempDir(), "test.db")
}

// Postgres is the URL of a new, empty PostgreSQL database.
func Postgres(t *testing.T) string {
	t.Helper()
	server, err := shared.get()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, server.url("postgres"))
	if err != nil {
		t.Fatalf("connect to the test's PostgreSQL: %v", err)
	}
	defer conn.Close(ctx)
	name := server.nextName()
	if _, err := conn.Exec(ctx, "CREATE DATABASE "+name); err != nil {
		t.Fatalf("create test database: %v", err)
	}
	return server.url(name)
}

func (s *server) url(database string) string {
	q := url.Values{"host": {s.dir}, "user": {superuser}}
	return fmt.Sprintf("postgres:///%s?%s", database, q.Encode())
}
