package ca

import (
	"context"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/sqldb"
)

// Operator is a person at work on a CA's database. All that is done leaves an entry in the audit trail, in
// the same transaction.
type Operator struct {
	DB  *sqldb.DB
	Who string
	Now func() time.Time
}

// do makes a change and records it.
func (op *Operator) do(ctx context.Context, action, object, detail string, change func(*sql.Tx) error) error {
	return op.DB.Tx(ctx, func(tx *sql.Tx) error {
		if err := change(tx); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO audit (number, at_s, who, action, object, detail)
			SELECT COALESCE(MAX(number), 0) + 1, $1, $2, $3, $4, $5 FROM audit`, op.Now().Unix(), op.Who, action, object, detail)
		if err != nil {
			return fmt.Errorf("write the audit trail: %w", err)
		}
		return nil
	})
}

// Entry is one of the audit trail.
type Entry struct {
	Number int64     `json:"number"`
	At     time.Time `json:"at"`
	Who    string    `json:"who"`
	Action string    `json:"action"`
	Object string    `json:"object"`
	Detail string    `json:"detail"`
}

// Audit gives up to limit entries of the audit trail, the latest first.
func (op *Operator) Audit(ctx context.Context, limit int) (list []Entry, err error) {
	err = op.DB.View(ctx, func(tx *sql.Tx) error {
		list = []Entry{}
		rows, err := tx.QueryContext(ctx, `SELECT number, at_s, who, action, object, detail FROM audit ORDER BY number DESC LIMIT $1`, limit)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var e Entry
			var at int64
			if err := rows.Scan(&e.Number, &at, &e.Who, &e.Action, &e.Object, &e.Detail); err != nil {
				return err
			}
			e.At = time.Unix(at, 0).UTC()
			list = append(list, e)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("read the audit trail: %w", err)
	}
	return list, nil
}

// Application is a certificate request as an operator sees it. It shows nothing of a card but its BIN.
type Application struct {
	ID         string     `json:"id"`
	CA         string     `json:"ca"`
	State      string     `json:"state"`
	Type       string     `json:"type"`
	Registrant string     `json:"registrant,omitempty"` // the merchant or gateway
	BIN        string     `json:"bin,omitempty"`        // of a cardholder's card
	Renews     string     `json:"renews,omitempty"`     // thumbprint of the certificate that is renewed
	Keys       []string   `json:"keys"`                 // to be certified: SHA-256 of their SubjectPublicKeyInfo
	AskedAt    time.Time  `json:"askedAt"`
	DecidedAt  *time.Time `json:"decidedAt,omitempty"`
	DecidedBy  string     `json:"decidedBy,omitempty"`
	Message    string     `json:"message,omitempty"` // that the requester is told
}

// Applications gives up to limit requests, the latest first; only those that wait for approval unless all.
func (op *Operator) Applications(ctx context.Context, all bool, limit int) ([]Application, error) {
	where, args := `state = $2`, []any{limit, string(waiting)}
	if all {
		where, args = `1 = 1`, args[:1]
	}
	return op.applications(ctx, `WHERE `+where+` ORDER BY asked_s DESC, lid_ca LIMIT $1`, args...)
}

// Application gives the one request whose ID begins like this.
func (op *Operator) Application(ctx context.Context, id string) (*Application, error) {
	id = strings.ToLower(id)
	if len(id) < idDigitsMin || strings.Trim(id, "0123456789abcdef") != "" {
		return nil, fmt.Errorf("request %q: want at least %d digits of the ID that set-ca requests list shows", id, idDigitsMin)
	}
	// There are few enough to look through, and no way to search octets by prefix that both engines have.
	list, err := op.applications(ctx, `ORDER BY asked_s DESC`)
	if err != nil {
		return nil, err
	}
	var found *Application
	for i := range list {
		switch {
		case !strings.HasPrefix(list[i].ID, id):
		case found != nil:
			return nil, fmt.Errorf("request %q: several begin like this: give more digits", id)
		default:
			found = &list[i]
		}
	}
	if found == nil {
		return nil, fmt.Errorf("request %q: there is none", id)
	}
	return found, nil
}

// idDigitsMin is how much of an ID must be given.
const idDigitsMin = 6

func (op *Operator) applications(ctx context.Context, query string, args ...any) (list []Application, err error) {
	err = op.DB.View(ctx, func(tx *sql.Tx) error {
		list = []Application{}
		rows, err := tx.QueryContext(ctx, `SELECT `+applicationColumns+`, decided_s, decided_by FROM application `+query, args...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			a, err := scanListed(rows)
			if err != nil {
				return err
			}
			list = append(list, *a)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("read the requests: %w", err)
	}
	return list, nil
}

// decidedRow scans an application with who decided on it.
type decidedRow struct {
	rows    *sql.Rows
	decided *int64
	by      *string
}

func (d decidedRow) Scan(into ...any) error { return d.rows.Scan(append(into, d.decided, d.by)...) }

func scanListed(rows *sql.Rows) (*Application, error) {
	var decided int64
	var by string
	a, err := scanApplication(decidedRow{rows, &decided, &by})
	if err != nil {
		return nil, err
	}
	out := &Application{
		ID: a.id(), CA: a.ca, State: string(a.state), Type: a.typ.String(), Registrant: a.registrant, BIN: string(a.bin), Renews: a.renews,
		Keys: []string{}, AskedAt: a.asked.UTC(), DecidedBy: by, Message: a.message,
	}
	for _, key := range []any{a.sign, a.exchange} {
		if key == nil {
			continue
		}
		digest, err := keyDigest(key)
		if err != nil {
			return nil, err
		}
		out.Keys = append(out.Keys, hex.EncodeToString(digest))
	}
	if decided != 0 {
		at := time.Unix(decided, 0).UTC()
		out.DecidedAt = &at
	}
	return out, nil
}

// Approve lets a request that waits be certified. That happens when the requester asks again.
func (op *Operator) Approve(ctx context.Context, a *Application) error {
	return op.decide(ctx, "approve request", a, approved, set.RequestPended, waitingMessage)
}

// reasonCharsMax is the longest reason that a requester can be told.
const reasonCharsMax = 128

// Reject refuses a request that waits. The requester is told the reason.
func (op *Operator) Reject(ctx context.Context, a *Application, reason string) error {
	if n := len([]rune(reason)); n == 0 || n > reasonCharsMax {
		return fmt.Errorf("the reason, which the requester is told, has %d characters: want 1 to %d", n, reasonCharsMax)
	}
	return op.decide(ctx, "reject request", a, rejected, set.RejectedByCA, reason)
}

func (op *Operator) decide(ctx context.Context, action string, a *Application, next applicationState, code set.CertStatusCode, message string) error {
	lid, err := hex.DecodeString(a.ID)
	if err != nil {
		return err
	}
	detail := a.Type
	if next == rejected {
		detail += ": " + message
	}
	now := op.Now().Unix()
	return op.do(ctx, action, a.ID, detail, func(tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, `UPDATE application SET state = $1, status = $2, message = $3, decided_s = $4, decided_by = $5
			WHERE ca = $6 AND lid_ca = $7 AND state = $8 AND expires_s >= $4`,
			string(next), int64(code), message, now, op.Who, a.CA, lid, string(waiting))
		if err != nil {
			return fmt.Errorf("%s: %w", action, err)
		}
		if n, err := res.RowsAffected(); err != nil || n != 1 {
			return errors.Join(err, fmt.Errorf("request %s does not wait for approval any more: it is %s", a.ID, a.State))
		}
		return nil
	})
}
