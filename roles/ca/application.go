package ca

import (
	"context"
	"crypto"
	"crypto/x509"
	"database/sql"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/der"
	"github.com/setkit/setkit/roles/set/pki"
	"github.com/setkit/setkit/roles/sqldb"
)

// applicationState is what became of a CertReq:
//
//	waiting ─┬─ approved ── issued
//	         └─ rejected
//
// Where nobody has to approve it is issued or refused at once. An approved one is issued when the requester
// asks, by CertInqReq; refused then, if a check that held before does not any more.
type applicationState string

const (
	waiting  applicationState = "waiting"  // for an operator
	approved applicationState = "approved" // by an operator
	rejected applicationState = "rejected" // by an operator
	issued   applicationState = "issued"
	refused  applicationState = "refused" // by the CA's checks
)

// application is a CertReq whose signatures verify, with all that is needed to certify and to answer.
type application struct {
	ca           string
	lidCA, lidEE set.LocalID
	state        applicationState
	typ          set.RequestType
	registrant   string // of a merchant or gateway

	bin        set.BIN   // of a cardholder, as the next three
	commonName string    // of the certificate
	cardEnd    time.Time // when the card has expired
	panMAC     []byte

	renews    string // thumbprint of the certificate that is renewed
	possessed crypto.PublicKey
	sign      crypto.PublicKey
	exchange  crypto.PublicKey
	sealed    []byte      // secrets, of a cardholder
	nonce     *set.Secret // the one in sealed, while CertReq is answered

	status  set.CertStatusCode
	message string
	asked   time.Time
}

// secrets are what a cardholder's answer needs, as they are kept. LIDCA ties them to their application.
type secrets struct {
	LIDCA    set.LocalID
	NonceCCA set.Secret
	BackKey  set.BackKey
}

// contentSecrets is the content type of secrets. It is in no message.
var contentSecrets = asn1.ObjectIdentifier{2, 23, 42, 9, 99, 2}

// seal encrypts secrets for the CA itself.
func (a *authority) seal(s secrets) ([]byte, error) {
	ci, err := cms.Encrypt(a.Endpoint.ExchangeCert.X509, contentSecrets, s, cms.Plain, nil)
	if err != nil {
		return nil, err
	}
	return der.Marshal(ci)
}

// errSealed tells that secrets cannot be opened: they are of a key that the CA has no more.
var errSealed = refuse(set.UnableToEncryptCertRes, "the key for this answer is not there any more: register anew")

func (a *authority) unseal(app *application) (s secrets, err error) {
	if len(app.sealed) == 0 {
		return s, errSealed
	}
	var ci cms.ContentInfo
	if err := der.Unmarshal(app.sealed, &ci); err != nil {
		return s, err
	}
	plain, _, err := cms.Recipient{Key: a.Endpoint.ExchangeKey, Certificate: a.Endpoint.ExchangeCert.X509}.Decrypt(ci, contentSecrets, cms.Plain)
	if errors.Is(err, cms.ErrDecrypt) || errors.Is(err, cms.ErrMalformed) {
		return s, errSealed
	}
	if err != nil {
		return s, err
	}
	defer clear(plain)
	if err := der.Unmarshal(plain, &s); err != nil {
		return s, err
	}
	if string(s.LIDCA) != string(app.lidCA) {
		return secrets{}, errors.New("the secrets of an application are those of another")
	}
	return s, nil
}

// id names an application to people.
func (a *application) id() string { return hex.EncodeToString(a.lidCA) }

const applicationColumns = `ca, lid_ca, lid_ee, state, request_type, registrant, bin, common_name, card_end_s, pan_mac, renews,
	possessed, sign_key, exchange_key, sealed, status, message, asked_s`

func (a *application) insert(ctx context.Context, tx *sql.Tx) error {
	var keys [3][]byte
	for i, key := range []crypto.PublicKey{a.possessed, a.sign, a.exchange} {
		keys[i] = []byte{}
		if key == nil {
			continue
		}
		var err error
		if keys[i], err = x509.MarshalPKIXPublicKey(key); err != nil {
			return err
		}
	}
	var end int64
	if !a.cardEnd.IsZero() {
		end = a.cardEnd.Unix()
	}
	_, err := tx.ExecContext(ctx, `INSERT INTO application (`+applicationColumns+`, decided_s, decided_by, expires_s)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, 0, '', $19)`,
		a.ca, []byte(a.lidCA), []byte(a.lidEE), string(a.state), int64(a.typ), a.registrant, string(a.bin), a.commonName, end,
		append([]byte{}, a.panMAC...), a.renews, keys[0], keys[1], keys[2], append([]byte{}, a.sealed...), int64(a.status), a.message,
		a.asked.Unix(), a.asked.Add(outcomeLife).Unix())
	if err != nil {
		return fmt.Errorf("keep a request: %w", err)
	}
	return nil
}

