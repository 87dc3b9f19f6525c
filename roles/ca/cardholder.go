package ca

import (
	"context"
	"crypto"
	"crypto/subtle"
	"database/sql"
	"errors"
	"fmt"
	"time"

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

// message is what the cardholder of a bank is shown with a certificate.
func (c *CardholderCA) message(bin set.BIN) *set.CAMsg {
	if p := c.program(bin); p != nil {
		return p.Message
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
	c, err := s.requested(ctx, r, s.cca, o)
	if err != nil {
		return nil, err
	}
	if opening != nil {
		return s.conclude(ctx, c, nil, opening)
	}
	checked := c.pass(ctx, cardholderChecks)
	app, err := c.cardholder()
	if err != nil {
		return nil, err
	}
	defer clear(app.nonce[:])
	return s.conclude(ctx, c, app, checked)
}

// requested finds the registration that a CertReq belongs to, and checks that it answers what was asked.
func (s *CA) requested(ctx context.Context, r *request, a *authority, o *set.OpenedCertReq) (*candidate, error) {
	e, err := findEnrolment(ctx, s.DB, r.now, a.name, o.Data.LIDCA, o.Data.LIDEE, asked)
	if err != nil {
		return nil, err
	}
	c := &candidate{s: s, r: r, a: a, o: o, e: e}
	return c, c.admit()
}

// application is what the candidate asks for, whether or not it has passed the checks.
func (c *candidate) application() *application {
	app := &application{
		ca: c.a.name, lidCA: c.e.lidCA, lidEE: c.e.lidEE, typ: c.o.Data.RequestType, registrant: c.e.registrant,
		possessed: c.o.Possessed(), sign: c.o.SignKey, exchange: c.o.ExchangeKey, asked: c.r.now,
	}
	if c.o.Renewal() {
		app.renews = c.o.Data.EEThumb.Thumbprint.String()
	}
	return app
}

// cardholder is the application of a cardholder, with the CA's half of PANSecret and the name that follows
// from it (SET §6.4). Card number, expiry and the cardholder's half are not kept.
func (c *candidate) cardholder() (*application, error) {
	app, account := c.application(), c.o.Account.PANData0
	nonce := set.NewSecret()
	app.nonce = &nonce
	var secret set.Secret
	defer clear(secret[:])
	subtle.XORBytes(secret[:], nonce[:], account.CardSecret[:])
	var err error
	if app.commonName, err = pki.UniqueCardholderID(secret[:], account.PAN, account.CardExpiry); err != nil {
		return nil, err
	}
	app.bin, app.cardEnd, app.panMAC = account.PAN.BIN(), c.cardEnd, c.e.panMAC
	app.sealed, err = c.a.seal(secrets{LIDCA: app.lidCA, NonceCCA: nonce, BackKey: c.o.BackKey()})
	return app, err
}

// certify issues what an application asks for. A refusal is a *set.CertStatusError.
func (s *CA) certify(now time.Time, a *authority, app *application) (certs []*pki.Certificate, err error) {
	s.Log.Info("certificates to be issued", "ca", app.ca, "lid", app.lidCA, "registrant", app.registrant)
	for _, k := range []struct {
		public crypto.PublicKey
		use    pki.Use
	}{{app.sign, pki.Signature}, {app.exchange, pki.KeyExchange}} {
		if k.public == nil {
			continue
		}
		t := pki.Template{Use: k.use, PublicKey: k.public}
		if err := s.describe(a, app, &t); err != nil {
			return nil, err
		}
		c, err := a.issue(now, app.cardEnd, t)
		if errors.Is(err, errTooShort) {
			return nil, refuse(set.RejectedByCA, "the card expires too soon")
		}
		if err != nil {
			return nil, err
		}
		certs = append(certs, c)
	}
	return certs, nil
}

// describe completes a template with who it is for, as the configuration says now.
func (s *CA) describe(a *authority, app *application, t *pki.Template) error {
	if a != s.cca {
		who := s.named(app.registrant)
		if who == nil {
			return refuse(set.RejectedByAcquirer, "no acquirer has registered this party any more")
		}
		t.Subject = who.names
		who.fill(t)
		return nil
	}
	program := s.Cardholder.program(app.bin)
	if program == nil {
		return refuse(set.InvalidBIN, "cards of this bank cannot be registered here any more")
	}
	t.Type = pki.Card
	t.Subject = pki.Name{Country: program.Country, Brand: a.Certificate.Brand(), Unit: program.Issuer, CardName: program.CardName, CommonName: app.commonName}
	return nil
}

// conclude answers a CertReq: with the certificates, with the word that somebody has to approve, or when
// outcome is a *set.CertStatusError with that refusal. app is nil if the request's signatures do not verify.
func (s *CA) conclude(ctx context.Context, c *candidate, app *application, outcome error) ([]byte, error) {
	var certs []*pki.Certificate
	if outcome == nil && !c.a.ByHand {
		certs, outcome = s.certify(c.r.now, c.a, app)
	}
	for {
		var refusal *set.CertStatusError
		if outcome != nil && !errors.As(outcome, &refusal) {
			return nil, outcome
		}
		status := s.status(c.a, app, refusal, len(certs) > 0)
		if refusal != nil {
			certs = nil
		}
		if len(certs) > 0 {
			status.NonceCCA = app.nonce
		}
		response, err := c.a.Endpoint.CertRes(c.r.now, c.o, c.e.lidCA, status, certs...)
		if err != nil {
			return nil, err
		}
		err = s.answer(ctx, c.r, response, func(tx *sql.Tx) error { return c.settle(ctx, tx, app, status.CertStatusCode, certs) })
		if errors.As(err, &refusal) && outcome == nil {
			outcome = err // a key or code was used up meanwhile: what was signed is thrown away
			continue
		}
		if err != nil {
			return nil, err
		}
		s.logOutcome(c.a.name, c.e.lidCA, c.e.registrant, status.CertStatusCode, certs)
		return response, nil
	}
}

// settle records what became of a CertReq.
func (c *candidate) settle(ctx context.Context, tx *sql.Tx, app *application, code set.CertStatusCode, certs []*pki.Certificate) error {
	if err := c.e.end(ctx, tx, c.r.now, code); err != nil {
		return err
	}
	if !c.o.Renewal() {
		if err := settleCode(ctx, tx, c.who, code); err != nil {
			return err
		}
	}
	if app == nil {
		return nil
	}
	if err := app.insert(ctx, tx); err != nil {
		return err
	}
	return addCertificates(ctx, tx, c.r.now, app, certs)
}

// waitingMessage is what a requester is told until somebody has decided.
const waitingMessage = "The request is being looked at. Please ask again later."

// status is what the requester is told, and makes app say the same to those who ask later.
func (s *CA) status(a *authority, app *application, refusal *set.CertStatusError, done bool) set.CertStatus {
	status := set.CertStatus{CertStatusCode: set.RequestPended, EEMessage: waitingMessage}
	state := waiting
	switch {
	case refusal != nil:
		status, state = refusal.Status(), refused
	case done:
		status, state = set.CertStatus{CertStatusCode: set.RequestComplete}, issued
		if a == s.cca {
			status.CAMsg = s.Cardholder.message(app.bin)
		}
	}
	if app != nil {
		app.state, app.status, app.message = state, status.CertStatusCode, string(status.EEMessage)
	}
	return status
}

// logOutcome tells the log how a registration ended, or that it waits.
func (s *CA) logOutcome(ca string, lidCA set.LocalID, registrant string, code set.CertStatusCode, certs []*pki.Certificate) {
	log := s.Log.With("ca", ca, "lid", lidCA, "registrant", registrant)
	switch {
	case code == set.RequestPended:
		log.Info("request waits for approval")
	case len(certs) == 0:
		log.Warn("registration refused", "status", code.String())
	}
	for _, c := range certs {
		log.Info("certificate issued", "serial", c.Serial(), "type", c.Type.String(), "use", c.Use.String(),
			"thumbprint", c.Thumbprint().String(), "not_after", c.X509.NotAfter)
	}
}
