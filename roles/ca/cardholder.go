package ca

import (
	"context"
	"crypto/hmac"
	"crypto/subtle"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/setkit/setkit/roles/finnet"
	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/pki"
)

// CardholderCA certifies cardholders.
type CardholderCA struct {
	Authority
	Form     Form          // its fields are the cardholder's name and the registration code
	Programs []CardProgram // the cards that can be registered
	Network  set.BIN       // how this CA is named on the financial network
	Referral Referral      // for all other cards
}

// Referral is what those are told who cannot be served.
type Referral struct {
	Reason set.Text512
	URLs   []set.URL
}

func (r Referral) form() set.RegFormOrReferral {
	return set.RegFormOrReferral{ReferralData: &set.ReferralData{Reason: r.Reason, ReferralURLSeq: r.URLs}}
}

// CardProgram is a kind of card.
type CardProgram struct {
	BINs     []set.BIN
	Country  string // of the issuing institution, ISO 3166 alpha-2
	Issuer   string // its name
	CardName string // promotional; may be empty
	Message  *set.CAMsg
}

// Places of the fields in the form for cardholders.
const (
	fieldHolder = iota
	fieldSecret
	cardholderFields
)

func (c *CardholderCA) check() error {
	if len(c.Programs) == 0 {
		return errors.New("cca: no cards to certify for")
	}
	seen := make(map[set.BIN]bool)
	for _, p := range c.Programs {
		if len(p.BINs) == 0 || len(p.Country) != 2 || p.Issuer == "" {
			return errors.New("cca: a program without BINs, or without the issuer's country or name")
		}
		for _, bin := range p.BINs {
			if seen[bin] {
				return fmt.Errorf("cca: BIN %s twice", bin)
			}
			seen[bin] = true
		}
	}
	if len(c.Network) != 6 {
		return errors.New("cca: the name on the financial network is not 6 digits")
	}
	return c.Form.check("cca", cardholderFields)
}

func (c *CardholderCA) program(bin set.BIN) *CardProgram {
	for i := range c.Programs {
		for _, b := range c.Programs[i].BINs {
			if b == bin {
				return &c.Programs[i]
			}
		}
	}
	return nil
}

// cardInit answers CardCInitReq: it begins a registration.
func (s *CA) cardInit(ctx context.Context, r *request) ([]byte, error) {
	req, err := s.cca.Endpoint.OpenCardCInitReq(r.w)
	if err != nil {
		return nil, err
	}
	e := &enrolment{ca: s.cca.name, lidCA: set.NewLocalID(), lidEE: req.LIDEE, state: begun, typ: set.CardInitialSig, expires: r.now.Add(registrationLife)}
	response, err := s.cca.Endpoint.CardCInitRes(r.now, req, e.lidCA)
	if err != nil {
		return nil, err
	}
	return response, s.begin(ctx, r, e, response)
}

// begin stores a new registration with the answer that tells of it.
func (s *CA) begin(ctx context.Context, r *request, e *enrolment, response []byte) error {
	n, err := openEnrolments(ctx, s.DB, r.now, e.ca)
	if err != nil {
		return err
	}
	if n >= registrationsMax {
		return fmt.Errorf("%d registrations are open already", n)
	}
	err = s.answer(ctx, r, response, func(tx *sql.Tx) error { return e.insert(ctx, tx) })
	if err == nil {
		s.Log.Info("registration begun", "ca", e.ca, "lid", e.lidCA, "type", e.typ.String(), "registrant", e.registrant)
	}
	return err
}

// answer makes the state change of a request and stores its answer, in one transaction.
func (s *CA) answer(ctx context.Context, r *request, response []byte, change func(tx *sql.Tx) error) error {
	return s.DB.Tx(ctx, func(tx *sql.Tx) error {
		if err := s.DB.SaveAnswer(ctx, tx, r.key, r.digest, response, r.now.Add(answerLife)); err != nil {
			return err
		}
		return change(tx)
	})
}

