package wallet

import (
	"context"
	"crypto/rsa"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/pki"
	"github.com/setkit/setkit/roles/sethttp"
)

// This file is what comes after an enrolment: asking what became of a request (SET §4.7), and learning what
// the CA knows of revocation and of the root that takes over (SET §6.6, §6.8).

// ErrNothingPending tells that no request of a smart card waits for its CA.
var ErrNothingPending = errors.New("no request of this smart card waits for a CA")

// pending is a registration whose request was sent.
type pending struct {
	serial string
	bank   string
	caURL  string
	root   *pki.Certificate
	sealed []byte
	sent   time.Time
}

// keep stores what Continue needs, before the request is sent. It replaces what was kept of the smart card.
func (w *Wallet) keep(ctx context.Context, p *pending, registration *set.CardEnrolment, key *rsa.PublicKey) error {
	kept, err := registration.Keep()
	if err != nil {
		return err
	}
	defer clear(kept)
	if p.sealed, err = sealOctets(key, kept); err != nil {
		return err
	}
	return w.db.Tx(ctx, func(tx *sql.Tx) error {
		if err := deletePending(ctx, tx, p.serial); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO pending (serial, bank, ca_url, root, sealed, sent_s) VALUES ($1, $2, $3, $4, $5, $6)`,
			p.serial, p.bank, p.caURL, p.root.X509.Raw, p.sealed, w.cfg.Now().Unix())
		if err != nil {
			return fmt.Errorf("keep the request: %w", err)
		}
		return nil
	})
}

func deletePending(ctx context.Context, tx *sql.Tx, serial string) error {
	if _, err := tx.ExecContext(ctx, `DELETE FROM pending WHERE serial = $1`, serial); err != nil {
		return fmt.Errorf("forget a request: %w", err)
	}
	return nil
}

func (w *Wallet) forget(ctx context.Context, serial string) error {
	return w.db.Tx(ctx, func(tx *sql.Tx) error { return deletePending(ctx, tx, serial) })
}

func (w *Wallet) pending(ctx context.Context, serial string) (*pending, error) {
	p := &pending{serial: serial}
	err := w.db.View(ctx, func(tx *sql.Tx) error {
		var root []byte
		var sent int64
		err := tx.QueryRowContext(ctx, `SELECT bank, ca_url, root, sealed, sent_s FROM pending WHERE serial = $1`, serial).Scan(&p.bank, &p.caURL, &root, &p.sealed, &sent)
		if err != nil {
			return err
		}
		p.sent = time.Unix(sent, 0)
		p.root, err = pki.ParseCertificate(root)
		return err
	})
	if errors.Is(err, sql.ErrNoRows) {
		return nil, ErrNothingPending
	}
	if err != nil {
		return nil, fmt.Errorf("read the request that waits: %w", err)
	}
	return p, nil
}

// Waiting is a request that a CA has not decided on, or whose answer was lost. It shows nothing secret.
type Waiting struct {
	Serial string // of the smart card, which Continue needs
	Bank   string // "" if the card is enrolled without a bank's bundle
	Sent   time.Time
}

// Waiting lists the requests that Continue asks about, the newest first.
func (w *Wallet) Waiting(ctx context.Context) (list []Waiting, err error) {
	err = w.db.View(ctx, func(tx *sql.Tx) error {
		list = nil
		rows, err := tx.QueryContext(ctx, `SELECT serial, bank, sent_s FROM pending ORDER BY sent_s DESC, serial`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var x Waiting
			var sent int64
			if err := rows.Scan(&x.Serial, &x.Bank, &sent); err != nil {
				return err
			}
			x.Sent = time.Unix(sent, 0)
			list = append(list, x)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("read the requests that wait: %w", err)
	}
	return list, nil
}

// Continue asks the CA what became of the smart card's request. Its outcomes are those of Enrol, and
// ErrNothingPending.
func (w *Wallet) Continue(ctx context.Context, card Card) (*EnrolledCard, error) {
	p, err := w.pending(ctx, card.Serial())
	if err != nil {
		return nil, err
	}
	key, err := vaultKey(card.Decrypter().Public())
	if err != nil {
		return nil, err
	}
	kept, err := unsealOctets(card.Decrypter(), p.sealed, set.KeptOctetsMax)
	defer clear(kept)
	if err != nil {
		return nil, err
	}
	registration, err := set.ResumeCardEnrolment(kept)
	if err != nil {
		return nil, err
	}
	defer registration.Clear()
	verifier, err := pki.NewVerifier([]*pki.Certificate{p.root}, pki.Options{})
	if err != nil {
		return nil, err
	}
	e := &set.Endpoint{Verifier: verifier, Software: w.cfg.Software}
	req, err := registration.InqReq(e, w.cfg.Now(), card.Signer())
	if err != nil {
		return nil, err
	}
	res, err := w.cfg.Client.Post(ctx, p.caURL, sethttp.MediaRegistration, req)
	if err != nil {
		return nil, err
	}
	got, err := registration.OpenInqRes(e, w.cfg.Now(), res)
	return w.conclude(ctx, p, registration, key, got, err)
}

// listsAge is how old what is known of revocation may be before a payment; listsTimeout how long a payment
// waits for the CA.
const (
	listsAge     = 24 * time.Hour
	listsTimeout = 5 * time.Second
)

// refresh learns the current revocation lists before a payment, at most once a day. What cannot be learnt is
// no reason not to pay: what is known goes out of date by itself, and then nothing is accepted.
func (w *Wallet) refresh(ctx context.Context, c *EnrolledCard) {
	if c.caURL == "" || w.cfg.Now().Sub(c.asked) < listsAge {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, listsTimeout)
	defer cancel()
	_ = w.Refresh(ctx, c)
}

// Refresh asks the card's CA what is new of revocation, and which root takes over. It begins a registration,
// whose answer has all that the thumbprints in the request do not show, and goes no further with it. The CA
// learns the brand and nothing of the card.
func (w *Wallet) Refresh(ctx context.Context, c *EnrolledCard) error {
	if c.caURL == "" {
		return fmt.Errorf("%s was enrolled by a version that did not keep the address of its CA: enrol it again", c.Masked())
	}
	e, err := c.endpoint(ctx, w, nil)
	if err != nil {
		return err
	}
	e.SignCert = nil
	registration := set.NewCardEnrolment(c.Brand, w.cfg.Language, nil, nil)
	req, err := registration.InitReq(e, w.cfg.Now())
	if err != nil {
		return err
	}
	res, err := w.cfg.Client.Post(ctx, c.caURL, sethttp.MediaRegistration, req)
	if err != nil {
		return err
	}
	if err := registration.OpenInitRes(e, w.cfg.Now(), res); err != nil {
		return fmt.Errorf("revocation lists: %w", err)
	}
	v := registration.Verifier()
	return w.saveLists(ctx, c, func() {
		c.known, c.chain, c.asked = v.Store(), withSuccessors(c.chain, c.root, v), w.cfg.Now()
	})
}
