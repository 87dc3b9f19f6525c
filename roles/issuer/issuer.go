// Package issuer is the cardholder's bank: accounts, and the answers to the requests of the financial
// network.
//
// # Money
//
// An account has three amounts: available, held for approved authorizations, and booked for cleared
// captures. Their sum changes by nothing but an import: a hold moves from available to held, a reversal
// or a lapse back, a clearing from held to booked, a refund from booked to available. Every movement is a row of the ledger, written in the
// transaction that moves; no amount is ever negative.
//
// # Rules
//
// An authorization is named by acquirer, STAN, retrieval reference number and transmission time. The
// same name again gets the stored answer and moves nothing; it gets "duplicate" when the card, amount,
// merchant or XID differ, and "invalid transaction" when the authorization was reversed or has lapsed
// meanwhile. An account pays in its own currency only: another is an invalid transaction.
//
// A reversal releases the hold, or as much of it as is more than what remains authorized. One that comes before
// its authorization is remembered, and the authorization is then refused. One for what was cleared is an
// invalid transaction, because the money is no longer held.
//
// A clearing books its amount, at most the authorized one, and releases the rest: one clearing ends an
// authorization. A clearing without an authorization is "unknown original". What is not held, because the
// hold has lapsed, is booked if it is available, and the clearing refused for insufficient funds otherwise. It
// is booked also when the account was blocked after the authorization.
//
// A clearing that is taken back leaves the authorization as it was before; if its money was spent meanwhile,
// less of it is held. Refunds pay back at most what was cleared, and what was refunded is not
// taken back. A refund is taken back if the account still has the money. What is taken back before it comes is
// refused when it comes.
//
// Clearings, refunds and what takes them back are named as authorizations are, and belong to the settlement
// that they name. It is closed when the acquirer and this bank have the same totals of it, and takes nothing
// new then.
//
// An account check compares card number, expiry, name and registration secret. Whatever does not match,
// the answer is "do not honour", after the same work. After 5 failed checks of a card number every
// check of it fails, until an operator resets it; numbers without an account are treated alike.
//
// # What is stored of a card
//
// The number, expiry and name are sealed by an HSM key. The number is looked up, and everything that a
// request presents is compared, by HMACs under another HSM key; so neither numbers, expiries, names nor
// secrets, all of which are few enough to be guessed, can be searched by who has the database.
package issuer

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"time"

	"github.com/setkit/setkit/roles/finnet"
	"github.com/setkit/setkit/roles/sqldb"
)

//go:embed migrations/*.sql
var migrations embed.FS

// MAC computes HMAC-SHA-256 under the key that finds and compares card data. It must be usable by
// several goroutines.
type MAC interface {
	Sum(data []byte) ([]byte, error)
}

// Sealer encrypts and authenticates under the key that protects card data at rest. It must be usable by
// several goroutines. Open refuses what was not sealed with the same aad.
type Sealer interface {
	Seal(plaintext, aad []byte) ([]byte, error)
	Open(sealed, aad []byte) ([]byte, error)
}

// Config is what an Issuer needs.
type Config struct {
	Database string // URL for sqldb.Open
	Lookup   MAC
	Sealer   Sealer
	HoldDays int              // how long an approved authorization holds its amount; 1 to 365
	Log      *slog.Logger     // gets no card data
	Now      func() time.Time // nil: time.Now
}

const (
	holdDaysMax       = 365
	housekeepingEvery = time.Minute
)

// Issuer holds the accounts and decides. It may be used by several goroutines, and several processes may
// work on one database.
type Issuer struct {
	db   *sqldb.DB
	mac  MAC
	seal Sealer
	hold time.Duration
	log  *slog.Logger
	now  func() time.Time
}

var _ finnet.Host = (*Issuer)(nil)

// Open opens an issuer's database, and creates it if need be.
func Open(ctx context.Context, c Config) (*Issuer, error) {
	if c.HoldDays < 1 || c.HoldDays > holdDaysMax {
		return nil, fmt.Errorf("holds of %d days: want 1 to %d", c.HoldDays, holdDaysMax)
	}
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, err
	}
	db, err := sqldb.Open(ctx, c.Database, files)
	if err != nil {
		return nil, err
	}
	i := &Issuer{
		db: db, mac: c.Lookup, seal: c.Sealer, log: c.Log, now: c.Now,
		hold: time.Duration(c.HoldDays) * 24 * time.Hour,
	}
	if i.now == nil {
		i.now = time.Now
	}
	return i, nil
}

// Close closes the database.
func (i *Issuer) Close() error { return i.db.Close() }

// Serve answers acquirers on ln, and releases lapsed holds, until ctx ends.
func (i *Issuer) Serve(ctx context.Context, ln net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		i.keepHouse(ctx)
	}()
	err := finnet.Serve(ctx, ln, i, i.log)
	cancel()
	<-done
	return err
}

func (i *Issuer) keepHouse(ctx context.Context) {
	tick := time.NewTicker(housekeepingEvery)
	defer tick.Stop()
	for {
		if _, err := i.ReleaseLapsed(ctx); err != nil && ctx.Err() == nil {
			i.log.Error("lapsed holds cannot be released", "err", err)
		}
		if err := i.forgetChecks(ctx); err != nil && ctx.Err() == nil {
			i.log.Error("old account checks cannot be removed", "err", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
