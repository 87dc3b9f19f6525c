// Package wallet is the cardholder's side of SET: it enrols a smart card with a cardholder CA, pays with
// it, and remembers both.
//
// The signature key and the key that opens the vault are on the card; the package sees them as
// crypto.Signer and crypto.Decrypter. Card number, expiry and the two secrets of the card are in the
// vault, encrypted to the card's key, and in memory only while a message is made with them.
//
// # Promises
//
// A payment is signed once, after the cardholder approved it, and is on disk before it is sent. Whatever
// interrupts it, the wallet sends the same octets again or asks the merchant (SET §7.6, §7.9); it never
// signs a second payment for an order whose first one may have gone through.
//
// A smart card that is lost while it signs may have made a signature that nobody has. Nothing was sent
// then; the purchase is remembered as Unsent, and only the cardholder can have it signed anew.
package wallet

import (
	"context"
	"crypto"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/sethttp"
	"github.com/setkit/setkit/roles/sqldb"
)

//go:embed migrations/*.sql
var migrations embed.FS

// databaseFile is the wallet's database inside its directory.
const databaseFile = "wallet.db"

// Card is a smart card as the wallet needs it. Its keys ask for the PIN when they are first used, and
// their errors, a wrong PIN or a card that was pulled, come back wrapped.
type Card interface {
	// Serial tells one card from another.
	Serial() string
	// Signer is the key that signs payments. Where it may have signed and the signature was lost, its error
	// wraps ErrSignatureLost; with any other error there is no signature.
	Signer() crypto.Signer
	// Decrypter is the RSA key that opens the vault. It decrypts RSAES-OAEP with SHA-256.
	Decrypter() crypto.Decrypter
	// Hold runs f, which uses the keys one after the other and waits for nothing, and returns its error.
	// The card may be kept from other programs meanwhile.
	Hold(f func() error) error
}

// ErrSignatureLost tells that a smart card may have signed and that its signature did not arrive.
var ErrSignatureLost = errors.New("the smart card's signature was lost")

// Config is what a wallet works with.
type Config struct {
	Client   *sethttp.Client
	Software set.SWIdent
	Language set.Language     // of the cardholder; empty means English
	Now      func() time.Time // nil means time.Now

	// InquiryPause is how long to wait before a merchant that has the order but no authorization yet is
	// asked again; 0 means 2 s.
	InquiryPause time.Duration
}

const (
	defaultLanguage     = "en"
	defaultInquiryPause = 2 * time.Second
)

// Wallet is an open wallet. It may be used concurrently, by several processes too.
type Wallet struct {
	cfg Config
	db  *sqldb.DB
}

// Open opens the wallet in dir, and makes it if there is none. Nobody else may have access to dir.
func Open(ctx context.Context, dir string, cfg Config) (*Wallet, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Language == "" {
		cfg.Language = defaultLanguage
	}
	if cfg.InquiryPause == 0 {
		cfg.InquiryPause = defaultInquiryPause
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("wallet directory: %w", err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return nil, fmt.Errorf("wallet directory: %w", err)
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 {
		return nil, fmt.Errorf("wallet directory %s has mode %04o: others can reach it: chmod 700 it", dir, perm)
	}
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, err
	}
	db, err := sqldb.Open(ctx, "sqlite:"+filepath.Join(dir, databaseFile), files)
	if err != nil {
		return nil, fmt.Errorf("wallet in %s: %w", dir, err)
	}
	return &Wallet{cfg, db}, nil
}

// Close closes the wallet.
func (w *Wallet) Close() error { return w.db.Close() }

// ErrKeyReplaced tells that the smart card is the right one and its key is not.
var ErrKeyReplaced = errors.New("the smart card's signature key is not the certified one: it was replaced since the card was enrolled: enrol it again")
