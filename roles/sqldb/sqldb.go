package sqldb

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"

	_ "modernc.org/sqlite" // registers the driver "sqlite"
)

const (
	sqliteConnsMax        = 8
	postgresConnsMax      = 16
	sqliteBusyMillis      = 10_000
	connectTimeoutSeconds = 5
	migrateAttemptsMax    = 5
	migrateLockSecondsMax = 60
)

//go:embed migrations/*.sql
var ownMigrations embed.FS

// DB is an open database with its schema up to date.
type DB struct {
	db     *sql.DB
	driver goose.Dialect

	// writer holds one token: SQLite has one writer at a time, and waiting for it here is fair and
	// ends with the context, which waiting inside SQLite does not. It is nil for PostgreSQL.
	writer chan struct{}

	// enqueued holds the open transactions that wrote a job, so that their commit wakes every RunJobs.
	enqueued sync.Map // *sql.Tx -> struct{}
	runners  sync.Map // chan struct{} -> struct{}
}

// Open opens the database at rawURL, creates it if it is a SQLite file that does not exist, and brings
// its schema up to date: first the tables of this package, whose names begin with sqldb_, then the
// goose migrations (NNNNN_name.sql) in the root of migrations.
//
// rawURL is sqlite:PATH, or postgres://USER@HOST/DATABASE with the parameters that pgx knows. A SQLite
// file is made readable by its owner only. No error of this package shows the URL or its password.
//
// Each party has a database (or a PostgreSQL schema, through the parameter search_path) of its own.
func Open(ctx context.Context, rawURL string, migrations fs.FS) (*DB, error) {
	d, err := open(rawURL)
	if err != nil {
		return nil, err
	}
	if err := d.setUp(ctx, migrations); err != nil {
		d.db.Close()
		return nil, classify(err)
	}
	return d, nil
}

func open(rawURL string) (*DB, error) {
	scheme, rest, _ := strings.Cut(rawURL, ":")
	switch scheme {
	case "sqlite":
		return openSQLite(rest)
	case "postgres", "postgresql":
		return openPostgres(rawURL)
	}
	return nil, errors.New("database url has an unknown scheme: write sqlite:PATH or postgres://USER@HOST/DATABASE")
}

func openSQLite(path string) (*DB, error) {
	if path == "" || strings.HasPrefix(path, "//") || strings.HasPrefix(path, ":") {
		return nil, errors.New("database url names no file: write sqlite:PATH, e.g. sqlite:/var/lib/set/issuer.db")
	}
	if dir := filepath.Dir(path); !isDir(dir) {
		return nil, fmt.Errorf("database directory %s does not exist: create it first", dir)
	}
	// SQLite gives its -wal and -shm files the mode of the database, so this covers all three.
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	err = errors.Join(f.Chmod(0o600), f.Close())
	if err != nil {
		return nil, fmt.Errorf("make database %s private to its owner: %w", path, err)
	}
	params := url.Values{
		"_journal_mode": {"WAL"},
		"_synchronous":  {"FULL"},
		"_foreign_keys": {"1"},
		"_busy_timeout": {fmt.Sprint(sqliteBusyMillis)},
		"_txlock":       {"immediate"},
		"_dqs":          {"0"},
	}
	escaped := strings.NewReplacer("%", "%25", "?", "%3f", "#", "%23").Replace(path)
	db, err := sql.Open("sqlite", "file:"+escaped+"?"+params.Encode())
	if err != nil {
		return nil, fmt.Errorf("open database %s: %w", path, err)
	}
	db.SetMaxOpenConns(sqliteConnsMax)
	return &DB{db: db, driver: goose.DialectSQLite3, writer: make(chan struct{}, 1)}, nil
}

func openPostgres(rawURL string) (*DB, error) {
	cfg, err := pgx.ParseConfig(rawURL)
	if err != nil {
		// pgx's error holds the URL, whose password it cannot always find to mask.
		return nil, errors.New("database url is not a PostgreSQL url that can be read: write postgres://USER:PASSWORD@HOST:PORT/DATABASE?PARAMETER=VALUE, with special characters percent-encoded")
	}
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = connectTimeoutSeconds * time.Second
	}
	db := stdlib.OpenDB(*cfg)
	db.SetMaxOpenConns(postgresConnsMax)
	db.SetMaxIdleConns(postgresConnsMax)
	db.SetConnMaxIdleTime(5 * time.Minute)
	return &DB{db: db, driver: goose.DialectPostgres}, nil
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

func (d *DB) setUp(ctx context.Context, migrations fs.FS) error {
	if err := d.db.PingContext(ctx); err != nil {
		return err
	}
	own, err := fs.Sub(ownMigrations, "migrations")
	if err != nil {
		return err
	}
	if err := d.migrate(ctx, own, "sqldb_version"); err != nil {
		return err
	}
	return d.migrate(ctx, migrations, "schema_version")
}

// migrate applies what is missing. Of several processes that start together on PostgreSQL, one migrates
// and the others wait. SQLite has no such lock: there, the loser of the race fails on a table that
// the winner made, looks again and finds nothing left to do.
func (d *DB) migrate(ctx context.Context, files fs.FS, table string) error {
	opts := []goose.ProviderOption{
		goose.WithTableName(table),
		goose.WithDisableGlobalRegistry(true),
		goose.WithSlog(slog.New(slog.DiscardHandler)),
	}
	attempts := migrateAttemptsMax
	if d.driver == goose.DialectPostgres {
		locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, migrateLockSecondsMax))
		if err != nil {
			return err
		}
		opts = append(opts, goose.WithSessionLocker(locker))
		attempts = 1
	}
	p, err := goose.NewProvider(d.driver, d.db, files, opts...)
	if errors.Is(err, goose.ErrNoMigrations) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the migrations of %s: %w", table, err)
	}
	for {
		attempts--
		if _, err = p.Up(ctx); err == nil {
			return nil
		}
		if attempts <= 0 || wait(ctx, retryPause(migrateAttemptsMax-attempts)) != nil {
			return fmt.Errorf("bring the schema up to date: %w", err)
		}
	}
}

// Ping reports whether the database answers; its error is [ErrUnavailable] when it does not.
func (d *DB) Ping(ctx context.Context) error { return classify(d.db.PingContext(ctx)) }

// Close closes the database. Transactions still open fail.
func (d *DB) Close() error { return d.db.Close() }
