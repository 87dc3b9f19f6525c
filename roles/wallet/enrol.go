package wallet

import (
	"context"
	"crypto/rsa"
	"errors"
	"fmt"
	"slices"
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
	// Answers asks for the fields of the registration form. No answer is the empty string.
	Answers(ctx context.Context, fields []Field) ([]string, error)
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
// in the vault. A CA certifies a key once. When the CA has not decided yet, which is a pending
// *set.CertStatusError, or the request was sent and no answer came, Continue asks later. That the CA refers
// elsewhere is a *set.ReferralError, that it refuses another *set.CertStatusError.
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
	if r.Language == "" {
		r.Language = w.cfg.Language
	}
	return w.register(ctx, &set.Endpoint{Verifier: verifier, Software: w.cfg.Software}, r, key,
		set.NewCardEnrolment(r.Brand, r.Language, r.PAN, r.Expiry), card, applicant)
}

// Renew gets a certificate for a card that has one, and whose smart card, old, confirms the new smart card's
// key (SET §4.6). The expiry may be another one than before: that of the new card. Its outcomes are those of
// Enrol.
func (w *Wallet) Renew(ctx context.Context, c *EnrolledCard, old Card, expiry set.CardExpiry, card Card, applicant Applicant) (*EnrolledCard, error) {
	if err := c.check(old); err != nil {
		return nil, err
	}
	if c.caURL == "" {
		return nil, fmt.Errorf("%s was enrolled by a version that did not keep the address of its CA: enrol the new smart card", c.Masked())
	}
	key, err := vaultKey(card.Decrypter().Public())
	if err != nil {
		return nil, err
	}
	account, err := c.account(old.Decrypter())
	if err != nil {
		return nil, err
	}
	defer account.Clear()
	if len(expiry) == 0 {
		expiry = account.CardExpiry
	}
	e, err := c.endpoint(ctx, w, old)
	if err != nil {
		return nil, err
	}
	r := Enrolment{CAURL: c.caURL, Root: c.root, Brand: c.Brand, Bank: c.Bank, PAN: account.PAN, Expiry: expiry}
	return w.register(ctx, e, r, key, set.NewCardRenewal(r.Brand, w.cfg.Language, r.PAN, r.Expiry), card, applicant)
}

// register goes through a registration, and clears it.
func (w *Wallet) register(ctx context.Context, e *set.Endpoint, r Enrolment, key *rsa.PublicKey, registration *set.CardEnrolment, card Card, applicant Applicant) (*EnrolledCard, error) {
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
	req, err := registration.CertReq(e, w.cfg.Now(), answers, card.Signer())
	if err != nil {
		return nil, err
	}
	p := &pending{serial: card.Serial(), bank: r.Bank, caURL: r.CAURL, root: r.Root}
	if err := w.keep(ctx, p, registration, key); err != nil {
		return nil, err
	}
	res, err := w.cfg.Client.Post(ctx, r.CAURL, sethttp.MediaRegistration, req)
	if err != nil {
		return nil, fmt.Errorf("the CA may have certified the smart card's key: ask what became of the request: %w", err)
	}
	got, err := registration.OpenCertRes(e, w.cfg.Now(), res)
	return w.conclude(ctx, p, registration, key, got, err)
}

// conclude stores the certificate, or gives up a registration that the CA has refused.
func (w *Wallet) conclude(ctx context.Context, p *pending, registration *set.CardEnrolment, key *rsa.PublicKey, got *set.CardCertificate, err error) (*EnrolledCard, error) {
	ctx = context.WithoutCancel(ctx)
	var status *set.CertStatusError
	var peer *set.PeerError
	switch {
	case errors.As(err, &status) && !status.Pending():
		return nil, errors.Join(fmt.Errorf("certificate request: %w", err), w.forget(ctx, p.serial))
	case errors.As(err, &peer) && peer.Code == set.UnknownLID && peer.Signer != nil:
		return nil, errors.Join(fmt.Errorf("the CA does not know the request, or not any more: enrol the card again: %w", err), w.forget(ctx, p.serial))
	case err != nil:
		return nil, fmt.Errorf("certificate request: %w", err)
	}
	defer got.Clear()
	pan, expiry := registration.Card()
	account := set.Account{PAN: pan, CardExpiry: expiry, CardSecret: got.CardSecret, PANSecret: got.PANSecret}
	defer clear(account.CardSecret[:])
	defer clear(account.PANSecret[:])
	c := &EnrolledCard{
		ID: got.Certificate.Thumbprint().String(), Serial: p.serial, Brand: set.BrandID(got.Certificate.Brand()), Bank: p.bank,
		BIN: pan.BIN(), Last4: string(pan[len(pan)-4:]), Certificate: got.Certificate, VaultKey: key,
		Enrolled: w.cfg.Now(), Message: caMessage(got), chain: withSuccessors(got.Chain, p.root, got.Verifier), root: p.root,
		known: got.Verifier.Store(), caURL: p.caURL, asked: w.cfg.Now(),
	}
	if c.vault, err = seal(key, &account); err != nil {
		return nil, err
	}
	if err := w.saveCard(ctx, c); err != nil {
		return nil, fmt.Errorf("store the new certificate: ask the CA for it again: %w", err)
	}
	return c, nil
}

// withSuccessors adds the roots that have succeeded the installed one to a chain.
func withSuccessors(chain []*pki.Certificate, root *pki.Certificate, v *pki.Verifier) []*pki.Certificate {
	out := slices.DeleteFunc(slices.Clone(chain), func(c *pki.Certificate) bool { return c.Type == pki.RCA })
	for _, c := range v.Roots() {
		if !c.X509.Equal(root.X509) {
			out = append(out, c)
		}
	}
	return out
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
	var fields []Field
	for _, f := range form.RegTemplate.RegFieldSeq {
		fields = append(fields, field(f))
	}
	given, err := applicant.Answers(ctx, fields)
	if err != nil {
		return nil, err
	}
	if len(given) != len(fields) {
		return nil, fmt.Errorf("%d answers to the %d fields of the registration form", len(given), len(fields))
	}
	var answers []set.FieldText
	for _, a := range given {
		answers = append(answers, set.FieldText(a))
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

// caMessage is what the CA says to its new cardholder.
func caMessage(c *set.CardCertificate) string {
	text := string(c.Message)
	if c.CAMsg != nil {
		text += " " + string(c.CAMsg.CardholderMsg)
	}
	return printableLine(text)
}