// advance records what became of the application; errGone if somebody else did.
func (a *application) advance(ctx context.Context, tx *sql.Tx, from applicationState) error {
	res, err := tx.ExecContext(ctx, `UPDATE application SET state = $1, status = $2, message = $3 WHERE ca = $4 AND lid_ca = $5 AND state = $6`,
		string(a.state), int64(a.status), a.message, a.ca, []byte(a.lidCA), string(from))
	if err != nil {
		return fmt.Errorf("record what became of a request: %w", err)
	}
	if n, err := res.RowsAffected(); err != nil || n != 1 {
		return errors.Join(err, errMeanwhile)
	}
	return nil
}

// errMeanwhile tells that the state was changed by another request: this one is answered when it is repeated.
var errMeanwhile = errors.New("another request is being answered from the same registration")

// findApplication gives the application that LID-CA and LID-EE name; errGone if there is none.
func findApplication(ctx context.Context, db *sqldb.DB, now time.Time, ca string, lidCA, lidEE set.LocalID) (a *application, err error) {
	err = db.View(ctx, func(tx *sql.Tx) error {
		a, err = scanApplication(tx.QueryRowContext(ctx, `SELECT `+applicationColumns+` FROM application
			WHERE ca = $1 AND lid_ca = $2 AND lid_ee = $3 AND expires_s >= $4`, ca, []byte(lidCA), []byte(lidEE), now.Unix()))
		return err
	})
	if errors.Is(err, sql.ErrNoRows) {
		return nil, errGone
	}
	if err != nil {
		return nil, fmt.Errorf("look a request up: %w", err)
	}
	return a, nil
}

func scanApplication(row interface{ Scan(...any) error }) (*application, error) {
	a := &application{}
	var lidCA, lidEE []byte
	var keys [3][]byte
	var end, asked int64
	err := row.Scan(&a.ca, &lidCA, &lidEE, &a.state, &a.typ, &a.registrant, &a.bin, &a.commonName, &end, &a.panMAC, &a.renews,
		&keys[0], &keys[1], &keys[2], &a.sealed, &a.status, &a.message, &asked)
	if err != nil {
		return nil, err
	}
	a.lidCA, a.lidEE, a.asked = lidCA, lidEE, time.Unix(asked, 0)
	if end != 0 {
		a.cardEnd = time.Unix(end, 0)
	}
	for i, into := range []*crypto.PublicKey{&a.possessed, &a.sign, &a.exchange} {
		if len(keys[i]) == 0 {
			continue
		}
		if *into, err = x509.ParsePKIXPublicKey(keys[i]); err != nil {
			return nil, fmt.Errorf("key of a stored request: %w", err)
		}
	}
	return a, nil
}

func expireApplications(ctx context.Context, db *sqldb.DB, now time.Time) error {
	return db.Tx(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `DELETE FROM application WHERE expires_s < $1`, now.Unix()); err != nil {
			return fmt.Errorf("remove old requests: %w", err)
		}
		return nil
	})
}

// certificatesOf gives what was issued for an application, the signature certificate first.
func certificatesOf(ctx context.Context, db *sqldb.DB, a *application) (certs []*pki.Certificate, err error) {
	err = db.View(ctx, func(tx *sql.Tx) error {
		certs = nil
		rows, err := tx.QueryContext(ctx, `SELECT certificate FROM certificate WHERE ca = $1 AND lid_ca = $2 ORDER BY key_use DESC`, a.ca, []byte(a.lidCA))
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var raw []byte
			if err := rows.Scan(&raw); err != nil {
				return err
			}
			c, err := pki.ParseCertificate(raw)
			if err != nil {
				return err
			}
			certs = append(certs, c)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("read the certificates of a request: %w", err)
	}
	return certs, nil
}
