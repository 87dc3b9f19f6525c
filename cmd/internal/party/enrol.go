package party

import (
	"context"
	"crypto"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	urfave "github.com/urfave/cli/v2"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/cmd/internal/keyring"
	"github.com/setkit/setkit/hsm"
	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/sethttp"
)

// Enrolment is what a party tells its CA.
type Enrolment struct {
	CA       string            `yaml:"ca"`       // URL
	Brand    set.BrandID       `yaml:"brand"`    //
	Language set.Language      `yaml:"language"` //
	Answers  map[string]string `yaml:"answers"`  // to the fields of the form, by their name: where the answer is, a secret source
}

// Applicant is a party that gets its certificates (SET §7.3).
type Applicant struct {
	Identity  Identity
	Trust     Trust
	Enrolment Enrolment
	Type      set.RequestType // of the first registration, for both certificates
	Who       set.IDData
	Ring      *keyring.Ring
	Command   string // how the operator calls this, with its configuration: for what is to be done next

	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// EnrollDescription and EnrollFlags are of the command enroll.
const EnrollDescription = "Makes the keys that the token lacks, shows the CA's policy, and writes the certificates into the file that\n" +
	"identity.certificates names, which must not exist. Where somebody at the CA has to approve the request, or\n" +
	"no answer came, --continue asks later what became of it. --renew gets new certificates for new keys before\n" +
	"the old ones expire. A server that runs takes the new ones into use by itself. The old ones are kept beside\n" +
	"them (.old): payments that began with them need them and their keys in the token until they are done.\n\n"

// EnrollFlags are those beside --config.
func EnrollFlags() []urfave.Flag {
	return []urfave.Flag{
		&urfave.BoolFlag{Name: "continue", Usage: "ask what became of the request that was sent"},
		&urfave.BoolFlag{Name: "renew", Usage: "replace the certificates, which confirm the request, and their keys"},
	}
}

// Run does what the flags of the command say.
func (a *Applicant) Run(c *urfave.Context) error {
	switch again, renew := c.Bool("continue"), c.Bool("renew"); {
	case again && renew:
		return cli.Usage(errors.New("--continue and --renew: one of them"))
	case again:
		return a.Continue(c.Context)
	case renew:
		return a.Renew(c.Context)
	}
	return a.Enroll(c.Context)
}

const (
	pendingSuffix = ".pending"
	pendingPEM    = "SETKIT PENDING REGISTRATION"
)

// renewal is the request type of a renewal, for one of a first registration.
const renewal = set.MerRenewalBoth - set.MerInitialBoth

// Enroll makes the keys and gets the first certificates for them.
func (a *Applicant) Enroll(ctx context.Context) error {
	verifier, err := a.Trust.Verifier()
	if err != nil {
		return err
	}
	sign, exchange, err := a.keys(ctx, 1)
	if err != nil {
		return err
	}
	if err := a.free(); err != nil {
		return err
	}
	// Made before the CA is asked: a certificate that cannot be kept should not be issued.
	out, err := os.OpenFile(a.Identity.Certificates, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	certs, err := a.request(ctx, &set.Endpoint{Verifier: verifier, Software: Software}, a.Type, sign, exchange.Public())
	return a.settle(certs, err, errors.Join(out.Close(), os.Remove(a.Identity.Certificates)))
}

// Renew makes new keys and gets certificates for them, which the old ones confirm (SET §4.6).
func (a *Applicant) Renew(ctx context.Context) error {
	e, generation, err := a.Identity.endpoint(ctx, a.Ring, a.Trust, holder(a.Type))
	if err != nil {
		return err
	}
	if err := a.free(); err != nil {
		return err
	}
	sign, exchange, err := a.keys(ctx, generation+1)
	if err != nil {
		return err
	}
	certs, err := a.request(ctx, e, a.Type+renewal, sign, exchange.Public())
	return a.settle(certs, err, nil)
}

// Continue asks what became of the request that was sent (SET §4.7).
func (a *Applicant) Continue(ctx context.Context) error {
	text, err := os.ReadFile(a.pending())
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("no request waits: %s is not there: leave --continue out", a.pending())
	}
	if err != nil {
		return err
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != pendingPEM {
		return fmt.Errorf("%s: want a PEM block %q", a.pending(), pendingPEM)
	}
	m, err := set.ResumeMeAqEnrolment(block.Bytes)
	if err != nil {
		return fmt.Errorf("%s: %w", a.pending(), err)
	}
	verifier, err := a.Trust.Verifier()
	if err != nil {
		return err
	}
	sign, _, err := find(a.Identity.SignKey, m.SignKey(), func(ref string) (crypto.Signer, error) { return a.Ring.Signer(ctx, ref) })
	if err != nil {
		return fmt.Errorf("the request that waits is for another key: %w", err)
	}
	e := &set.Endpoint{Verifier: verifier, Software: Software}
	req, err := m.InqReq(e, time.Now(), sign)
	if err != nil {
		return err
	}
	res, err := a.Enrolment.post(ctx, req)
	if err != nil {
		return err
	}
	certs, err := m.OpenInqRes(e, time.Now(), res)
	return a.settle(certs, err, nil)
}

func (a *Applicant) pending() string { return a.Identity.Certificates + pendingSuffix }

// free tells whether no request waits.
func (a *Applicant) free() error {
	if _, err := os.Stat(a.pending()); !errors.Is(err, os.ErrNotExist) {
		return errors.Join(err, fmt.Errorf("a request waits: %s --continue asks what became of it; to give it up, remove %s", a.Command, a.pending()))
	}
	return nil
}

// keys makes the keys of a generation unless the token has them.
func (a *Applicant) keys(ctx context.Context, n int) (sign crypto.Signer, exchange crypto.Decrypter, err error) {
	signRef, err := generation(a.Identity.SignKey, n)
	if err != nil {
		return nil, nil, err
	}
	exchangeRef, err := generation(a.Identity.ExchangeKey, n)
	if err != nil {
		return nil, nil, err
	}
	if err := EnsureKey(ctx, a.Ring, signRef, hsm.PurposeSign, hsm.ECP256); err != nil {
		return nil, nil, err
	}
	if err := EnsureKey(ctx, a.Ring, exchangeRef, hsm.PurposeKeyExchange, hsm.RSA2048); err != nil {
		return nil, nil, err
	}
	if sign, err = a.Ring.Signer(ctx, signRef); err != nil {
		return nil, nil, err
	}
	exchange, err = a.Ring.Decrypter(ctx, exchangeRef)
	return sign, exchange, err
}

// generationsMax is how many generations of keys are looked for.
const generationsMax = 32

// generation names the keys of the n-th generation, of which the reference names the first.
func generation(ref string, n int) (string, error) {
	if n == 1 {
		return ref, nil
	}
	var out []string
	for _, text := range strings.Fields(ref) {
		u, err := hsm.ParseURI(text)
		if err != nil {
			return "", cli.Usage(err)
		}
		u.Object, u.ID = fmt.Sprintf("%s-%d", u.Object, n), nil
		out = append(out, u.String())
	}
	return strings.Join(out, " "), nil
}

// find opens the key of any generation that has this public key.
func find[K interface{ Public() crypto.PublicKey }](ref string, public crypto.PublicKey, open func(string) (K, error)) (key K, n int, err error) {
	for n = 1; n <= generationsMax; n++ {
		next, err := generation(ref, n)
		if err != nil {
			return key, 0, err
		}
		k, err := open(next)
		switch {
		case errors.Is(err, hsm.ErrNotFound):
		case err != nil:
			return key, 0, err
		case same(k.Public(), public):
			return k, n, nil
		}
	}
	return key, 0, fmt.Errorf("%w: %s, nor for one of a renewal", errNotItsKey, ref)
}

var errNotItsKey = errors.New("it is not for the key")

func same(a, b crypto.PublicKey) bool {
	k, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(b)
}

// settle keeps the certificates, or tells what is to be done when there are none. done is an error that
// happened beside.
func (a *Applicant) settle(certs *set.EntityCertificates, err, done error) error {
	var status *set.CertStatusError
	var peer *set.PeerError
	var referral *set.ReferralError
	_, waits := os.Stat(a.pending())
	switch {
	case err == nil:
		if err = a.install(certs); err == nil {
			err = errors.Join(done, os.Remove(a.pending()))
		}
		return err
	case errors.As(err, &status) && status.Pending():
		return errors.Join(fmt.Errorf("your request is being looked at: run later: %s --continue", a.Command), done)
	case errors.As(err, &peer) && peer.Code == set.UnknownLID && peer.Signer != nil && waits == nil:
		return errors.Join(fmt.Errorf("the CA does not know the request, or not any more: enroll anew: %w", err), os.Remove(a.pending()), done)
	case waits != nil, errors.As(err, &referral):
		return errors.Join(err, done)
	case status != nil:
		return errors.Join(err, os.Remove(a.pending()), done)
	}
	return cli.Peer(fmt.Errorf("the CA may have certified the keys: ask with %s --continue: %w", a.Command, errors.Join(err, done)))
}

// install writes the certificates. Those that they replace are kept. What is known of revocation comes first: a
// server that runs looks at the certificates by it.
func (a *Applicant) install(certs *set.EntityCertificates) error {
	path := a.Identity.Certificates
	if err := keepLists(path+listsSuffix, certs.Verifier); err != nil {
		return err
	}
	if err := a.Identity.retire(holder(a.Type)); err != nil {
		return err
	}
	next := &Holder{certs.Signature, certs.KeyExchange, certs.Chain}
	if err := replace(path, next.write); err != nil {
		return err
	}
	if certs.Message != "" {
		fmt.Fprintf(a.Stdout, "the CA says: %s\n", cli.Printable(string(certs.Message)))
	}
	_, err := fmt.Fprintf(a.Stdout, "%v\n%v\nwritten to %s\n", certs.Signature, certs.KeyExchange, path)
	return err
}

// request registers as far as the CA's answer to CertReq. What is needed to ask again is on disk before
// CertReq is sent.
func (a *Applicant) request(ctx context.Context, e *set.Endpoint, typ set.RequestType, sign crypto.Signer, exchange crypto.PublicKey) (*set.EntityCertificates, error) {
	m, err := set.NewMeAqEnrolment(a.Enrolment.Brand, a.Enrolment.Language, typ, a.Who)
	if err != nil {
		return nil, err
	}
	req, err := m.InitReq(e, time.Now())
	if err != nil {
		return nil, err
	}
	res, err := a.Enrolment.post(ctx, req)
	if err != nil {
		return nil, err
	}
	form, err := m.OpenInitRes(e, time.Now(), res)
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(a.Stdout, "policy of the CA:\n%s\n", form.Policy)
	answers, err := a.fill(ctx, form)
	if err != nil {
		return nil, err
	}
	if req, err = m.CertReq(e, time.Now(), answers, sign, exchange); err != nil {
		return nil, err
	}
	kept, err := m.Keep()
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(a.pending(), pem.EncodeToMemory(&pem.Block{Type: pendingPEM, Bytes: kept}), 0o600); err != nil {
		return nil, err
	}
	if res, err = a.Enrolment.post(ctx, req); err != nil {
		return nil, err
	}
	return m.OpenCertRes(e, time.Now(), res)
}

// EnsureKey generates the key that a URI names unless the token has it.
func EnsureKey(ctx context.Context, ring *keyring.Ring, uri string, purpose hsm.Purpose, typ hsm.KeyType) error {
	u, err := hsm.ParseURI(uri)
	if err != nil {
		return cli.Usage(err)
	}
	token, err := ring.Token(ctx, uri)
	if err != nil {
		return err
	}
	if _, err := token.Key(ctx, u.Object); !errors.Is(err, hsm.ErrNotFound) {
		return err
	}
	_, err = token.GenerateKey(ctx, u.Object, purpose, typ)
	return err
}

func (en Enrolment) post(ctx context.Context, req []byte) ([]byte, error) {
	res, err := (&sethttp.Client{}).Post(ctx, en.CA, sethttp.MediaRegistration, req)
	return res, cli.Peer(err)
}

// fill answers the form from the sources that the configuration names.
func (a *Applicant) fill(ctx context.Context, form *set.EntityForm) ([]set.FieldText, error) {
	if form.RegTemplate == nil {
		return nil, nil
	}
	var answers []set.FieldText
	for _, f := range form.RegTemplate.RegFieldSeq {
		name := string(f.FieldName[0])
		source, ok := a.Enrolment.Answers[name]
		switch {
		case ok:
			text, err := cli.Secret(ctx, source, name, a.Stdin, a.Stderr)
			if err != nil {
				return nil, err
			}
			answers = append(answers, set.FieldText(text))
		case f.FieldRequired:
			return nil, cli.Usage(fmt.Errorf("the CA's form asks for %q: add it to enrolment.answers, as a secret source", name))
		default:
			answers = append(answers, "")
		}
	}
	return answers, nil
}
