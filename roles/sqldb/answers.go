package sqldb

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// AnswerKey names a request for the purpose of answering it once (SET §7.9).
type AnswerKey struct {
	Peer    string   // who asked, as its certificate names it; "" when the message is not signed
	Message string   // type of the request, e.g. "PReq"
	RRPID   [20]byte // of the request's wrapper
}

var (
	// ErrConflict says that a request of this key was answered before and had other bytes. It must
	// be refused, and must change nothing.
	ErrConflict = errors.New("request identifier was used before for a different request")

	// ErrAnswered says that the request was answered while this answer was being made. The caller
	// rolls back, which undoes its work, and sends what [DB.Answer] then gives.
	ErrAnswered = errors.New("request was answered meanwhile")
)

// Answer finds the response that was given to a request, where digest is the SHA-256 of the request's
// bytes. A different digest under the same key is [ErrConflict]. An expired answer is given as long as
// it is still stored.
func (d *DB) Answer(ctx context.Context, key AnswerKey, digest [sha256.Size]byte) (response []byte, found bool, err error) {
	err = d.View(ctx, func(tx *sql.Tx) error {
		var stored []byte
		err := tx.QueryRowContext(ctx,
			`SELECT request_digest, response FROM sqldb_answer WHERE peer = $1 AND message = $2 AND rrpid = $3`,
			key.Peer, key.Message, key.RRPID[:]).Scan(&stored, &response)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("look up the stored answer of a %s: %w", key.Message, err)
		}
		if !bytes.Equal(stored, digest[:]) {
			response = nil
			return fmt.Errorf("%s: %w", key.Message, ErrConflict)
		}
		found = true
		return nil
	})
	return response, found, err
}

// SaveAnswer stores the response to a request in the transaction that did the request's work, so that
// either both are kept or neither. If the key has an answer already, it is [ErrAnswered] and the
// transaction must be rolled back: of two copies of a request that are worked on at the same time,
// one wins. The answer is kept until expires, which is at least the freshness window of the message.
func (d *DB) SaveAnswer(ctx context.Context, tx *sql.Tx, key AnswerKey, digest [sha256.Size]byte, response []byte, expires time.Time) error {
	res, err := tx.ExecContext(ctx,
		`INSERT INTO sqldb_answer (peer, message, rrpid, request_digest, response, expires_s)
		 VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING`,
		key.Peer, key.Message, key.RRPID[:], digest[:], response, expires.Unix())
	if err != nil {
		return fmt.Errorf("store the answer to a %s: %w", key.Message, err)
	}
	if n, err := res.RowsAffected(); err != nil || n != 1 {
		return errors.Join(fmt.Errorf("%s: %w", key.Message, ErrAnswered), err)
	}
	return nil
}

// ExpireAnswers removes the answers that expired before now.
func (d *DB) ExpireAnswers(ctx context.Context, now time.Time) (removed int64, err error) {
	err = d.Tx(ctx, func(tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, `DELETE FROM sqldb_answer WHERE expires_s < $1`, now.Unix())
		if err != nil {
			return fmt.Errorf("remove expired answers: %w", err)
		}
		removed, err = res.RowsAffected()
		return err
	})
	return removed, err
}
