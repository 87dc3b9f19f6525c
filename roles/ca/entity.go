package ca

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"database/sql"
	"encoding/asn1"
	"errors"
	"fmt"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/pki"
)

// codeFailuresMax is how often a wrong registration code may be given for one right one.
const codeFailuresMax = 10

// fieldCode is the only field of the form for merchants and gateways.
const (
	fieldCode = iota
	entityFields
)

// MerchantCA certifies the merchants that their acquirers have registered with it.
type MerchantCA struct {
	Authority
	Form      Form // its field is the registration code
	Merchants []Merchant
	Referral  Referral // for all others
}

// PaymentCA certifies the payment gateways that their acquirers have registered with it.
type PaymentCA struct {
	Authority
	Form     Form // its field is the registration code
	Gateways []Gateway
	Referral Referral // for all others
}

// Acquirer is who vouches for a merchant or gateway.
type Acquirer struct {
	BIN     set.BIN
	Country string // ISO 3166 alpha-2
	Name    string
}

// Merchant is a merchant as its acquirer has registered it.
type Merchant struct {
	Acquirer Acquirer
	ID       set.MerchantID
	Name     string // as on the cardholders' statements
	Names    []pki.MerchantNames
	Country  int  // ISO 3166 numeric
	AuthFlag bool // whether the merchant may be told card numbers
	Code     RegistrationCode
}

// Gateway is a payment gateway as its acquirer has registered it.
type Gateway struct {
	Acquirer         Acquirer
	BusinessID       set.AcquirerBusinessID // may be empty
	ID               string
	CardCertRequired bool // whether it refuses cardholders without a certificate
	Tunneling        []asn1.ObjectIdentifier
	Code             RegistrationCode
}

// RegistrationCode is what the acquirer tells a merchant or gateway, for one registration. Only its digest
// is kept.
type RegistrationCode [sha256.Size]byte

// codeCharsMin is the shortest registration code.
const codeCharsMin = 12

// NewRegistrationCode makes the digest of a code.
func NewRegistrationCode(code []byte) (RegistrationCode, error) {
	if len(code) < codeCharsMin {
		return RegistrationCode{}, fmt.Errorf("registration code of %d characters, want at least %d", len(code), codeCharsMin)
	}
	return sha256.Sum256(code), nil
}

// registrant is a merchant or gateway that may be certified.
type registrant struct {
	name  string // unique
	code  RegistrationCode
	names pki.Name
	// fill completes a template with what is the registrant's own.
	fill func(*pki.Template)
}

func (m *Merchant) registrant(brand string) *registrant {
	return &registrant{
		name: fmt.Sprintf("merchant %s/%s", m.Acquirer.BIN, m.ID), code: m.Code,
		names: pki.Name{Country: m.Acquirer.Country, Brand: brand, Unit: m.Acquirer.Name, CommonName: m.Name},
		fill: func(t *pki.Template) {
			t.Type = pki.Mer
			t.Merchant = &pki.MerchantData{
				MerchantID: string(m.ID), AcquirerBIN: string(m.Acquirer.BIN), Names: m.Names, Country: m.Country, AuthFlag: m.AuthFlag,
			}
		},
	}
}

func (g *Gateway) registrant(brand string) *registrant {
	return &registrant{
		name: fmt.Sprintf("gateway %s/%s", g.Acquirer.BIN, g.BusinessID), code: g.Code,
		names: pki.Name{Country: g.Acquirer.Country, Brand: brand, Unit: g.Acquirer.Name, CommonName: g.ID},
		fill: func(t *pki.Template) {
			t.Type = pki.Pgwy
			if t.Use == pki.KeyExchange {
				t.CardCertRequired = g.CardCertRequired
				t.Tunneling = &pki.Tunneling{Supported: len(g.Tunneling) > 0, Algorithms: g.Tunneling}
			}
		},
	}
}

func (c *MerchantCA) check() error {
	seen := make(map[string]bool)
	for i := range c.Merchants {
		m := &c.Merchants[i]
		if err := addRegistrant(seen, m.registrant("")); err != nil {
			return fmt.Errorf("mca: %w", err)
		}
		if m.ID == "" || len(m.Names) == 0 || m.Country < 1 || m.Country > 999 {
			return fmt.Errorf("mca: merchant %q has no number, names or numeric country", m.ID)
		}
	}
	return c.Form.check("mca", entityFields)
}

func (c *PaymentCA) check() error {
	seen := make(map[string]bool)
	for i := range c.Gateways {
		if err := addRegistrant(seen, c.Gateways[i].registrant("")); err != nil {
			return fmt.Errorf("pca: %w", err)
		}
	}
	return c.Form.check("pca", entityFields)
}

func addRegistrant(seen map[string]bool, r *registrant) error {
	switch {
	case seen[r.name]:
		return fmt.Errorf("%s twice", r.name)
	case r.code == RegistrationCode{}:
		return fmt.Errorf("%s has no registration code", r.name)
	case len(r.names.Country) != 2 || r.names.Unit == "" || r.names.CommonName == "":
		return fmt.Errorf("%s: country, acquirer's name or own name is missing", r.name)
	}
	seen[r.name] = true
	return nil
}

