package ca

import (
	"context"
	"crypto"
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"

	"github.com/setkit/setkit/roles/set/pki"
	"github.com/setkit/setkit/roles/sqldb"
)

// Kinds of lists in the database.
const (
	kindCRL = "crl"
	kindBCI = "bci"
)

// Reasons for which a certificate is revoked, as RFC 5280 names them. They are kept; SET's CRLs do not
// carry them.
var Reasons = []string{
	"keyCompromise", "cACompromise", "affiliationChanged", "superseded", "cessationOfOperation", "privilegeWithdrawn", "unspecified",
}

// ListSigner is a CA that signs revocation lists: root, brand CA, geopolitical CA or payment CA (SET §6.5).
type ListSigner struct {
	Certificate *pki.Certificate
	Key         crypto.Signer
	Life        time.Duration // until a list that it signs must have been replaced
}

func issuerID(keyID []byte) string { return hex.EncodeToString(keyID) }

func isRevoked(ctx context.Context, tx *sql.Tx, c *pki.Certificate) (bool, error) {
	var n int
	err := tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM revocation WHERE issuer = $1 AND serial = $2`, issuerID(c.X509.AuthorityKeyId), c.Serial()).Scan(&n)
	if err != nil {
		return false, fmt.Errorf("look a revocation up: %w", err)
	}
	return n > 0, nil
}

// FindIssued gives a certificate that the CA has issued, by its serial number; nil if there is none.
func FindIssued(ctx context.Context, db *sqldb.DB, serial string) (c *pki.Certificate, err error) {
	err = db.View(ctx, func(tx *sql.Tx) error {
		var raw []byte
		if err := tx.QueryRowContext(ctx, `SELECT certificate FROM certificate WHERE serial = $1`, serial).Scan(&raw); err != nil {
			return err
		}
		c, err = pki.ParseCertificate(raw)
		return err
	})
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look a certificate up: %w", err)
	}
	return c, nil
}

// Listed tells whether CRLs list certificates like c. They do not list those of cardholders and merchants:
// cards are blocked by their issuers, merchants by their acquirers (SET §6.5).
func Listed(c *pki.Certificate) bool { return !c.Type.Has(pki.Card) && !c.Type.Has(pki.Mer) }

// Revoke records that a certificate is revoked. The next CRL of its issuer lists it, if CRLs do; none is
// renewed.
func (op *Operator) Revoke(ctx context.Context, c *pki.Certificate, reason string) error {
	if !slices.Contains(Reasons, reason) {
		return fmt.Errorf("no such reason %q: want one of %v", reason, Reasons)
	}
	now := op.Now()
	return op.do(ctx, "revoke", c.String(), reason, func(tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, `INSERT INTO revocation (issuer, serial, certificate, reason, at_s, not_after_s)
			VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING`,
			issuerID(c.X509.AuthorityKeyId), c.Serial(), c.String(), reason, now.Unix(), c.X509.NotAfter.Unix())
		if err != nil {
			return fmt.Errorf("record a revocation: %w", err)
		}
		if n, err := res.RowsAffected(); err != nil || n != 1 {
			return errors.Join(err, fmt.Errorf("%v is revoked already", c))
		}
		return nil
	})
}

// IssueCRL signs the next CRL of a CA. It lists what is revoked and not expired, and what the CRL before it
// lists. known has the lists that a ceremony has made. The CRL is in use once a BrandCRLIdentifier names it;
// a root's at once.
func (op *Operator) IssueCRL(ctx context.Context, s ListSigner, known pki.Store) (*pki.CRL, error) {
	store, err := op.Lists(ctx, known)
	if err != nil {
		return nil, err
	}
	t := pki.CRLTemplate{Number: 1, ThisUpdate: op.Now(), NextUpdate: op.Now().Add(s.Life)}
	if before := newestCRL(store.CRLs, s.Certificate); before != nil {
		t.Number = before.Number + 1
		for _, e := range before.X509.RevokedCertificateEntries {
			t.Revoked = append(t.Revoked, pki.Revocation{Serial: e.SerialNumber, At: e.RevocationTime})
		}
	}
	if t.Revoked, err = op.revoked(ctx, s.Certificate, t.Revoked); err != nil {
		return nil, err
	}
	l, err := pki.IssueCRL(rand.Reader, t, s.Certificate, s.Key)
	if err != nil {
		return nil, err
	}
	return l, op.keepCRL(ctx, "issue CRL", l, s.Certificate)
}

// revoked adds the revocations of an issuer to those of its CRL before, and drops what has expired.
func (op *Operator) revoked(ctx context.Context, issuer *pki.Certificate, before []pki.Revocation) (list []pki.Revocation, err error) {
	err = op.DB.View(ctx, func(tx *sql.Tx) error {
		list = slices.Clone(before)
		rows, err := tx.QueryContext(ctx, `SELECT serial, certificate, at_s, not_after_s FROM revocation WHERE issuer = $1 ORDER BY at_s, serial`,
			issuerID(issuer.X509.SubjectKeyId))
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var serial, name string
			var at, end int64
			if err := rows.Scan(&serial, &name, &at, &end); err != nil {
				return err
			}
			n, ok := new(big.Int).SetString(serial, 16)
			if !ok {
				return fmt.Errorf("stored serial number of %s is none", name)
			}
			list = slices.DeleteFunc(list, func(r pki.Revocation) bool { return r.Serial.Cmp(n) == 0 })
			if end >= op.Now().Unix() {
				list = append(list, pki.Revocation{Serial: n, At: time.Unix(at, 0)})
			}
		}
		return rows.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("read the revocations: %w", err)
	}
	return list, nil
}

// IssueBCI signs the next BrandCRLIdentifier of a brand. It names the newest CRL of each CA below the root;
// that replaces the ones before at whoever gets it (SET §6.6).
func (op *Operator) IssueBCI(ctx context.Context, s ListSigner, known pki.Store) (*pki.BrandCRLIdentifier, error) {
	store, err := op.Lists(ctx, known)
	if err != nil {
		return nil, err
	}
	t := pki.BCITemplate{Sequence: 1, Validity: pki.Period{NotBefore: op.Now().UTC().Truncate(time.Second), NotAfter: op.Now().Add(s.Life).UTC().Truncate(time.Second)}}
	if before := store.BCI(s.Certificate.Brand()); before != nil {
		t.Sequence = before.Sequence + 1
	}
	for _, l := range store.CRLs {
		if l.Issuer.Brand != s.Certificate.Brand() {
			continue // the root's is known by its number
		}
		i := slices.IndexFunc(t.CRLs, func(o *pki.CRL) bool { return sameIssuer(o, l) })
		switch {
		case i < 0:
			t.CRLs = append(t.CRLs, l)
		case t.CRLs[i].Number < l.Number:
			t.CRLs[i] = l
		}
	}
	for _, l := range t.CRLs {
		if op.Now().After(l.X509.NextUpdate) {
			return nil, fmt.Errorf("CRL %d of %s is out of date since %s: issue the next one first", l.Number, l.Issuer.Unit, l.X509.NextUpdate.Format(time.RFC3339))
		}
	}
	b, err := pki.IssueBCI(rand.Reader, t, s.Certificate, s.Key)
	if err != nil {
		return nil, err
	}
	return b, op.keepBCI(ctx, "issue BCI", b, s.Certificate)
}

func sameIssuer(a, b *pki.CRL) bool { return string(a.X509.RawIssuer) == string(b.X509.RawIssuer) }

func newestCRL(list []*pki.CRL, issuer *pki.Certificate) (newest *pki.CRL) {
	for _, l := range list {
		if string(l.X509.AuthorityKeyId) == string(issuer.X509.SubjectKeyId) && (newest == nil || l.Number > newest.Number) {
			newest = l
		}
	}
	return newest
}

// ImportCRL takes a CRL that was signed elsewhere: by a ceremony, with a key that is not at hand here.
func (op *Operator) ImportCRL(ctx context.Context, l *pki.CRL, issuer *pki.Certificate) error {
	if err := l.SignedBy(issuer); err != nil {
		return err
	}
	return op.keepCRL(ctx, "import CRL", l, issuer)
}

// ImportBCI takes a BrandCRLIdentifier that was signed elsewhere.
func (op *Operator) ImportBCI(ctx context.Context, b *pki.BrandCRLIdentifier, issuer *pki.Certificate) error {
	if err := b.SignedBy(issuer); err != nil {
		return err
	}
	return op.keepBCI(ctx, "import BCI", b, issuer)
}

func (op *Operator) keepCRL(ctx context.Context, action string, l *pki.CRL, issuer *pki.Certificate) error {
	detail := fmt.Sprintf("%d revoked, until %s", len(l.X509.RevokedCertificateEntries), l.X509.NextUpdate.UTC().Format(time.RFC3339))
	return op.keep(ctx, action, kindCRL, issuer, l.Number, l.X509.Raw, detail)
}

func (op *Operator) keepBCI(ctx context.Context, action string, b *pki.BrandCRLIdentifier, issuer *pki.Certificate) error {
	detail := fmt.Sprintf("%d CRLs, until %s", len(b.CRLs), b.Validity.NotAfter.UTC().Format(time.RFC3339))
	return op.keep(ctx, action, kindBCI, issuer, b.Sequence, b.Raw, detail)
}

func (op *Operator) keep(ctx context.Context, action, kind string, issuer *pki.Certificate, number int64, raw []byte, detail string) error {
	return op.do(ctx, action, fmt.Sprintf("%d of %v", number, issuer), detail, func(tx *sql.Tx) error {
		id := issuerID(issuer.X509.SubjectKeyId)
		var newest int64
		err := tx.QueryRowContext(ctx, `SELECT COALESCE(MAX(number), -1) FROM revocation_list WHERE kind = $1 AND issuer = $2`, kind, id).Scan(&newest)
		if err != nil {
			return fmt.Errorf("look the lists up: %w", err)
		}
		if number <= newest {
			return fmt.Errorf("%s: number %d of this issuer is there already, and this is %d", action, newest, number)
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO revocation_list (kind, issuer, number, list) VALUES ($1, $2, $3, $4)`, kind, id, number, raw); err != nil {
			return fmt.Errorf("keep a list: %w", err)
		}
		return nil
	})
}

