package sqldb_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/setkit/setkit/roles/sqldb"
	"github.com/setkit/setkit/roles/sqldb/sqldbtest"
)

// Read, add one, write: any isolation below serializable loses some of the additions.
func TestTxIsSerializable(t *testing.T) {
	t.Parallel()
	sqldbtest.Each(t, func(t *testing.T, url string) {
		db := open(t, url)
		const workers, rounds = 6, 15
		var wg sync.WaitGroup
		var mu sync.Mutex
		want := 0
		for range workers {
			wg.Go(func() {
				for range rounds {
					err := db.Tx(t.Context(), func(tx *sql.Tx) error {
						var n int
						if err := tx.QueryRowContext(t.Context(), `SELECT n FROM counter WHERE id = $1`, 1).Scan(&n); err != nil {
							return err
						}
						_, err := tx.ExecContext(t.Context(), `UPDATE counter SET n = $1 WHERE id = $2`, n+1, 1)
						return err
					})
					if errors.Is(err, sqldb.ErrBusy) {
						continue // given up after bounded retries, and nothing was changed
					}
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					want++
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		if got := counter(t, db, 1); got != want || want == 0 {
			t.Errorf("counter is %d, want %d additions", got, want)
		}
	})
}

// Each withdrawal is allowed while the two counters together are not below zero: write skew would
// let both through.
func TestTxPreventsWriteSkew(t *testing.T) {
	t.Parallel()
	sqldbtest.Each(t, func(t *testing.T, url string) {
		db := open(t, url)
		var wg sync.WaitGroup
		for _, id := range []int{1, 2} {
			wg.Go(func() {
				err := db.Tx(t.Context(), func(tx *sql.Tx) error {
					var sum int
					if err := tx.QueryRowContext(t.Context(), `SELECT SUM(n) FROM counter`).Scan(&sum); err != nil {
						return err
					}
					if sum < 0 {
						return nil
					}
					_, err := tx.ExecContext(t.Context(), `UPDATE counter SET n = n - 1 WHERE id = $1`, id)
					return err
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if got := counter(t, db, 1) + counter(t, db, 2); got != -1 {
			t.Errorf("counters sum to %d, want -1: one withdrawal", got)
		}
	})
}

func TestTxRollsBack(t *testing.T) {
	t.Parallel()
	sqldbtest.Each(t, func(t *testing.T, url string) {
		db := open(t, url)
		refused := errors.New("refused")
		err := db.Tx(t.Context(), func(tx *sql.Tx) error {
			if _, err := tx.ExecContext(t.Context(), `UPDATE counter SET n = $1 WHERE id = $2`, 7, 1); err != nil {
				return err
			}
			return refused
		})
		if !errors.Is(err, refused) {
			t.Errorf("Tx gave %v, want the error of fn", err)
		}
		if got := counter(t, db, 1); got != 0 {
			t.Errorf("counter is %d after a rollback, want 0", got)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := db.Tx(ctx, func(*sql.Tx) error { return nil }); !errors.Is(err, context.Canceled) {
			t.Errorf("Tx with a cancelled context gave %v", err)
		}
	})
}

// What the package doc says both engines take.
func TestCommonSQL(t *testing.T) {
	t.Parallel()
	sqldbtest.Each(t, func(t *testing.T, url string) {
		db := open(t, url)
		err := db.Tx(t.Context(), func(tx *sql.Tx) error {
			res, err := tx.ExecContext(t.Context(),
				`INSERT INTO counter (id, name, n) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`, 1, "one again", 5)
			if err != nil {
				return err
			}
			if n, err := res.RowsAffected(); n != 0 || err != nil {
				return fmt.Errorf("conflicting insert affected %d rows (%v), want 0", n, err)
			}
			// A parameter used twice.
			var name string
			err = tx.QueryRowContext(t.Context(),
				`UPDATE counter SET n = $1 WHERE name = $2 AND $1 > n RETURNING name`, 9, "two").Scan(&name)
			if err != nil || name != "two" {
				return fmt.Errorf("returning gave %q, %v", name, err)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if got := counter(t, db, 2); got != 9 {
			t.Errorf("counter 2 is %d, want 9", got)
		}
		err = db.Tx(t.Context(), func(tx *sql.Tx) error {
			_, err := tx.ExecContext(t.Context(), `INSERT INTO child (id) VALUES ($1)`, 1)
			return err
		})
		if err == nil {
			t.Error("a child without its parent was stored: foreign keys are not enforced")
		}
	})
}

func TestReopenKeepsData(t *testing.T) {
	t.Parallel()
	sqldbtest.Each(t, func(t *testing.T, url string) {
		db := open(t, url)
		err := db.Tx(t.Context(), func(tx *sql.Tx) error {
			_, err := tx.ExecContext(t.Context(), `UPDATE counter SET n = $1 WHERE id = $2`, 3, 1)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		if got := counter(t, open(t, url), 1); got != 3 {
			t.Errorf("counter is %d after opening again, want 3", got)
		}
	})
}

// Processes that start together must all come up, whichever migrates.
func TestOpenTogether(t *testing.T) {
	t.Parallel()
	sqldbtest.Each(t, func(t *testing.T, url string) {
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				db, err := sqldb.Open(t.Context(), url, testSchema)
				if err != nil {
					t.Error(err)
					return
				}
				if err := db.Ping(t.Context()); err != nil {
					t.Error(err)
				}
				db.Close()
			})
		}
		wg.Wait()
	})
}

func TestSQLiteFilesArePrivate(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "odd name? 100%#.db")
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	db := open(t, "sqlite:"+path)
	if got := counter(t, db, 1); got != 0 {
		t.Fatalf("counter is %d, want 0", got)
	}
	for _, suffix := range []string{"", "-wal", "-shm"} {
		info, err := os.Stat(path + suffix)
		if err != nil {
			t.Error(err)
			continue
		}
		if got := info.Mode().Perm(); got != 0o600 {
			t.Errorf("%q has mode %o, want 600", suffix, got)
		}
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 3 {
		t.Errorf("directory holds %v (%v), want the database, its -wal and its -shm", entries, err)
	}
}

func TestOpenErrors(t *testing.T) {
	t.Parallel()
	notADatabase := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(notADatabase, []byte(strings.Repeat("not a database ", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closedPort := l.Addr().(*net.TCPAddr).Port
	l.Close()
	const password = "hunter2secret"
	for _, tt := range []struct {
		name, url, want string
		typed           error
	}{
		{"no scheme", "issuer.db", "sqlite:PATH", nil},
		{"unknown scheme", "mysql://root:" + password + "@localhost/x", "unknown scheme", nil},
		{"no path", "sqlite:", "sqlite:PATH", nil},
		{"memory", "sqlite::memory:", "names no file", nil},
		{"host in a file url", "sqlite://host/path", "names no file", nil},
		{"no directory", "sqlite:/nonexistent/dir/x.db", "/nonexistent/dir does not exist", nil},
		{"a directory", "sqlite:" + t.TempDir(), "is a directory", sqldb.ErrUnavailable},
		{"not a database", "sqlite:" + notADatabase, "not a database", sqldb.ErrUnavailable},
		{"unreadable url", "postgres://user:" + password + "%zz@localhost/x", "percent-encoded", nil},
		{"nobody listens", fmt.Sprintf("postgres://user:%s@127.0.0.1:%d/x?sslmode=disable", password, closedPort),
			"refused", sqldb.ErrUnavailable},
		{"no such database", strings.Replace(sqldbtest.Postgres(t), "/test_", "/absent_", 1), "does not exist", sqldb.ErrUnavailable},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			db, err := sqldb.Open(t.Context(), tt.url, testSchema)
			if err == nil {
				db.Close()
				t.Fatal("opened")
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %q does not say %q", err, tt.want)
			}
			if tt.typed != nil && !errors.Is(err, tt.typed) {
				t.Errorf("error %q is not %q", err, tt.typed)
			}
			if strings.Contains(err.Error(), password) || strings.Contains(fmt.Sprintf("%+v", err), password) {
				t.Errorf("error shows the password: %q", err)
			}
		})
	}
}

// max_page_count makes SQLite full without filling a disk.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	db := open(t, sqldbtest.SQLite(t))
	err := db.Tx(t.Context(), func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(t.Context(), `PRAGMA max_page_count = 20`); err != nil {
			return err
		}
		for i := range 2000 {
			_, err := tx.ExecContext(t.Context(), `INSERT INTO counter (id, name, n) VALUES ($1, $2, $3)`, i+10, strings.Repeat("x", 1000), 0)
			if err != nil {
				return err
			}
		}
		return nil
	})
	if !errors.Is(err, sqldb.ErrFull) {
		t.Fatalf("got %v, want ErrFull", err)
	}
	if got := counter(t, db, 1); got != 0 {
		t.Errorf("counter is %d, want 0", got)
	}
}

// A server that ends a connection in the middle is told from a refusal, and the next transaction works.
func TestConnectionLost(t *testing.T) {
	t.Parallel()
	db := open(t, sqldbtest.Postgres(t))
	err := db.Tx(t.Context(), func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(t.Context(), `UPDATE counter SET n = 5 WHERE id = 1`); err != nil {
			return err
		}
		_, err := tx.ExecContext(t.Context(), `SELECT pg_terminate_backend(pg_backend_pid())`)
		return err
	})
	if !errors.Is(err, sqldb.ErrUnavailable) {
		t.Errorf("got %v, want ErrUnavailable", err)
	}
	if got := counter(t, db, 1); got != 0 {
		t.Errorf("counter is %d, want 0: nothing was committed", got)
	}
}
