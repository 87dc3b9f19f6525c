package ceremony

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/setkit/setkit/roles/set/pki"
)

// draft is what a step will sign, signed by a throw-away key in place of the real one.
type draft struct {
	step   *step
	serial []byte
	tbs    []byte // exactly what the real key is to sign
	raw    []byte
}

// draft makes what a step signs with a throw-away key, and lints it. It needs public keys only.
func (s *state) draft(st *step, serial []byte) (*draft, error) {
	d, err := s.newDraft(st, serial)
	if err != nil {
		return nil, err
	}
	if d.tbs, err = tbsOf(d.raw); err != nil {
		return nil, err
	}
	return d, s.lint(st, d.raw)
}

func (s *state) newDraft(st *step, serial []byte) (*draft, error) {
	d := &draft{step: st, serial: serial}
	if !st.selfSigned() {
		issuer := s.certs[st.Issuer]
		key, err := throwAway(issuer.X509.PublicKey)
		if err != nil {
			return nil, err
		}
		d.raw, err = s.make(st, serial, standIn(issuer, key.Public()), key)
		return d, err
	}
	key, err := throwAway(s.keys[st.Key])
	if err != nil {
		return nil, err
	}
	p := &probe{Signer: key, public: s.keys[st.Key]}
	if _, err := s.make(st, serial, nil, p); p.tbs == nil {
		return nil, err
	}
	d.raw, err = p.signed()
	return d, err
}

// standIn is a certificate under which a throw-away key signs as if it were the certified one.
func standIn(c *pki.Certificate, pub crypto.PublicKey) *pki.Certificate {
	s, x := *c, *c.X509
	x.PublicKey = pub
	s.X509 = &x
	return &s
}

// throwAwayRSA is one key for all drafts: making one takes long, and no size shows in what it signs.
var throwAwayRSA = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, pki.RSABitsMin) })

// throwAway gives a key that signs with the same algorithm as pub's.
func throwAway(pub crypto.PublicKey) (crypto.Signer, error) {
	switch k := pub.(type) {
	case *rsa.PublicKey:
		return throwAwayRSA()
	case *ecdsa.PublicKey:
		return ecdsa.GenerateKey(k.Curve, rand.Reader)
	}
	return nil, fmt.Errorf("no throw-away key for one of type %T", pub)
}

// probe stands in for a key that signs what holds its own public half. The signature that it gives is
// another key's and does not verify: what counts is what it was asked to sign.
type probe struct {
	crypto.Signer
	public crypto.PublicKey
	tbs    []byte
	hash   crypto.SignerOpts
}

func (p *probe) Public() crypto.PublicKey { return p.public }

// SignMessage keeps the message.
func (p *probe) SignMessage(_ io.Reader, message []byte, opts crypto.SignerOpts) ([]byte, error) {
	p.tbs, p.hash = bytes.Clone(message), opts
	return nil, errors.New("a probe does not sign")
}

// signed puts a throw-away signature under what the probe kept.
func (p *probe) signed() ([]byte, error) {
	signature, err := crypto.SignMessage(p.Signer, rand.Reader, p.tbs, p.hash)
	if err != nil {
		return nil, err
	}
	// Any request of the throw-away key tells how its algorithm is written.
	other, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, p.Signer)
	if err != nil {
		return nil, err
	}
	var outer signedDER
	if _, err := asn1.Unmarshal(other, &outer); err != nil {
		return nil, err
	}
	outer.TBS = asn1.RawValue{FullBytes: p.tbs}
	outer.Signature = asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)}
	return asn1.Marshal(outer)
}

// guard lets a key sign one message and no other.
type guard struct {
	crypto.Signer
	message []byte
}

// Sign refuses: who signs a digest does not say what is signed.
func (g *guard) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errors.New("a ceremony signs messages, not digests")
}

// SignMessage signs the one message.
func (g *guard) SignMessage(random io.Reader, message []byte, opts crypto.SignerOpts) ([]byte, error) {
	if !bytes.Equal(message, g.message) {
		return nil, errors.New("what is to be signed is not what was shown")
	}
	return crypto.SignMessage(g.Signer, random, message, opts)
}

// sign has the real key sign a draft, and holds the result against it.
func (s *state) sign(d *draft) ([]byte, error) {
	st := d.step
	key := s.signers[s.signer(st)]
	if key == nil {
		return nil, errors.New("no key to sign with")
	}
	raw, err := s.make(st, d.serial, s.certs[st.Issuer], &guard{key, d.tbs})
	if err != nil {
		return nil, err
	}
	if tbs, err := tbsOf(raw); err != nil || !bytes.Equal(tbs, d.tbs) {
		return nil, errors.New("what was signed is not what was shown")
	}
	return raw, s.lint(st, raw)
}

// signedDER is the outer structure of everything that a ceremony signs.
type signedDER struct {
	TBS       asn1.RawValue
	Algorithm asn1.RawValue
	Signature asn1.BitString
}

// tbsOf gives the octets that were signed.
func tbsOf(raw []byte) ([]byte, error) {
	var outer signedDER
	if rest, err := asn1.Unmarshal(raw, &outer); err != nil || len(rest) > 0 {
		return nil, errors.New("malformed outer structure")
	}
	return outer.TBS.FullBytes, nil
}
