package sqldb

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/pressly/goose/v3"
)

const (
	txAttemptsMax    = 12
	txRetryTimeMax   = 15 * time.Second
	retryPauseMinMs  = 4
	retryPauseMaxMs  = 500
	retryDoublingMax = 7
)

// Tx runs fn in one serializable transaction: commits when fn returns nil, rolls back otherwise.
//
// When the engine asks for it, Tx runs fn again, a bounded number of times and then gives [ErrBusy]. So
// fn does nothing but work in tx: no message is sent from it, and what it leaves in variables of its
// caller is set anew by every run. Errors of fn come back wrapped or as they are, and must not hide the
// driver's error from [errors.As]. fn must not call Tx, View or anything that does.
func (d *DB) Tx(ctx context.Context, fn func(tx *sql.Tx) error) error {
	if d.writer != nil {
		select {
		case d.writer <- struct{}{}:
			defer func() { <-d.writer }()
		case <-ctx.Done():
			return fmt.Errorf("wait for the database's writer: %w", ctx.Err())
		}
	}
	start := time.Now()
	for attempt := 1; ; attempt++ {
		err := d.tryTx(ctx, fn)
		if err == nil || !mustRerun(err) {
			return classify(err)
		}
		if attempt == txAttemptsMax || time.Since(start) > txRetryTimeMax {
			return fmt.Errorf("%w: gave up after %d attempts: %w", ErrBusy, attempt, err)
		}
		if wait(ctx, retryPause(attempt)) != nil {
			return fmt.Errorf("%w: %w", ErrBusy, ctx.Err())
		}
	}
}

func (d *DB) tryTx(ctx context.Context, fn func(tx *sql.Tx) error) error {
	opts := &sql.TxOptions{}
	if d.driver == goose.DialectPostgres {
		opts.Isolation = sql.LevelSerializable
	}
	tx, err := d.db.BeginTx(ctx, opts)
	if err != nil {
		return fmt.Errorf("begin transaction: %w", err)
	}
	defer tx.Rollback() // does nothing after Commit
	defer d.enqueued.Delete(tx)
	if err := fn(tx); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("commit transaction: %w", err)
	}
	if _, ok := d.enqueued.Load(tx); ok {
		d.wakeRunners()
	}
	return nil
}

// View runs fn in a read-only transaction that sees one state of the database throughout and hinders
// no writer. fn must not write.
func (d *DB) View(ctx context.Context, fn func(tx *sql.Tx) error) error {
	opts := &sql.TxOptions{ReadOnly: true}
	if d.driver == goose.DialectPostgres {
		opts.Isolation = sql.LevelRepeatableRead
	}
	tx, err := d.db.BeginTx(ctx, opts)
	if err != nil {
		return classify(fmt.Errorf("begin reading: %w", err))
	}
	defer tx.Rollback()
	return classify(fn(tx))
}

// retryPause grows with the attempt and is spread at random, so that transactions that met once do not
// meet again.
func retryPause(attempt int) time.Duration {
	p := time.Duration(min(retryPauseMinMs<<min(attempt, retryDoublingMax), retryPauseMaxMs)) * time.Millisecond
	return p/2 + spread(p)
}

// spread gives a part of a pause. It comes from the same source as identifiers, so that whoever seeds that, in a
// test, seeds everything.
func spread(d time.Duration) time.Duration {
	var b [8]byte
	rand.Read(b[:])
	return time.Duration(binary.LittleEndian.Uint64(b[:]) % uint64(d))
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
