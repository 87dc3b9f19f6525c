// Package party turns the configuration of a merchant or gateway into its side of the protocol, and gets
// it its certificates: what the two commands share.
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

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/cmd/internal/keyring"
	"github.com/setkit/setkit/hsm"
	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/pki"
	"github.com/setkit/setkit/roles/sethttp"
)

// Software is what every message names as its sender's.
const Software set.SWIdent = "setkit"

// Trust is what a party has installed to verify certificates.
type Trust struct {
	Root string   `yaml:"root"` // PEM file of the root certificate
	CRLs []string `yaml:"crls"` // PEM files
	BCIs []string `yaml:"bcis"` // DER files of BrandCRLIdentifiers
}

// Identity is who a party is: its keys in a token, and the file with its certificates.
type Identity struct {
	SignKey      string `yaml:"sign-key"`     // PKCS#11 URI
	ExchangeKey  string `yaml:"exchange-key"` // PKCS#11 URI
	Certificates string `yaml:"certificates"` // PEM file: its two certificates and those of the CAs above
}

// Verifier makes what verifies certificates.
func (t Trust) Verifier() (*pki.Verifier, error) {
	roots, err := ReadCertificates(t.Root)
	if err != nil {
		return nil, err
	}
	var store pki.Store
	for _, path := range t.CRLs {
		raw, err := readPEM(path, "X509 CRL")
		if err != nil {
			return nil, err
		}
		for _, b := range raw {
			crl, err := pki.ParseCRL(b)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", path, err)
			}
			store.CRLs = append(store.CRLs, crl)
		}
	}
	for _, path := range t.BCIs {
		raw, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		bci, err := pki.ParseBCI(raw)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		store.BCIs = append(store.BCIs, bci)
	}
	return pki.NewVerifier(roots, pki.Options{Store: store})
}

// ReadCertificates reads a PEM file of certificates.
func ReadCertificates(path string) ([]*pki.Certificate, error) {
	raw, err := readPEM(path, "CERTIFICATE")
	if err != nil {
		return nil, err
	}
	var certs []*pki.Certificate
	for _, b := range raw {
		c, err := pki.ParseCertificate(b)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		certs = append(certs, c)
	}
	return certs, nil
}

func readPEM(path, kind string) (blocks [][]byte, err error) {
	rest, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	for {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			break
		}
		if b.Type != kind {
			return nil, fmt.Errorf("%s: a PEM block %q where %q is expected", path, b.Type, kind)
		}
		blocks = append(blocks, b.Bytes)
	}
	if len(blocks) == 0 || strings.TrimSpace(string(rest)) != "" {
		return nil, fmt.Errorf("%s: want PEM blocks %q and nothing else", path, kind)
	}
	return blocks, nil
}

// Holder is the certificates of one merchant or gateway and of the CAs above it.
type Holder struct {
	Sign     *pki.Certificate
	Exchange *pki.Certificate
	Chain    []*pki.Certificate
}

// ReadHolder reads the certificates of a holder of the given type from a PEM file.
func ReadHolder(path string, typ pki.Type) (*Holder, error) {
	certs, err := ReadCertificates(path)
	if err != nil {
		return nil, err
	}
	h := &Holder{}
	for _, c := range certs {
		switch {
		case c.Use == pki.Authority:
			h.Chain = append(h.Chain, c)
		case c.Type == typ && c.Use == pki.Signature && h.Sign == nil:
			h.Sign = c
		case c.Type == typ && c.Use == pki.KeyExchange && h.Exchange == nil:
			h.Exchange = c
		default:
			return nil, fmt.Errorf("%s: %v does not belong here", path, c)
		}
	}
	if h.Sign == nil || h.Exchange == nil {
		return nil, fmt.Errorf("%s: no %v certificates for signature and key exchange: enroll first", path, typ)
	}
	return h, nil
}

// Endpoint opens the keys of a holder of the given type and checks that they are those of its
// certificates.
func (id Identity) Endpoint(ctx context.Context, ring *keyring.Ring, trust Trust, typ pki.Type) (*set.Endpoint, error) {
	verifier, err := trust.Verifier()
	if err != nil {
		return nil, err
	}
	h, err := ReadHolder(id.Certificates, typ)
	if err != nil {
		return nil, err
	}
	e := &set.Endpoint{SignCert: h.Sign, ExchangeCert: h.Exchange, Chain: h.Chain, Verifier: verifier, Software: Software}
	if e.SignKey, err = ring.Signer(ctx, id.SignKey); err != nil {
		return nil, err
	}
	exchange, err := ring.Decrypter(ctx, id.ExchangeKey)
	if err != nil {
		return nil, err
	}
	e.ExchangeKey = exchange
	if !same(e.SignKey.Public(), h.Sign) || !same(exchange.Public(), h.Exchange) {
		return nil, fmt.Errorf("%s: the certificates are not for the keys %s and %s", id.Certificates, id.SignKey, id.ExchangeKey)
	}
	return e, nil
}

