package wallet

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/bundle"
	"github.com/setkit/setkit/roles/set/pki"
)

// InstalledBundle is what the wallet has from a bank.
type InstalledBundle struct {
	*bundle.Signed
	Installed time.Time
}

// Installed tells how Install ended.
type Installed int

// The ends of an installation.
const (
	NewBank   Installed = iota + 1 // the first bundle of its bank
	Updated                        // in the place of an earlier one
	Unchanged                      // it was there already
)

// ErrNoBundle tells that the wallet has no bundle of any bank.
var ErrNoBundle = errors.New("no bank's wallet bundle is installed")

// ErrNotTrusted tells that the person did not recognise the signer of a bundle; nothing was installed.
var ErrNotTrusted = errors.New("the signer was not confirmed: nothing is installed")

// Why Install refuses a file, besides ErrNotTrusted.
var (
	ErrBundleForm   = errors.New("no wallet bundle, or one that was changed after it was signed")
	ErrBundleTime   = errors.New("the wallet bundle is not valid now")
	ErrBundleSigner = errors.New("the wallet bundle is signed by a key that is not the bank's")
	ErrBundleOlder  = errors.New("the installed wallet bundle is later than this one, or another with its number")
)

// refusedBundle says more about one of these.
type refusedBundle struct {
	error
	kind error
}

func (e refusedBundle) Unwrap() error        { return e.error }
func (e refusedBundle) Is(target error) bool { return target == e.kind }

// Install verifies the file of a wallet bundle, and takes it if its signer is to be trusted and the
// wallet has no later bundle of the bank. The signer is trusted if
//
//   - it is the key that signed the bank's bundle before, or that key signed this one too,
//   - or it has the fingerprint that the person brought, from the bank's letter; then another is refused
//     whatever the wallet has,
//   - or the bank is new to the wallet and confirm, which shows the signer, says so.
//
// A bank is known by its name, in whatever case.
func (w *Wallet) Install(ctx context.Context, file []byte, fingerprint *pki.Digest, confirm func(context.Context, *bundle.Signed) (bool, error)) (*InstalledBundle, Installed, error) {
	s, err := bundle.Open(file)
	if err != nil {
		return nil, 0, refusedBundle{err, ErrBundleForm}
	}
	if err := s.CheckTime(w.cfg.Now()); err != nil {
		return nil, 0, refusedBundle{err, ErrBundleTime}
	}
	if fingerprint != nil && *fingerprint != s.Signer {
		return nil, 0, refusedBundle{fmt.Errorf("wallet bundle of %s: its signer has the fingerprint %v, and not the one that was given: it is not the bank's, or the bank has changed its key",
			s.Bank.Name, s.Signer), ErrBundleSigner}
	}
	before, err := w.Bundles(ctx)
	if err != nil {
		return nil, 0, err
	}
	// Asked of a person before, and again of the database once nobody else can write to it.
	if _, err := admit(s, before, fingerprint != nil); err != nil {
		return nil, 0, err
	}
	known := bankOf(before, s.Bank.Name) != nil
	if !known && fingerprint == nil {
		ok, err := confirm(ctx, s)
		if err != nil {
			return nil, 0, err
		}
		if !ok {
			return nil, 0, ErrNotTrusted
		}
	}
	got := &InstalledBundle{Signed: s, Installed: w.cfg.Now()}
	var end Installed
	err = w.db.Tx(ctx, func(tx *sql.Tx) error {
		list, err := readBundles(ctx, tx)
		if err != nil {
			return err
		}
		if !known && bankOf(list, s.Bank.Name) != nil {
			return fmt.Errorf("a wallet bundle of %s was installed at the same time: start again", s.Bank.Name)
		}
		if end, err = admit(s, list, fingerprint != nil); err != nil {
			return err
		}
		if end == Unchanged {
			got = bankOf(list, s.Bank.Name)
			return nil
		}
		return got.save(ctx, tx, bankOf(list, s.Bank.Name))
	})
	if err != nil {
		return nil, 0, err
	}
	return got, end, nil
}

