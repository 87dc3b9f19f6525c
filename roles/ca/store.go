package ca

import (
	"context"
	"crypto"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/pki"
	"github.com/setkit/setkit/roles/sqldb"
)

//go:embed migrations/*.sql
var migrations embed.FS

// OpenDB opens the CA's database; see sqldb.Open for what url may be.
func OpenDB(ctx context.Context, url string) (*sqldb.DB, error) {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, err
	}
	return sqldb.Open(ctx, url, files)
}

// state is how far a registration has come:
//
//	begun ── asked ── done
//
// A merchant's or gateway's begins as asked.
type state string

const (
	begun state = "begun" // LID-CA was given out
	asked state = "asked" // the form and chall-CA were sent
	done  state = "done"  // referred elsewhere, or a CertReq was answered
)

// enrolment is one registration.
type enrolment struct {
	ca         string
	lidCA      set.LocalID
	lidEE      set.LocalID
	state      state
	typ        set.RequestType
	challCA    set.Challenge // once asked
	panMAC     []byte        // once asked, of a cardholder
	registrant string        // of a merchant or gateway
	status     set.CertStatusCode
	expires    time.Time
}

// errGone tells that a registration is not, or no longer, in the state that a request needs.
var errGone = &set.ProtocolError{Code: set.UnknownLID, Err: errors.New("no such registration, or it is over: it starts again with the first message")}

func (e *enrolment) insert(ctx context.Context, tx *sql.Tx) error {
	challenge := []byte{}
	if e.state == asked {
		challenge = e.challCA[:]
	}
	_, err := tx.ExecContext(ctx, `INSERT INTO enrolment (ca, lid_ca, lid_ee, state, request_type, chall_ca, pan_mac, registrant, status, expires_s)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`,
		e.ca, []byte(e.lidCA), []byte(e.lidEE), string(e.state), int64(e.typ), challenge, []byte{}, e.registrant, int64(e.status), e.expires.Unix())
	if err != nil {
		return fmt.Errorf("keep a registration: %w", err)
	}
	return nil
}

// findEnrolment gives a registration that has come as far as want; errGone if there is none.
func findEnrolment(ctx context.Context, db *sqldb.DB, now time.Time, ca string, lidCA, lidEE set.LocalID, want state) (*enrolment, error) {
	e := &enrolment{ca: ca, lidCA: lidCA, lidEE: lidEE, state: want}
	err := db.View(ctx, func(tx *sql.Tx) error {
		var challenge []byte
		var expires int64
		err := tx.QueryRowContext(ctx, `SELECT request_type, chall_ca, pan_mac, registrant, expires_s FROM enrolment
			WHERE ca = $1 AND lid_ca = $2 AND lid_ee = $3 AND state = $4`, ca, []byte(lidCA), []byte(lidEE), string(want)).
			Scan(&e.typ, &challenge, &e.panMAC, &e.registrant, &expires)
		if err == nil && want == asked && copy(e.challCA[:], challenge) != len(e.challCA) {
			err = errors.New("a stored challenge is too short")
		}
		e.expires = time.Unix(expires, 0)
		return err
	})
	if errors.Is(err, sql.ErrNoRows) || err == nil && now.After(e.expires) {
		return nil, errGone
	}
	if err != nil {
		return nil, fmt.Errorf("look a registration up: %w", err)
	}
	return e, nil
}

// advance takes the registration from the state that it was found in to the next; errGone if somebody
// else did.
func (e *enrolment) advance(ctx context.Context, tx *sql.Tx, next state) error {
	challenge := []byte{}
	if next == asked {
		challenge = e.challCA[:]
	}
	res, err := tx.ExecContext(ctx, `UPDATE enrolment SET state = $1, request_type = $2, chall_ca = $3, pan_mac = $4, status = $5, expires_s = $6
		WHERE ca = $7 AND lid_ca = $8 AND state = $9`,
		string(next), int64(e.typ), challenge, append([]byte{}, e.panMAC...), int64(e.status), e.expires.Unix(), e.ca, []byte(e.lidCA), string(e.state))
	if err != nil {
		return fmt.Errorf("advance a registration: %w", err)
	}
	if n, err := res.RowsAffected(); err != nil || n != 1 {
		return errors.Join(err, errGone)
	}
	return nil
}

// end records how the registration ended, and forgets the card.
func (e *enrolment) end(ctx context.Context, tx *sql.Tx, now time.Time, code set.CertStatusCode) error {
	ended := *e
	ended.panMAC, ended.status, ended.expires = nil, code, now.Add(outcomeLife)
	return ended.advance(ctx, tx, done)
}

