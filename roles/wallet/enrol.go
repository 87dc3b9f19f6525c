package wallet

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/pki"
	"github.com/setkit/setkit/roles/sethttp"
)

// Enrolment says what to enrol, and where.
type Enrolment struct {
	CAURL    string // of the cardholder CA
	Root     *pki.Certificate
	Brand    set.BrandID
	Bank     string         // whose card it is, if a bundle of the bank's says the above
	Language set.Language   // of the policy and the form; empty means the wallet's
	PAN      set.PAN        // the caller clears it
	Expiry   set.CardExpiry // the caller clears it
}

// Applicant is the person who enrols a card.
type Applicant interface {
	// AcceptPolicy shows the CA's policy and asks whether it is accepted.
	AcceptPolicy(ctx context.Context, policy string) (bool, error)
	// Answer asks for one field of the registration form. No answer is the empty string.
	Answer(ctx context.Context, f Field) (string, error)
}

// Field is one field of a registration form. Its texts are fit for a terminal.
type Field struct {
	Name        string
	Description string
	MaxChars    int
	Required    bool
	Secret      bool // the input is not to be shown
}

// ErrPolicy tells that the CA's policy was not accepted; nothing was requested.
var ErrPolicy = errors.New("the CA's policy was not accepted: the card is not enrolled")

// Enrol gets a certificate for the smart card's signature key (SET §7.2) and stores it, with the account
// in the vault. A CA certifies a key once: when the request was sent and no answer came, the smart card
// needs a new key before the next attempt. That the CA refers elsewhere is a *set.ReferralError, that it
// refuses or has not decided a *set.CertStatusError.
func (w *Wallet) Enrol(ctx context.Context, r Enrolment, card Card, applicant Applicant) (*EnrolledCard, error) {
	pan, err := set.ParsePAN(r.PAN)
	if err != nil {
		return nil, err
	}
	clear(pan)
	key, err := vaultKey(card.Decrypter().Public())
	if err != nil {
		return nil, err
	}
	verifier, err := pki.NewVerifier([]*pki.Certificate{r.Root}, pki.Options{})
	if err != nil {
		return nil, err
	}
	e := &set.Endpoint{Verifier: verifier, Software: w.cfg.Software}
	if r.Language == "" {
		r.Language = w.cfg.Language
	}
	registration := set.NewCardEnrolment(r.Brand, r.Language, r.PAN, r.Expiry)
	defer registration.Clear()
	answers, err := w.form(ctx, e, r, registration, applicant)
	if err != nil {
		return nil, err
	}
	// The key can be certified once. Before that, the vault must be known to work.
	probe := set.Account{PAN: r.PAN, CardExpiry: r.Expiry}
	sealed, err := seal(key, &probe)
	if err != nil {
		return nil, err
	}
	opened, err := unseal(card.Decrypter(), sealed)
	if err != nil {
		return nil, err
	}
	opened.Clear()
	got, err := w.certify(ctx, e, r, registration, answers, card)
	if err != nil {
		return nil, err
	}
	defer got.Clear()
	account := set.Account{PAN: r.PAN, CardExpiry: r.Expiry, CardSecret: got.CardSecret, PANSecret: got.PANSecret}
	defer clear(account.CardSecret[:])
	defer clear(account.PANSecret[:])
	c := &EnrolledCard{
		ID: got.Certificate.Thumbprint().String(), Serial: card.Serial(), Brand: set.BrandID(got.Certificate.Brand()), Bank: r.Bank,
		BIN: r.PAN.BIN(), Last4: string(r.PAN[len(r.PAN)-4:]), Certificate: got.Certificate, VaultKey: key,
		Enrolled: w.cfg.Now(), Message: caMessage(got), chain: got.Chain, root: r.Root, known: got.Verifier.Store(),
	}
	if c.vault, err = seal(key, &account); err != nil {
		return nil, err
	}
	if err := w.saveCard(context.WithoutCancel(ctx), c); err != nil {
		return nil, fmt.Errorf("store the new certificate, without which the smart card needs a new key: %w", err)
	}
	return c, nil
}

// form fetches the registration form and has it filled in.
func (w *Wallet) form(ctx context.Context, e *set.Endpoint, r Enrolment, registration *set.CardEnrolment, applicant Applicant) ([]set.FieldText, error) {
	req, err := registration.InitReq(e, w.cfg.Now())
	if err != nil {
		return nil, err
	}
	res, err := w.cfg.Client.Post(ctx, r.CAURL, sethttp.MediaRegistration, req)
	if err != nil {
		return nil, err
	}
	if err := registration.OpenInitRes(e, w.cfg.Now(), res); err != nil {
		return nil, fmt.Errorf("the CA's first answer: %w", err)
	}
	if req, err = registration.FormReq(e, w.cfg.Now()); err != nil {
		return nil, err
	}
	if res, err = w.cfg.Client.Post(ctx, r.CAURL, sethttp.MediaRegistration, req); err != nil {
		return nil, err
	}
	form, err := registration.OpenFormRes(e, w.cfg.Now(), res)
	if err != nil {
		return nil, fmt.Errorf("registration form: %w", err)
	}
	accepted, err := applicant.AcceptPolicy(ctx, Printable([]byte(form.Policy)))
	if err != nil {
		return nil, err
	}
	if !accepted {
		return nil, ErrPolicy
	}
	if form.RegTemplate == nil {
		return nil, nil
	}
	var answers []set.FieldText
	for _, f := range form.RegTemplate.RegFieldSeq {
		answer, err := applicant.Answer(ctx, field(f))
		if err != nil {
			return nil, err
		}
		answers = append(answers, set.FieldText(answer))
	}
	return answers, nil
}

func field(f set.RegField) Field {
	var name []string
	for _, line := range f.FieldName {
		name = append(name, printableLine(string(line)))
	}
	return Field{
		Name: strings.Join(name, " "), Description: printableLine(string(f.FieldDesc)), MaxChars: int(f.FieldLen),
		Required: f.FieldRequired, Secret: f.FieldInvisible,
	}
}

// certify sends the request for the certificate.
func (w *Wallet) certify(ctx context.Context, e *set.Endpoint, r Enrolment, registration *set.CardEnrolment, answers []set.FieldText, card Card) (*set.CardCertificate, error) {
	req, err := registration.CertReq(e, w.cfg.Now(), answers, card.Signer())
	if err != nil {
		return nil, err
	}
	res, err := w.cfg.Client.Post(ctx, r.CAURL, sethttp.MediaRegistration, req)
	if err != nil {
		return nil, fmt.Errorf("the CA may have certified the smart card's key, which then has to be replaced: %w", err)
	}
	got, err := registration.OpenCertRes(e, w.cfg.Now(), res)
	if err != nil {
		return nil, fmt.Errorf("certificate request: %w", err)
	}
	return got, nil
}

// caMessage is what the CA says to its new cardholder.
func caMessage(c *set.CardCertificate) string {
	text := string(c.Message)
	if c.CAMsg != nil {
		text += " " + string(c.CAMsg.CardholderMsg)
	}
	return printableLine(text)
}