func same(public crypto.PublicKey, c *pki.Certificate) bool {
	k, ok := public.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(c.X509.PublicKey)
}

// Enrolment is what a party tells its CA.
type Enrolment struct {
	CA       string            `yaml:"ca"`       // URL
	Brand    set.BrandID       `yaml:"brand"`    //
	Language set.Language      `yaml:"language"` //
	Answers  map[string]string `yaml:"answers"`  // to the fields of the form, by their name: where the answer is, a secret source
}

// Enroll makes the keys that the token lacks and gets certificates for them (SET §7.3). It shows the
// CA's policy, and writes the certificates into the file that the identity names, which must not exist.
func (id Identity) Enroll(ctx context.Context, ring *keyring.Ring, trust Trust, en Enrolment, typ set.RequestType, who set.IDData, stdin io.Reader, stdout, stderr io.Writer) error {
	verifier, err := trust.Verifier()
	if err != nil {
		return err
	}
	if err := EnsureKey(ctx, ring, id.SignKey, hsm.PurposeSign, hsm.ECP256); err != nil {
		return err
	}
	if err := EnsureKey(ctx, ring, id.ExchangeKey, hsm.PurposeKeyExchange, hsm.RSA2048); err != nil {
		return err
	}
	sign, err := ring.Signer(ctx, id.SignKey)
	if err != nil {
		return err
	}
	exchange, err := ring.Decrypter(ctx, id.ExchangeKey)
	if err != nil {
		return err
	}
	// Made before the CA is asked: a certificate that cannot be kept should not be issued.
	out, err := os.OpenFile(id.Certificates, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	certs, err := en.run(ctx, &set.Endpoint{Verifier: verifier, Software: Software}, typ, who, sign, exchange.Public(), dialogue{stdin, stdout, stderr})
	if err == nil {
		err = writePEM(out, append([]*pki.Certificate{certs.Signature, certs.KeyExchange}, certs.Chain...))
	}
	if err = errors.Join(err, out.Close()); err != nil {
		return errors.Join(err, os.Remove(id.Certificates))
	}
	fmt.Fprintf(stdout, "%v\n%v\nwritten to %s\n", certs.Signature, certs.KeyExchange, id.Certificates)
	return nil
}

func writePEM(w io.Writer, certs []*pki.Certificate) error {
	for _, c := range certs {
		if err := pem.Encode(w, &pem.Block{Type: "CERTIFICATE", Bytes: c.X509.Raw}); err != nil {
			return err
		}
	}
	return nil
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

// dialogue is where an operator is asked and shown things.
type dialogue struct {
	stdin          io.Reader
	stdout, stderr io.Writer
}

func (en Enrolment) run(ctx context.Context, e *set.Endpoint, typ set.RequestType, who set.IDData, sign crypto.Signer, exchange crypto.PublicKey, d dialogue) (*set.EntityCertificates, error) {
	m, err := set.NewMeAqEnrolment(en.Brand, en.Language, typ, who)
	if err != nil {
		return nil, err
	}
	req, err := m.InitReq(e, time.Now())
	if err != nil {
		return nil, err
	}
	res, err := en.post(ctx, req)
	if err != nil {
		return nil, err
	}
	form, err := m.OpenInitRes(e, time.Now(), res)
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(d.stdout, "policy of the CA:\n%s\n", form.Policy)
	answers, err := en.fill(ctx, form, d)
	if err != nil {
		return nil, err
	}
	if req, err = m.CertReq(e, time.Now(), answers, sign, exchange); err != nil {
		return nil, err
	}
	if res, err = en.post(ctx, req); err != nil {
		return nil, err
	}
	return m.OpenCertRes(e, time.Now(), res)
}

func (en Enrolment) post(ctx context.Context, req []byte) ([]byte, error) {
	res, err := (&sethttp.Client{}).Post(ctx, en.CA, sethttp.MediaRegistration, req)
	return res, cli.Peer(err)
}

// fill answers the form from the sources that the configuration names.
func (en Enrolment) fill(ctx context.Context, form *set.EntityForm, d dialogue) ([]set.FieldText, error) {
	if form.RegTemplate == nil {
		return nil, nil
	}
	var answers []set.FieldText
	for _, f := range form.RegTemplate.RegFieldSeq {
		name := string(f.FieldName[0])
		source, ok := en.Answers[name]
		switch {
		case ok:
			text, err := cli.Secret(ctx, source, name, d.stdin, d.stderr)
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