// registrant finds who asks; nil when no acquirer has registered it, or the request does not say.
func (s *CA) registrant(id *set.IDData) *registrant {
	if id == nil {
		return nil
	}
	brand := s.mca.Certificate.Brand()
	if m := id.MerchantAcquirerID; m != nil {
		for i, known := range s.Merchant.Merchants {
			if known.ID == m.MerchantID && known.Acquirer.BIN == m.MerchantBIN {
				return s.Merchant.Merchants[i].registrant(brand)
			}
		}
		return nil
	}
	for i, known := range s.Payment.Gateways {
		if known.Acquirer.BIN == id.AcquirerID.AcquirerBIN && known.BusinessID == id.AcquirerID.AcquirerBusinessID {
			return s.Payment.Gateways[i].registrant(brand)
		}
	}
	return nil
}

// named finds a registrant by its name; nil if it is configured no more.
func (s *CA) named(name string) *registrant {
	brand := s.mca.Certificate.Brand()
	for i := range s.Merchant.Merchants {
		if r := s.Merchant.Merchants[i].registrant(brand); r.name == name {
			return r
		}
	}
	for i := range s.Payment.Gateways {
		if r := s.Payment.Gateways[i].registrant(brand); r.name == name {
			return r
		}
	}
	return nil
}

func (s *CA) referral(a *authority) set.RegFormOrReferral {
	if a == s.mca {
		return s.Merchant.Referral.form()
	}
	return s.Payment.Referral.form()
}

// entityInit answers Me-AqCInitReq: it begins a registration with the form, or refers elsewhere.
func (s *CA) entityInit(a *authority) func(context.Context, *request) ([]byte, error) {
	return func(ctx context.Context, r *request) ([]byte, error) {
		req, err := a.Endpoint.OpenMeAqCInitReq(r.w)
		if err != nil {
			return nil, err
		}
		e := &enrolment{
			ca: a.name, lidCA: set.NewLocalID(), lidEE: req.LIDEE, state: asked, typ: req.RequestType,
			challCA: set.NewChallenge(), expires: r.now.Add(registrationLife),
		}
		offered := a.formFor(req.RequestType)
		form := set.RegFormOrReferral{RegFormData: &offered}
		if who := s.registrant(&req.IDData); who != nil {
			e.registrant = who.name
		} else {
			form, e.state = s.referral(a), done
		}
		response, err := a.Endpoint.MeAqCInitRes(r.now, req, e.lidCA, e.challCA, form, nil)
		if err != nil {
			return nil, err
		}
		return response, s.begin(ctx, r, e, response)
	}
}

// certifyEntity answers a merchant's or gateway's CertReq.
func (s *CA) certifyEntity(a *authority) func(context.Context, *request) ([]byte, error) {
	return func(ctx context.Context, r *request) ([]byte, error) {
		o, opening := a.Endpoint.OpenCertReq(r.now, r.w)
		if o == nil {
			return nil, opening
		}
		defer o.Clear()
		c, err := s.requested(ctx, r, a, o)
		if err != nil {
			return nil, err
		}
		if opening != nil {
			return s.conclude(ctx, c, nil, opening)
		}
		checked := c.pass(ctx, entityChecks)
		return s.conclude(ctx, c, c.application(), checked)
	}
}

var (
	errWrongCode = refuse(set.RejectedByAcquirer, "the registration code is not the one that the acquirer has set")
	errUsedCode  = refuse(set.RejectedByAcquirer, "the registration code was used, or missed too often: the acquirer must set a new one")
)

// checkCode tells whether code is the registrant's and still good.
func (s *CA) checkCode(ctx context.Context, who *registrant, code set.FieldText) error {
	err := s.DB.View(ctx, func(tx *sql.Tx) error {
		failures, used, err := codeState(ctx, tx, who)
		if err == nil && (used || failures >= codeFailuresMax) {
			err = errUsedCode
		}
		return err
	})
	if err != nil {
		return err
	}
	if digest := sha256.Sum256([]byte(code)); subtle.ConstantTimeCompare(digest[:], who.code[:]) != 1 {
		return errWrongCode
	}
	return nil
}

func codeState(ctx context.Context, tx *sql.Tx, who *registrant) (failures int64, used bool, err error) {
	err = tx.QueryRowContext(ctx, `SELECT failures, used FROM registration_code WHERE registrant = $1 AND code_sha256 = $2`,
		who.name, who.codeKey()).Scan(&failures, &used)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("look a registration code up: %w", err)
	}
	return failures, used, nil
}

// codeKey names a code in the database. It is no digest of the code alone, which could be searched for.
func (r *registrant) codeKey() []byte {
	sum := sha256.Sum256(append([]byte(r.name+"\x00"), r.code[:]...))
	return sum[:]
}

// settleCode records what a CertReq did to the registrant's code: used it up, which one that waits for
// approval does too, or missed it.
func settleCode(ctx context.Context, tx *sql.Tx, who *registrant, code set.CertStatusCode) error {
	good := code == set.RequestComplete || code == set.RequestPended
	if who == nil || !good && code != set.RejectedByAcquirer {
		return nil
	}
	failures, used, err := codeState(ctx, tx, who)
	if err != nil {
		return err
	}
	if good {
		if used || failures >= codeFailuresMax {
			return errUsedCode // by another request meanwhile
		}
		used = true
	} else {
		failures++
	}
	n := 0
	if used {
		n = 1
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO registration_code (registrant, code_sha256, failures, used) VALUES ($1, $2, $3, $4)
		ON CONFLICT (registrant, code_sha256) DO UPDATE SET failures = $3, used = $4`, who.name, who.codeKey(), failures, n)
	if err != nil {
		return fmt.Errorf("record the use of a registration code: %w", err)
	}
	return nil
}