// regForm answers RegFormReq with the form for the card, or a referral.
func (s *CA) regForm(ctx context.Context, r *request) ([]byte, error) {
	o, err := s.cca.Endpoint.OpenRegFormReq(r.w)
	if err != nil {
		return nil, err
	}
	defer o.Clear()
	e, err := findEnrolment(ctx, s.DB, r.now, s.cca.name, o.Data.LIDCA, o.Data.LIDEE, begun)
	if err != nil {
		return nil, err
	}
	e.typ, e.challCA = o.Data.RequestType, set.NewChallenge()
	form, next := set.RegFormOrReferral{RegFormData: &s.cca.form}, asked
	if s.Cardholder.program(o.PANOnly.PAN.BIN()) == nil {
		form, next = s.Cardholder.Referral.form(), done
	} else if e.panMAC, err = s.panMAC(e.lidCA, o.PANOnly.PAN); err != nil {
		return nil, err
	}
	response, err := s.cca.Endpoint.RegFormRes(r.now, &o.Data, e.lidCA, e.challCA, form)
	if err != nil {
		return nil, err
	}
	if err := s.answer(ctx, r, response, func(tx *sql.Tx) error { return e.advance(ctx, tx, next) }); err != nil {
		return nil, err
	}
	s.Log.Info("form sent", "ca", e.ca, "lid", e.lidCA, "referred", next == done)
	return response, nil
}

// panMAC is how a card number is remembered, for one registration only.
func (s *CA) panMAC(lidCA set.LocalID, pan set.PAN) ([]byte, error) {
	data := make([]byte, 0, 64) // large enough to leave no copy of the number in a smaller array
	data = append(data, byte(len(lidCA)))
	data = append(data, lidCA...)
	data = append(data, pan...)
	defer clear(data)
	return s.PANMAC.Sum(data)
}

// certifyCard answers a cardholder's CertReq.
func (s *CA) certifyCard(ctx context.Context, r *request) ([]byte, error) {
	o, opening := s.cca.Endpoint.OpenCertReq(r.now, r.w)
	if o == nil {
		return nil, opening
	}
	defer o.Clear()
	e, err := s.requested(ctx, r, s.cca, o)
	if err != nil {
		return nil, err
	}
	status, cert, err := set.CertStatus{}, (*pki.Certificate)(nil), opening
	if err == nil {
		status, cert, err = s.issueCard(ctx, r, o, e)
	}
	if status.NonceCCA != nil {
		defer clear(status.NonceCCA[:])
	}
	var certs []*pki.Certificate
	if cert != nil {
		certs = []*pki.Certificate{cert}
	}
	return s.conclude(ctx, r, s.cca, o, e, status, certs, err, nil)
}

// requested finds the registration that a CertReq belongs to, and checks that it answers what was asked.
func (s *CA) requested(ctx context.Context, r *request, a *authority, o *set.OpenedCertReq) (*enrolment, error) {
	e, err := findEnrolment(ctx, s.DB, r.now, a.name, o.Data.LIDCA, o.Data.LIDEE, asked)
	if err != nil {
		return nil, err
	}
	if c := o.Data.ChallCA; c == nil || subtle.ConstantTimeCompare(c[:], e.challCA[:]) != 1 {
		return nil, &set.ProtocolError{Code: set.ChallengeMismatch, Err: errors.New("chall-CA is missing or another")}
	}
	if o.Data.RequestType != e.typ {
		return nil, &set.ProtocolError{Code: set.UnspecifiedFailure, Err: fmt.Errorf("CertReq for %v after a form for %v", o.Data.RequestType, e.typ)}
	}
	return e, nil
}

// issueCard makes every check of SET §7.2 that is still to be made, asks the issuer, and certifies. A
// refusal is a *set.CertStatusError.
func (s *CA) issueCard(ctx context.Context, r *request, o *set.OpenedCertReq, e *enrolment) (status set.CertStatus, cert *pki.Certificate, err error) {
	account := o.Account.PANData0
	answers, err := o.Answers(s.cca.form.RegTemplate)
	if err != nil {
		return status, nil, err
	}
	mac, err := s.panMAC(e.lidCA, account.PAN)
	if err != nil {
		return status, nil, err
	}
	if !hmac.Equal(mac, e.panMAC) {
		return status, nil, refuse(set.RejectedByCA, "the form was for another card")
	}
	program := s.Cardholder.program(account.PAN.BIN())
	if program == nil {
		return status, nil, refuse(set.InvalidBIN, "cards of this bank cannot be registered here")
	}
	end, err := account.CardExpiry.End()
	if err != nil || !end.After(r.now) {
		return status, nil, refuse(set.RejectedByCA, "the card has expired, or its expiry is no month")
	}
	if err := keyUsed(ctx, s.DB, e.ca, o.SignKey); err != nil {
		return status, nil, err
	}
	if err := s.askIssuer(ctx, r, account, answers); err != nil {
		return status, nil, err
	}
	return s.signCard(r, o, e, program, end)
}