// Lists gives all CRLs, and the newest BrandCRLIdentifier of each signer, that are in the database or
// known. They were verified when they were stored.
func (op *Operator) Lists(ctx context.Context, known pki.Store) (pki.Store, error) {
	return lists(ctx, op.DB, known)
}

func lists(ctx context.Context, db *sqldb.DB, known pki.Store) (store pki.Store, err error) {
	err = db.View(ctx, func(tx *sql.Tx) error {
		store = pki.Store{BCIs: slices.Clone(known.BCIs), CRLs: slices.Clone(known.CRLs)}
		rows, err := tx.QueryContext(ctx, `SELECT kind, list FROM revocation_list ORDER BY number`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var kind string
			var raw []byte
			if err := rows.Scan(&kind, &raw); err != nil {
				return err
			}
			if err := addList(&store, kind, raw); err != nil {
				return err
			}
		}
		return rows.Err()
	})
	if err != nil {
		return pki.Store{}, fmt.Errorf("read the revocation lists: %w", err)
	}
	return store, nil
}

func addList(store *pki.Store, kind string, raw []byte) error {
	if kind == kindCRL {
		l, err := pki.ParseCRL(raw)
		if err == nil && !slices.ContainsFunc(store.CRLs, func(o *pki.CRL) bool { return sameIssuer(o, l) && o.Number == l.Number }) {
			store.CRLs = append(store.CRLs, l)
		}
		return err
	}
	b, err := pki.ParseBCI(raw)
	if err != nil {
		return err
	}
	old := store.BCI(b.Brand)
	if old != nil && old.Sequence >= b.Sequence {
		return nil
	}
	store.BCIs = append(slices.DeleteFunc(store.BCIs, func(o *pki.BrandCRLIdentifier) bool { return o == old }), b)
	return nil
}