// admit tells whether a bundle may be installed beside, or in the place of, those that are.
func admit(s *bundle.Signed, list []*InstalledBundle, fingerprintGiven bool) (Installed, error) {
	old := bankOf(list, s.Bank.Name)
	switch {
	case old == nil:
		return NewBank, nil
	case !fingerprintGiven && !s.SignedBy(old.Signer):
		return 0, refusedBundle{fmt.Errorf("wallet bundle of %s: signed by another key, %v, than the bank's bundle that is installed, %v: "+
			"if the bank has told you of a new key, name its fingerprint", s.Bank.Name, s.Signer, old.Signer), ErrBundleSigner}
	case s.Sequence < old.Sequence:
		return 0, refusedBundle{fmt.Errorf("wallet bundle %d of %s is older than the one that is installed, %d", s.Sequence, s.Bank.Name, old.Sequence), ErrBundleOlder}
	case s.Sequence > old.Sequence:
		return Updated, nil
	case !s.Same(old.Signed):
		return 0, refusedBundle{fmt.Errorf("wallet bundle %d of %s is not the one that is installed with that number", s.Sequence, s.Bank.Name), ErrBundleOlder}
	}
	return Unchanged, nil
}

func bankOf(list []*InstalledBundle, bank set.Text50) *InstalledBundle {
	for _, b := range list {
		if strings.EqualFold(string(b.Bank.Name), string(bank)) {
			return b
		}
	}
	return nil
}

// save stores the bundle in the place of the old one, nil if there is none.
func (b *InstalledBundle) save(ctx context.Context, tx *sql.Tx, old *InstalledBundle) error {
	if old != nil {
		if _, err := tx.ExecContext(ctx, `DELETE FROM bundle WHERE bank = $1`, string(old.Bank.Name)); err != nil {
			return err
		}
	}
	_, err := tx.ExecContext(ctx, `INSERT INTO bundle (bank, file, installed_s) VALUES ($1, $2, $3)`, string(b.Bank.Name), b.Raw, b.Installed.Unix())
	return err
}

// Bundles lists the installed bundles, by the name of their bank. They may have expired since.
func (w *Wallet) Bundles(ctx context.Context) (list []*InstalledBundle, err error) {
	err = w.db.View(ctx, func(tx *sql.Tx) (err error) {
		list, err = readBundles(ctx, tx)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the installed wallet bundles: %w", err)
	}
	return list, nil
}

func readBundles(ctx context.Context, tx *sql.Tx) (list []*InstalledBundle, err error) {
	rows, err := tx.QueryContext(ctx, `SELECT file, installed_s FROM bundle ORDER BY bank`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var file []byte
		var installed int64
		if err := rows.Scan(&file, &installed); err != nil {
			return nil, err
		}
		s, err := bundle.Open(file)
		if err != nil {
			return nil, err
		}
		list = append(list, &InstalledBundle{s, time.Unix(installed, 0)})
	}
	return list, rows.Err()
}

// EnrolmentFor gives what a card is enrolled with, but for the account, from the installed bundle of the
// bank that has the brand. An empty bank or brand will do where the rest leaves one choice.
func (w *Wallet) EnrolmentFor(ctx context.Context, bank string, brand set.BrandID) (Enrolment, error) {
	list, err := w.Bundles(ctx)
	if err != nil {
		return Enrolment{}, err
	}
	type choice struct {
		*InstalledBundle
		brand bundle.Brand
	}
	var fit []choice
	var all []string
	for _, b := range list {
		for _, br := range b.Brands {
			all = append(all, fmt.Sprintf("%s of %s", br.ID, b.Bank.Name))
			if (bank == "" || strings.EqualFold(bank, string(b.Bank.Name))) && (brand == "" || brand.Matches(br.ID)) {
				fit = append(fit, choice{b, br})
			}
		}
	}
	switch {
	case len(all) == 0:
		return Enrolment{}, ErrNoBundle
	case len(fit) != 1:
		return Enrolment{}, fmt.Errorf("%d of the installed brands fit: name one brand and, if need be, its bank: %s", len(fit), strings.Join(all, ", "))
	}
	c := fit[0]
	if err := c.CheckTime(w.cfg.Now()); err != nil {
		return Enrolment{}, err
	}
	return Enrolment{
		CAURL: string(c.brand.CA), Root: c.RootCert, Brand: c.brand.ID, Bank: string(c.Bank.Name), Language: c.Policies[0].Language,
	}, nil
}