// askIssuer is nil when the card's issuer knows the account by this name and code.
func (s *CA) askIssuer(ctx context.Context, r *request, account *set.PANData0, answers []set.FieldText) error {
	secret := []byte(answers[fieldSecret])
	defer clear(secret)
	code, err := s.Issuer.Verify(ctx, &finnet.AccountCheck{
		Trace: finnet.NewTrace(s.Cardholder.Network, r.now), PAN: account.PAN, Expiry: account.CardExpiry,
		Holder: string(answers[fieldHolder]), Secret: secret,
	})
	switch {
	case errors.Is(err, finnet.ErrNoReply), errors.Is(err, finnet.ErrUnavailable), err == nil && code == finnet.IssuerUnavailable:
		return fmt.Errorf("ask the card's issuer: %w", errors.Join(err, ctx.Err(), errIssuerAway))
	case err != nil: // nothing was sent, because it does not fit the network
		return refuse(set.RegFormAnswerMalformed, "the issuer cannot be asked with these answers")
	case code != finnet.Approved:
		return refuse(set.RejectedByIssuer, "the bank does not know this card under this name and code")
	}
	return nil
}

var errIssuerAway = errors.New("no answer from the issuer")

// signCard makes the cardholder's certificate and the CA's half of PANSecret (SET §6.4).
func (s *CA) signCard(r *request, o *set.OpenedCertReq, e *enrolment, program *CardProgram, end time.Time) (status set.CertStatus, cert *pki.Certificate, err error) {
	account := o.Account.PANData0
	nonce := set.NewSecret()
	var secret set.Secret
	defer clear(secret[:])
	subtle.XORBytes(secret[:], nonce[:], account.CardSecret[:])
	id, err := pki.UniqueCardholderID(secret[:], account.PAN, account.CardExpiry)
	if err != nil {
		return status, nil, err
	}
	s.Log.Info("certificate to be issued", "ca", e.ca, "lid", e.lidCA)
	cert, err = s.cca.issue(r.now, end, pki.Template{
		Type: pki.Card, Use: pki.Signature, PublicKey: o.SignKey,
		Subject: pki.Name{Country: program.Country, Brand: s.cca.Certificate.Brand(), Unit: program.Issuer, CardName: program.CardName, CommonName: id},
	})
	if errors.Is(err, errTooShort) {
		return status, nil, refuse(set.RejectedByCA, "the card expires too soon")
	}
	if err != nil {
		return status, nil, err
	}
	return set.CertStatus{CertStatusCode: set.RequestComplete, NonceCCA: &nonce, CAMsg: program.Message}, cert, nil
}

// conclude answers a CertReq: with the certificates, or when outcome is a *set.CertStatusError with that
// refusal. also is done in the same transaction, and told which of them it is.
func (s *CA) conclude(ctx context.Context, r *request, a *authority, o *set.OpenedCertReq, e *enrolment, status set.CertStatus, certs []*pki.Certificate, outcome error, also func(*sql.Tx, set.CertStatusCode) error) ([]byte, error) {
	for {
		var refusal *set.CertStatusError
		if outcome != nil && !errors.As(outcome, &refusal) {
			return nil, outcome
		}
		if refusal != nil {
			status, certs = refusal.Status(), nil
		}
		response, err := a.Endpoint.CertRes(r.now, o, e.lidCA, status, certs...)
		if err != nil {
			return nil, err
		}
		err = s.answer(ctx, r, response, func(tx *sql.Tx) error {
			if err := e.end(ctx, tx, r.now, status.CertStatusCode); err != nil {
				return err
			}
			if also != nil {
				if err := also(tx, status.CertStatusCode); err != nil {
					return err
				}
			}
			return addCertificates(ctx, tx, r.now, e, certs)
		})
		if errors.As(err, &refusal) && outcome == nil {
			outcome = err // a key or code was used up meanwhile: what was signed is thrown away
			continue
		}
		if err != nil {
			return nil, err
		}
		s.audit(e, status, certs)
		return response, nil
	}
}

func (s *CA) audit(e *enrolment, status set.CertStatus, certs []*pki.Certificate) {
	log := s.Log.With("ca", e.ca, "lid", e.lidCA, "registrant", e.registrant)
	if len(certs) == 0 {
		log.Warn("registration refused", "status", status.CertStatusCode.String())
	}
	for _, c := range certs {
		log.Info("certificate issued", "serial", c.Serial(), "type", c.Type.String(), "use", c.Use.String(),
			"thumbprint", c.Thumbprint().String(), "not_after", c.X509.NotAfter)
	}
}
