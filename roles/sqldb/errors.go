package sqldb

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

var (
	// ErrUnavailable says that the database could not be reached or read. If it comes out of
	// [DB.Tx], the transaction may have been committed: ask again before acting.
	ErrUnavailable = errors.New("database is not reachable: check that it runs, that its url is right and that this user may use it")

	// ErrFull says that there is no space left for the database. Nothing was changed.
	ErrFull = errors.New("database has no space left on its disk: free some and retry")

	// ErrBusy says that other transactions stood in the way of this one for every attempt that
	// [DB.Tx] makes. Nothing was changed; the same call may be made again.
	ErrBusy = errors.New("database is busy: retry later")
)

// classify puts the typed error that a caller may act on in front of what the driver said.
func classify(err error) error {
	if err == nil {
		return nil
	}
	for _, typed := range []error{ErrUnavailable, ErrFull, ErrBusy} {
		if errors.Is(err, typed) {
			return err
		}
	}
	switch {
	case isFull(err):
		return fmt.Errorf("%w: %w", ErrFull, err)
	case mustRerun(err):
		return fmt.Errorf("%w: %w", ErrBusy, err)
	case isUnavailable(err):
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return err
}

// sqliteCode is the primary result code of a SQLite error, or -1.
func sqliteCode(err error) int {
	if e, ok := errors.AsType[*sqlite.Error](err); ok {
		return e.Code() & 0xff
	}
	return -1
}

// postgresCode is the SQLSTATE of a PostgreSQL error, or "".
func postgresCode(err error) string {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.Code
	}
	return ""
}

func isFull(err error) bool {
	return sqliteCode(err) == sqlite3.SQLITE_FULL || postgresCode(err) == "53100"
}

// mustRerun reports whether the engine rolled the transaction back for the sake of another one:
// running it again is right, and is the only way on.
func mustRerun(err error) bool {
	switch sqliteCode(err) {
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		return true
	}
	switch postgresCode(err) {
	case "40001", "40P01", "55P03": // serialization failure, deadlock, lock not available
		return true
	}
	return false
}

func isUnavailable(err error) bool {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return false // the caller's own limit, not the database's state
	}
	switch sqliteCode(err) {
	case sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM,
		sqlite3.SQLITE_AUTH, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT:
		return true
	}
	if code := postgresCode(err); code != "" {
		switch code[:2] {
		case "08", "28", "3D", "57": // connection, authorization, no such database, server going down
			return true
		}
		return strings.HasPrefix(code, "53") // out of connections or memory
	}
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return true
	}
	if _, ok := errors.AsType[*net.OpError](err); ok {
		return true
	}
	return errors.Is(err, driver.ErrBadConn) || errors.Is(err, pgconn.ErrConnClosed) || errors.Is(err, io.ErrUnexpectedEOF)
}
