package wallet

import (
	"context"
	"crypto"
	"crypto/x509"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/pki"
)

// EnrolledCard is a smart card with the certificate that it was enrolled for. It shows nothing secret.
type EnrolledCard struct {
	ID          string // of the certificate; a smart card may have several
	Serial      string // of the smart card
	Brand       set.BrandID
	Bank        string // "" if the card was enrolled without a bank's bundle
	BIN         set.BIN
	Last4       string // of the card number
	Certificate *pki.Certificate
	VaultKey    crypto.PublicKey // of the smart card's key that opens the vault
	Enrolled    time.Time
	Message     string // of the CA, to be shown once: only Enrol gives it

	chain []*pki.Certificate // above Certificate; also the roots that have succeeded root
	root  *pki.Certificate
	known pki.Store
	vault []byte
	caURL string
	asked time.Time // when the CA was last asked for revocation lists
}

// Masked is the card number as a receipt may show it.
func (c *EnrolledCard) Masked() string { return "**** " + c.Last4 }

// endpoint is the cardholder's side of the protocol, which keeps the revocation lists that answers bring. Without a
// smart card it can only verify.
func (c *EnrolledCard) endpoint(ctx context.Context, w *Wallet, card Card) (*set.Endpoint, error) {
	v, err := pki.NewVerifier([]*pki.Certificate{c.root}, pki.Options{Store: c.known})
	if err != nil {
		return nil, err
	}
	e := &set.Endpoint{SignCert: c.Certificate, Verifier: v, Software: w.cfg.Software}
	for _, cert := range c.chain {
		if cert.Type != pki.RCA {
			e.Chain = append(e.Chain, cert)
			continue
		}
		// It took over while its predecessor was valid, which that may be no more.
		e.Verifier = e.Verifier.Succeed(c.chain, cert.X509.NotBefore)
	}
	if card != nil {
		e.SignKey = card.Signer()
	}
	e.Learnt = func(v *pki.Verifier) {
		e.Verifier.Adopt(v)
		// What cannot be stored comes again.
		_ = w.saveLists(context.WithoutCancel(ctx), c, func() { c.known = v.Store() })
	}
	return e, nil
}

// check refuses another smart card than the enrolled one.
func (c *EnrolledCard) check(card Card) error {
	if card.Serial() != c.Serial {
		return fmt.Errorf("smart card %s is not the enrolled one, %s: insert that", card.Serial(), c.Serial)
	}
	public, ok := card.Signer().Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(c.Certificate.X509.PublicKey) {
		return ErrKeyReplaced
	}
	return nil
}

const cardColumns = `id, serial, bin, last4, certificate, chain, root, bcis, crls, vault_key, vault, enrolled_s, bank, ca_url, asked_s`

// lists gives what is kept as JSON lists: chain, BrandCRLIdentifiers and CRLs.
func (c *EnrolledCard) lists() (out [3]string, err error) {
	var chain, bcis, crls [][]byte
	for _, cert := range c.chain {
		chain = append(chain, cert.X509.Raw)
	}
	for _, b := range c.known.BCIs {
		bcis = append(bcis, b.Raw)
	}
	for _, l := range c.known.CRLs {
		crls = append(crls, l.X509.Raw)
	}
	for i, l := range [][][]byte{chain, bcis, crls} {
		text, err := json.Marshal(l)
		if err != nil {
			return out, err
		}
		out[i] = string(text)
	}
	return out, nil
}

// saveLists stores what change does to the lists of a card, unless others have been stored since the card was read.
func (w *Wallet) saveLists(ctx context.Context, c *EnrolledCard, change func()) error {
	before, err := c.lists()
	if err != nil {
		return err
	}
	change()
	after, err := c.lists()
	if err != nil {
		return err
	}
	return w.db.Tx(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE card SET chain = $1, bcis = $2, crls = $3, asked_s = $4 WHERE id = $5 AND bcis = $6`,
			after[0], after[1], after[2], c.asked.Unix(), c.ID, before[1])
		if err != nil {
			return fmt.Errorf("keep the revocation lists: %w", err)
		}
		return nil
	})
}

// saveCard stores an enrolled card. Its registration is over.
func (w *Wallet) saveCard(ctx context.Context, c *EnrolledCard) error {
	spki, err := x509.MarshalPKIXPublicKey(c.VaultKey)
	if err != nil {
		return err
	}
	lists, err := c.lists()
	if err != nil {
		return err
	}
	return w.db.Tx(ctx, func(tx *sql.Tx) error {
		if err := deletePending(ctx, tx, c.Serial); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO card (`+cardColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)`,
			c.ID, c.Serial, string(c.BIN), c.Last4, c.Certificate.X509.Raw, lists[0], c.root.X509.Raw,
			lists[1], lists[2], spki, c.vault, c.Enrolled.Unix(), c.Bank, c.caURL, c.asked.Unix())
		return err
	})
}

// Cards lists the enrolled cards, the newest first.
func (w *Wallet) Cards(ctx context.Context) ([]*EnrolledCard, error) {
	var cards []*EnrolledCard
	err := w.db.View(ctx, func(tx *sql.Tx) error {
		cards = nil
		rows, err := tx.QueryContext(ctx, `SELECT `+cardColumns+` FROM card ORDER BY enrolled_s DESC, id`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			c, err := scanCard(rows)
			if err != nil {
				return err
			}
			cards = append(cards, c)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("read the enrolled cards: %w", err)
	}
	return cards, nil
}

// card finds an enrolled card.
func (w *Wallet) card(ctx context.Context, id string) (*EnrolledCard, error) {
	var c *EnrolledCard
	err := w.db.View(ctx, func(tx *sql.Tx) (err error) {
		c, err = scanCard(tx.QueryRowContext(ctx, `SELECT `+cardColumns+` FROM card WHERE id = $1`, id))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read enrolled card %s: %w", id, err)
	}
	return c, nil
}

func scanCard(row interface{ Scan(...any) error }) (*EnrolledCard, error) {
	var c EnrolledCard
	var certificate, root, spki []byte
	var lists [3]string
	var enrolled, asked int64
	err := row.Scan(&c.ID, &c.Serial, &c.BIN, &c.Last4, &certificate, &lists[0], &root, &lists[1], &lists[2], &spki, &c.vault, &enrolled, &c.Bank, &c.caURL, &asked)
	if err != nil {
		return nil, err
	}
	c.Enrolled, c.asked = time.Unix(enrolled, 0), time.Unix(asked, 0)
	var der [3][][]byte
	for i := range lists {
		if err := json.Unmarshal([]byte(lists[i]), &der[i]); err != nil {
			return nil, err
		}
	}
	var errs [6]error
	c.Certificate, errs[0] = pki.ParseCertificate(certificate)
	c.root, errs[1] = pki.ParseCertificate(root)
	c.VaultKey, errs[2] = x509.ParsePKIXPublicKey(spki)
	c.chain, errs[3] = parseAll(der[0], pki.ParseCertificate)
	c.known.BCIs, errs[4] = parseAll(der[1], pki.ParseBCI)
	c.known.CRLs, errs[5] = parseAll(der[2], pki.ParseCRL)
	if err := errors.Join(errs[:]...); err != nil {
		return nil, fmt.Errorf("enrolled card %s: %w", c.ID, err)
	}
	c.Brand = set.BrandID(c.Certificate.Brand())
	return &c, nil
}

func parseAll[T any](list [][]byte, parse func([]byte) (T, error)) (out []T, err error) {
	for _, b := range list {
		v, err := parse(b)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}