// learn gives the verifiers of the CAs the lists that operators have issued since it last looked, and at
// first the root that takes over.
func (s *CA) learn(ctx context.Context, now time.Time) error {
	var n int
	err := s.DB.View(ctx, func(tx *sql.Tx) error {
		return tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM revocation_list`).Scan(&n)
	})
	if err != nil {
		return fmt.Errorf("look for new revocation lists: %w", err)
	}
	s.learning.Lock()
	defer s.learning.Unlock()
	if n == s.listsKnown {
		return nil
	}
	store, err := lists(ctx, s.DB, pki.Store{})
	if err != nil {
		return err
	}
	for _, a := range []*Authority{&s.Cardholder.Authority, &s.Merchant.Authority, &s.Payment.Authority} {
		certs := slices.Concat(a.Endpoint.Chain, []*pki.Certificate{s.Payment.Certificate})
		next, err := a.Endpoint.Verifier.Succeed(certs, now).Update(store.BCI(a.Certificate.Brand()), store.CRLs, certs, now)
		if err != nil { // what was known before stays in use, and goes out of date
			s.Log.Error("revocation lists of the database are of no use: issue new ones", "error", err)
			return nil
		}
		a.Endpoint.Verifier.Adopt(next)
	}
	s.listsKnown = n
	s.Log.Info("revocation lists taken into use", "lists", n)
	return nil
}

// warnOfLists tells the log which lists go out of date soon: without them, nobody accepts a certificate.
func (s *CA) warnOfLists(now time.Time) {
	soon := now.Add(listsWarning)
	store := s.cca.Endpoint.Verifier.Store()
	for _, b := range store.BCIs {
		if soon.After(b.Validity.NotAfter) {
			s.Log.Warn("the BrandCRLIdentifier goes out of date: issue the next one", "sequence", b.Sequence, "not_after", b.Validity.NotAfter)
		}
	}
	for _, l := range store.CRLs {
		if soon.After(l.X509.NextUpdate) {
			s.Log.Warn("a CRL goes out of date: issue the next one", "issuer", l.Issuer.Unit, "number", l.Number, "next_update", l.X509.NextUpdate)
		}
	}
}
