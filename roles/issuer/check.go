package issuer

import (
	"context"
	"crypto/subtle"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/setkit/setkit/roles/finnet"
)

const (
	failedChecksMax = 5
	checksKeptFor   = 7 * 24 * time.Hour
)

// ErrNoAccount says that there is no account of a given ID.
var ErrNoAccount = errors.New("there is no such account: list them with accounts")

// Verify tells whether someone is the cardholder of an active account: [finnet.Approved], or
// [finnet.DoNotHonour] for whatever reason.
func (i *Issuer) Verify(ctx context.Context, c *finnet.AccountCheck) (code finnet.ResponseCode, err error) {
	given, err := i.allMACs(c.PAN, c.Expiry, c.Holder, c.Secret)
	if err != nil {
		return "", err
	}
	request, err := i.sum("check", []byte(c.Acquirer), []byte(c.STAN), []byte(c.RRN), []byte(c.Transmission),
		given.card, given.holder, given.secret)
	if err != nil {
		return "", err
	}
	locked := ""
	err = i.db.Tx(ctx, func(tx *sql.Tx) error {
		locked = ""
		var repeated bool
		if code, repeated, err = answeredCheck(ctx, tx, c.Trace, request); err != nil || repeated {
			return err
		}
		acct, err := findAccount(ctx, tx, given.pan)
		if err != nil {
			return err
		}
		failures, err := failedChecks(ctx, tx, given.pan)
		if err != nil {
			return err
		}
		now := i.now()
		code = finnet.DoNotHonour
		switch {
		case failures >= failedChecksMax:
		case acct.matches(given) && acct.status == Active && !expired(c.Expiry, now):
			code = finnet.Approved
			err = forgetFailures(ctx, tx, given.pan)
		default:
			err = countFailure(ctx, tx, given.pan, now)
			if failures+1 == failedChecksMax && acct != nil {
				locked = acct.id
			}
		}
		if err != nil {
			return err
		}
		return keepCheck(ctx, tx, c.Trace, request, code, now)
	})
	if err != nil {
		return "", err
	}
	if locked != "" {
		i.log.Warn("account checks are refused from now on: too many failed", "account", locked, "failed", failedChecksMax)
	}
	return code, nil
}

// matches compares all that was given in constant time. It takes as long when there is no account.
func (a *account) matches(given macs) bool {
	stored := account{card: make([]byte, len(given.card)), holder: make([]byte, len(given.holder)), secret: make([]byte, len(given.secret))}
	exists := 0
	if a != nil {
		stored, exists = *a, 1
	}
	return exists&
		subtle.ConstantTimeCompare(stored.card, given.card)&
		subtle.ConstantTimeCompare(stored.holder, given.holder)&
		subtle.ConstantTimeCompare(stored.secret, given.secret) == 1
}

// answeredCheck looks for the answer that a check of the same name got. One with other content is a
// duplicate.
func answeredCheck(ctx context.Context, tx *sql.Tx, t finnet.Trace, request []byte) (code finnet.ResponseCode, found bool, err error) {
	var stored []byte
	err = tx.QueryRowContext(ctx,
		`SELECT request_mac, code FROM account_check WHERE acquirer = $1 AND stan = $2 AND rrn = $3 AND transmission = $4`,
		string(t.Acquirer), t.STAN, t.RRN, t.Transmission).Scan(&stored, &code)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return "", false, nil
	case err != nil:
		return "", false, fmt.Errorf("look up account check %s: %w", t.RRN, err)
	case subtle.ConstantTimeCompare(stored, request) != 1:
		return finnet.Duplicate, true, nil
	}
	return code, true, nil
}

func keepCheck(ctx context.Context, tx *sql.Tx, t finnet.Trace, request []byte, code finnet.ResponseCode, now time.Time) error {
	_, err := tx.ExecContext(ctx,
		`INSERT INTO account_check (acquirer, stan, rrn, transmission, request_mac, code, at_s) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
		string(t.Acquirer), t.STAN, t.RRN, t.Transmission, request, string(code), now.Unix())
	if err != nil {
		return fmt.Errorf("store account check %s: %w", t.RRN, err)
	}
	return nil
}

func failedChecks(ctx context.Context, tx *sql.Tx, panMAC []byte) (n int, err error) {
	err = tx.QueryRowContext(ctx, `SELECT failures FROM failed_check WHERE pan_mac = $1`, panMAC).Scan(&n)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return 0, fmt.Errorf("count failed account checks: %w", err)
	}
	return n, nil
}

func countFailure(ctx context.Context, tx *sql.Tx, panMAC []byte, now time.Time) error {
	_, err := tx.ExecContext(ctx,
		`INSERT INTO failed_check (pan_mac, failures, at_s) VALUES ($1, 1, $2)
		 ON CONFLICT (pan_mac) DO UPDATE SET failures = failed_check.failures + 1, at_s = $2`, panMAC, now.Unix())
	if err != nil {
		return fmt.Errorf("count a failed account check: %w", err)
	}
	return nil
}

func forgetFailures(ctx context.Context, tx *sql.Tx, panMAC []byte) error {
	if _, err := tx.ExecContext(ctx, `DELETE FROM failed_check WHERE pan_mac = $1`, panMAC); err != nil {
		return fmt.Errorf("forget failed account checks: %w", err)
	}
	return nil
}

// ResetChecks lets an account be checked again after too many failed checks. An unknown ID is
// [ErrNoAccount].
func (i *Issuer) ResetChecks(ctx context.Context, id string) error {
	return i.db.Tx(ctx, func(tx *sql.Tx) error {
		var pan []byte
		err := tx.QueryRowContext(ctx, `SELECT pan_mac FROM account WHERE id = $1`, id).Scan(&pan)
		if errors.Is(err, sql.ErrNoRows) {
			return fmt.Errorf("account %q: %w", id, ErrNoAccount)
		}
		if err != nil {
			return fmt.Errorf("look up account %s: %w", id, err)
		}
		return forgetFailures(ctx, tx, pan)
	})
}

// forgetChecks removes the answers to checks that nobody repeats any more, and failures of numbers that
// no account has.
func (i *Issuer) forgetChecks(ctx context.Context) error {
	before := i.now().Add(-checksKeptFor).Unix()
	return i.db.Tx(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `DELETE FROM account_check WHERE at_s < $1`, before); err != nil {
			return fmt.Errorf("remove old account checks: %w", err)
		}
		_, err := tx.ExecContext(ctx,
			`DELETE FROM failed_check WHERE at_s < $1 AND pan_mac NOT IN (SELECT pan_mac FROM account)`, before)
		if err != nil {
			return fmt.Errorf("remove old failed checks: %w", err)
		}
		return nil
	})
}