// openEnrolments counts the registrations of a CA that are not over.
func openEnrolments(ctx context.Context, db *sqldb.DB, now time.Time, ca string) (n int, err error) {
	err = db.View(ctx, func(tx *sql.Tx) error {
		return tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM enrolment WHERE ca = $1 AND state <> $2 AND expires_s >= $3`,
			ca, string(done), now.Unix()).Scan(&n)
	})
	return n, err
}

func expireEnrolments(ctx context.Context, db *sqldb.DB, now time.Time) error {
	return db.Tx(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `DELETE FROM enrolment WHERE expires_s < $1`, now.Unix()); err != nil {
			return fmt.Errorf("remove old registrations: %w", err)
		}
		return nil
	})
}

// errKeyUsed tells that the CA has certified the key before (SET §9.1, CR-5).
var errKeyUsed = refuse(set.RejectedByCA, "the key was certified before: make a new one")

// keyUsed tells whether one of the keys was certified before; errKeyUsed if so.
func keyUsed(ctx context.Context, db *sqldb.DB, ca string, keys ...crypto.PublicKey) error {
	return db.View(ctx, func(tx *sql.Tx) error {
		for _, key := range keys {
			if key == nil {
				continue
			}
			digest, err := keyDigest(key)
			if err != nil {
				return err
			}
			var n int
			err = tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM certified_key WHERE ca = $1 AND spki_sha256 = $2`, ca, digest).Scan(&n)
			if err != nil {
				return fmt.Errorf("look a key up: %w", err)
			}
			if n > 0 {
				return errKeyUsed
			}
		}
		return nil
	})
}

// addCertificates records certificates and their keys; errKeyUsed if one was certified meanwhile.
func addCertificates(ctx context.Context, tx *sql.Tx, now time.Time, a *application, certs []*pki.Certificate) error {
	for _, c := range certs {
		serial := c.Serial()
		digest, err := keyDigest(c.X509.PublicKey)
		if err != nil {
			return err
		}
		res, err := tx.ExecContext(ctx, `INSERT INTO certified_key (ca, spki_sha256, serial) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`, a.ca, digest, serial)
		if err != nil {
			return fmt.Errorf("record a certified key: %w", err)
		}
		if n, err := res.RowsAffected(); err != nil || n != 1 {
			return errors.Join(err, errKeyUsed)
		}
		thumb := c.Thumbprint()
		_, err = tx.ExecContext(ctx, `INSERT INTO certificate
			(ca, serial, lid_ca, holder, key_use, subject, registrant, thumbprint, not_before_s, not_after_s, issued_s, certificate, pan_mac)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)`,
			a.ca, serial, []byte(a.lidCA), c.Type.String(), c.Use.String(), c.X509.Subject.String(), a.registrant, thumb[:],
			c.X509.NotBefore.Unix(), c.X509.NotAfter.Unix(), now.Unix(), c.X509.Raw, append([]byte{}, a.panMAC...))
		if err != nil {
			return fmt.Errorf("record a certificate: %w", err)
		}
	}
	return nil
}

// certified is a certificate that was issued before.
type certified struct {
	cert       *pki.Certificate
	lidCA      set.LocalID
	registrant string
	panMAC     []byte
	revoked    bool
}

// findCertified finds what a CA has issued by its thumbprint; nil if it has not.
func findCertified(ctx context.Context, db *sqldb.DB, ca string, thumb pki.Digest) (found *certified, err error) {
	err = db.View(ctx, func(tx *sql.Tx) error {
		found = &certified{}
		var raw, lidCA []byte
		err := tx.QueryRowContext(ctx, `SELECT certificate, lid_ca, registrant, pan_mac FROM certificate WHERE ca = $1 AND thumbprint = $2`, ca, thumb[:]).
			Scan(&raw, &lidCA, &found.registrant, &found.panMAC)
		if err != nil {
			return err
		}
		found.lidCA = lidCA
		if found.cert, err = pki.ParseCertificate(raw); err != nil {
			return err
		}
		found.revoked, err = isRevoked(ctx, tx, found.cert)
		return err
	})
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look a certificate up: %w", err)
	}
	return found, nil
}

// Issued is a certificate that the CA has issued.
type Issued struct {
	CA         string    `json:"ca"`
	Serial     string    `json:"serial"`
	Type       string    `json:"type"`
	Use        string    `json:"use"`
	Subject    string    `json:"subject"`
	Registrant string    `json:"registrant,omitempty"` // the merchant or gateway
	Thumbprint string    `json:"thumbprint"`
	NotBefore  time.Time `json:"notBefore"`
	NotAfter   time.Time `json:"notAfter"`
	IssuedAt   time.Time `json:"issuedAt"`
	Revoked    string    `json:"revoked,omitempty"` // the reason
}

// List gives up to limit certificates, the newest first.
func List(ctx context.Context, db *sqldb.DB, limit int) (list []Issued, err error) {
	err = db.View(ctx, func(tx *sql.Tx) error {
		list = []Issued{}
		rows, err := tx.QueryContext(ctx, `SELECT c.ca, c.serial, holder, key_use, subject, registrant, thumbprint, not_before_s, c.not_after_s, issued_s,
			COALESCE(r.reason, '') FROM certificate c LEFT JOIN revocation r ON r.serial = c.serial
			ORDER BY issued_s DESC, c.ca, c.serial LIMIT $1`, limit)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var i Issued
			var thumb []byte
			var before, after, at int64
			if err := rows.Scan(&i.CA, &i.Serial, &i.Type, &i.Use, &i.Subject, &i.Registrant, &thumb, &before, &after, &at, &i.Revoked); err != nil {
				return err
			}
			i.Thumbprint = fmt.Sprintf("%x", thumb)
			i.NotBefore, i.NotAfter, i.IssuedAt = time.Unix(before, 0).UTC(), time.Unix(after, 0).UTC(), time.Unix(at, 0).UTC()
			list = append(list, i)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("list certificates: %w", err)
	}
	return list, nil
}
