// Package party turns the configuration of a merchant or gateway into its side of the protocol, and gets
// it its certificates: what the two commands share.
package party

import (
	"context"
	"crypto"
	"encoding/pem"
	"fmt"
	"os"
	"strings"

	"github.com/setkit/setkit/cmd/internal/keyring"
	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/pki"
)

// Software is what every message names as its sender's.
const Software set.SWIdent = "setkit"

// Trust is what a party has installed to verify certificates.
type Trust struct {
	Root string   `yaml:"root"` // PEM file of the root certificate
	CRLs []string `yaml:"crls"` // PEM files
	BCIs []string `yaml:"bcis"` // DER files of BrandCRLIdentifiers
}

// Identity is who a party is: its keys in a token, and the file with its certificates. Beside that file are
// what a registration leaves (.pending), what the CA has sent of revocation (.lists), and the certificates that
// renewals have replaced (.old).
//
// A renewal makes new keys, with the labels of the first and -2, -3 and so on appended. The certificates
// say which of them are in use. The former ones open what was made for them.
type Identity struct {
	SignKey      string `yaml:"sign-key"`     // PKCS#11 URI
	ExchangeKey  string `yaml:"exchange-key"` // PKCS#11 URI
	Certificates string `yaml:"certificates"` // PEM file: its two certificates and those of the CAs above
}

// Verifier makes what verifies certificates.
func (t Trust) Verifier() (*pki.Verifier, error) { return t.verifier("") }

// verifier also takes the file of what a CA has sent, if there is one.
func (t Trust) verifier(lists string) (*pki.Verifier, error) {
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
		addBCI(&store, bci)
	}
	var successors []*pki.Certificate
	if lists != "" {
		if successors, err = readLists(lists, &store); err != nil {
			return nil, err
		}
	}
	v, err := pki.NewVerifier(roots, pki.Options{Store: store})
	if err != nil {
		return nil, err
	}
	for _, root := range successors { // each took over while its predecessor was valid, which it may be no more
		v = v.Succeed(successors, root.X509.NotBefore)
	}
	return v, nil
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

// Endpoint opens the keys of a holder of the given type: those that its certificates are for.
func (id Identity) Endpoint(ctx context.Context, ring *keyring.Ring, trust Trust, typ pki.Type) (*set.Endpoint, error) {
	e, _, err := id.endpoint(ctx, ring, trust, typ)
	return e, err
}

// endpoint also tells the generation of the keys.
func (id Identity) endpoint(ctx context.Context, ring *keyring.Ring, trust Trust, typ pki.Type) (*set.Endpoint, int, error) {
	h, err := ReadHolder(id.Certificates, typ)
	if err != nil {
		return nil, 0, err
	}
	e := &set.Endpoint{SignCert: h.Sign, ExchangeCert: h.Exchange, Chain: h.Chain, Software: Software}
	if e.Verifier, err = trust.verifier(id.Certificates + listsSuffix); err != nil {
		return nil, 0, err
	}
	var sign, exchange int
	if e.SignKey, sign, err = find(id.SignKey, h.Sign.X509.PublicKey, func(ref string) (crypto.Signer, error) { return ring.Signer(ctx, ref) }); err != nil {
		return nil, 0, fmt.Errorf("%s: signature certificate: %w", id.Certificates, err)
	}
	if e.ExchangeKey, exchange, err = find(id.ExchangeKey, h.Exchange.X509.PublicKey, func(ref string) (crypto.Decrypter, error) { return ring.Decrypter(ctx, ref) }); err != nil {
		return nil, 0, fmt.Errorf("%s: key-exchange certificate: %w", id.Certificates, err)
	}
	e.Former, err = id.former(ctx, ring, typ, e)
	return e, max(sign, exchange), err
}
