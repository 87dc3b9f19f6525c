package wallet

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/setkit/setkit/roles/set"
)

// place is that of a message in the course of a purchase, as it is stored.
type place int

const (
	placeInitiation place = iota + 1
	placePInitReq
	placePInitRes
	placePReq
	placePRes
	placeInqReq
	placeInqRes
)

// Message is what the wallet and the merchant said to each other: the shop's initiation message, then SET
// messages as they were on the wire.
type Message struct {
	At     time.Time
	Sent   bool // by the wallet; else it came from the merchant
	Octets []byte
}

// passed is a message that is to be stored, or was.
type passed struct {
	place  place
	at     time.Time
	octets []byte
}

// keep stores messages of a purchase. Of each kind the last one stays.
func keep(ctx context.Context, tx *sql.Tx, xid string, messages ...passed) error {
	for _, m := range messages {
		_, err := tx.ExecContext(ctx, `INSERT INTO message (xid, place, octets, at_ms) VALUES ($1, $2, $3, $4)
			ON CONFLICT (xid, place) DO UPDATE SET octets = excluded.octets, at_ms = excluded.at_ms`,
			xid, int(m.place), m.octets, m.at.UnixMilli())
		if err != nil {
			return err
		}
	}
	return nil
}

// payment gives the stored octets of a payment.
func (w *Wallet) payment(ctx context.Context, xid set.XID) (octets []byte, err error) {
	err = w.db.View(ctx, func(tx *sql.Tx) error {
		return tx.QueryRowContext(ctx, `SELECT octets FROM message WHERE xid = $1 AND place = $2`, xid.String(), int(placePReq)).Scan(&octets)
	})
	if err != nil {
		return nil, fmt.Errorf("read the payment of purchase %v: %w", xid, err)
	}
	return octets, nil
}

// Messages gives what the wallet and the merchant said to each other about a purchase, in its order. Of each
// kind of message it is the last: the last inquiry that was answered, and the answers that were verified. What
// the merchant and others say to each other no wallet ever sees. A purchase of an earlier version of this
// program has the payment and its answer only.
func (w *Wallet) Messages(ctx context.Context, xid set.XID) ([]Message, error) {
	var all []Message
	err := w.db.View(ctx, func(tx *sql.Tx) error {
		all = nil
		var there int
		if err := tx.QueryRowContext(ctx, `SELECT 1 FROM purchase WHERE xid = $1`, xid.String()).Scan(&there); err != nil {
			return err
		}
		rows, err := tx.QueryContext(ctx, `SELECT place, octets, at_ms FROM message WHERE xid = $1 ORDER BY place`, xid.String())
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var p place
			var m Message
			var at int64
			if err := rows.Scan(&p, &m.Octets, &at); err != nil {
				return err
			}
			m.At, m.Sent = time.UnixMilli(at), p == placePInitReq || p == placePReq || p == placeInqReq
			all = append(all, m)
		}
		return rows.Err()
	})
	if errors.Is(err, sql.ErrNoRows) {
		return nil, fmt.Errorf("%w: %v", ErrUnknownPurchase, xid)
	}
	if err != nil {
		return nil, fmt.Errorf("read the messages of purchase %v: %w", xid, err)
	}
	return all, nil
}
