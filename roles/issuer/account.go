package issuer

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/setkit/setkit/roles/finnet"
	"github.com/setkit/setkit/roles/set"
)

// Status says what an account may be used for.
type Status string

// The statuses. Only an active account gets authorizations and passes account checks.
const (
	Active  Status = "active"
	Blocked Status = "blocked"
	Stolen  Status = "stolen"
	Closed  Status = "closed"
)

// Account is an account to be imported.
type Account struct {
	ID        string
	PAN       set.PAN
	Expiry    set.CardExpiry
	Holder    string
	Available set.CurrencyAmount
	Status    Status
	Secret    []byte // registration secret
}

// Summary is an account as it is shown. The card number is masked.
type Summary struct {
	ID        string
	Holder    string
	PAN       string
	Status    Status
	Available set.CurrencyAmount
	Held      set.CurrencyAmount
	Booked    set.CurrencyAmount

	// ChecksFailed counts failed account checks in a row; at 5, every further one fails.
	ChecksFailed int
}

// account is what deciding needs of an account.
type account struct {
	id        string
	card      []byte
	holder    []byte
	secret    []byte
	status    Status
	currency  set.Currency
	available int64
}

// findAccount gives nil if there is none.
func findAccount(ctx context.Context, tx *sql.Tx, panMAC []byte) (*account, error) {
	var a account
	err := tx.QueryRowContext(ctx,
		`SELECT id, card_mac, holder_mac, secret_mac, status, currency, available FROM account WHERE pan_mac = $1`, panMAC).
		Scan(&a.id, &a.card, &a.holder, &a.secret, &a.status, &a.currency, &a.available)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look up account: %w", err)
	}
	return &a, nil
}

func (a *account) nullID() sql.NullString {
	if a == nil {
		return sql.NullString{}
	}
	return sql.NullString{String: a.id, Valid: true}
}

// Import adds accounts, all or none, and says how many were new. One whose ID and card number are known
// together is left as it is, so that an import can be repeated; one of them alone is an error.
func (i *Issuer) Import(ctx context.Context, accounts []Account) (added int, err error) {
	rows := make([]newAccount, len(accounts))
	for n, a := range accounts {
		if rows[n], err = i.prepare(a); err != nil {
			return 0, err
		}
	}
	err = i.db.Tx(ctx, func(tx *sql.Tx) error {
		added = 0
		for _, row := range rows {
			isNew, err := i.add(ctx, tx, row)
			if err != nil {
				return err
			}
			if isNew {
				added++
			}
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	return added, nil
}

// newAccount is an account in the form in which it is stored.
type newAccount struct {
	id       string
	macs     macs
	sealed   []byte
	status   Status
	currency set.Currency
	opening  int64
}

func (i *Issuer) prepare(a Account) (row newAccount, err error) {
	if err := a.check(); err != nil {
		return row, fmt.Errorf("account %q: %w", a.ID, err)
	}
	row = newAccount{id: a.ID, status: a.Status, currency: a.Available.Currency}
	if row.opening, err = finnet.MinorUnits(a.Available); err != nil {
		return row, fmt.Errorf("account %q: %w", a.ID, err)
	}
	if row.macs, err = i.allMACs(a.PAN, a.Expiry, a.Holder, a.Secret); err != nil {
		return row, err
	}
	row.sealed, err = i.sealCard(a.ID, a.PAN, a.Expiry, a.Holder)
	return row, err
}

func (i *Issuer) add(ctx context.Context, tx *sql.Tx, row newAccount) (isNew bool, err error) {
	res, err := tx.ExecContext(ctx,
		`INSERT INTO account (id, pan_mac, card_mac, holder_mac, secret_mac, sealed, status, currency, available, held, booked, entries)
		 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 0, 0, 0, 0) ON CONFLICT DO NOTHING`,
		row.id, row.macs.pan, row.macs.card, row.macs.holder, row.macs.secret, row.sealed, string(row.status), int64(row.currency))
	if err != nil {
		return false, fmt.Errorf("store account %s: %w", row.id, err)
	}
	n, err := res.RowsAffected()
	if err != nil {
		return false, fmt.Errorf("store account %s: %w", row.id, err)
	}
	if n == 1 {
		return true, move(ctx, tx, row.id, entryOpening, finnet.Trace{}, i.now(), movement{available: row.opening})
	}
	known, err := findAccount(ctx, tx, row.macs.pan)
	if err != nil {
		return false, err
	}
	switch {
	case known == nil:
		return false, fmt.Errorf("account %q exists with another card number", row.id)
	case known.id != row.id:
		return false, fmt.Errorf("account %q has the card number of account %q", row.id, known.id)
	}
	return false, nil
}

// Accounts lists all accounts by ID, as they were at one moment.
func (i *Issuer) Accounts(ctx context.Context) ([]Summary, error) {
	type stored struct {
		Summary
		sealed                  []byte
		currency                set.Currency
		available, held, booked int64
	}
	var all []stored
	err := i.db.View(ctx, func(tx *sql.Tx) error {
		all = nil
		rows, err := tx.QueryContext(ctx,
			`SELECT id, sealed, status, currency, available, held, booked, COALESCE(failures, 0)
			 FROM account LEFT JOIN failed_check ON failed_check.pan_mac = account.pan_mac ORDER BY id`)
		if err != nil {
			return fmt.Errorf("list accounts: %w", err)
		}
		defer rows.Close()
		for rows.Next() {
			var s stored
			if err := rows.Scan(&s.ID, &s.sealed, &s.Status, &s.currency, &s.available, &s.held, &s.booked, &s.ChecksFailed); err != nil {
				return fmt.Errorf("list accounts: %w", err)
			}
			all = append(all, s)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, err
	}
	list := make([]Summary, len(all))
	for n, s := range all {
		pan, holder, err := i.openCard(s.ID, s.sealed)
		if err != nil {
			return nil, err
		}
		s.Holder, s.PAN = holder, pan.Masked()
		clear(pan)
		s.Available = finnet.FromMinorUnits(s.available, s.currency)
		s.Held = finnet.FromMinorUnits(s.held, s.currency)
		s.Booked = finnet.FromMinorUnits(s.booked, s.currency)
		list[n] = s.Summary
	}
	return list, nil
}
