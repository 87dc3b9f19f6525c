package set

import (
	"bytes"
	"crypto"
	"errors"
	"fmt"
	"time"

	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/der"
	"github.com/setkit/setkit/roles/set/pki"
)

// This file is what comes after a registration's CertReq: asking what became of it (SET §4.7), and the
// second signature of the registration that renews (SET §4.6).

// signers gives who signs CertReq: the new key, if there is one, and the key of the certificate that the
// endpoint has, if the request renews or is for a key-exchange certificate alone. The thumbprint is of the
// certificate to renew; nil if none is.
func (r *registration) signers(e *Endpoint, key crypto.Signer) ([]cms.Signer, *CertThumb, error) {
	_, sign, _, renewal := r.typ.parts()
	var signers []cms.Signer
	if sign {
		signers = append(signers, cms.Signer{Key: key})
	}
	if sign && !renewal {
		return signers, nil, nil
	}
	if e.SignCert == nil || e.SignKey == nil {
		return nil, nil, fmt.Errorf("%v is signed by the certificate that the requester has: it needs the signature certificate first", r.typ)
	}
	signers = append(signers, e.cmsSigner())
	renewed := e.SignCert
	switch {
	case !renewal:
		return signers, nil, nil
	case !sign:
		if renewed = e.ExchangeCert; renewed == nil {
			return nil, nil, fmt.Errorf("%v: there is no key-exchange certificate to renew", r.typ)
		}
	}
	thumb := renewed.CertThumb()
	return signers, &thumb, nil
}

// inqReq makes CertInqReq, signed with the key of the request.
func (r *registration) inqReq(e *Endpoint, now time.Time, signer cms.Signer) ([]byte, error) {
	r.begin(e)
	own := e.ownCertificates(nil)
	if signer.Certificate == nil {
		own = nil
	}
	ci, err := cms.Sign(ContentCertInqReqTBS, CertInqReqTBS{
		RRPID: r.rrpid, LIDEE: r.lidEE, ChallEE3: r.challenge, LIDCA: r.lidCA, Thumbs: r.thumbs,
	}, own, nil, signer)
	if err != nil {
		return nil, err
	}
	req := CertInqReq(ci)
	return r.wrap(e, now, Message{CertInqReq: &req})
}

func (r *registration) receiveInqRes(e *Endpoint, now time.Time, b []byte) (*MessageWrapper, *CertRes, error) {
	w, err := e.receiveResponse(now, b, r.rrpid, CertInqResType)
	if err != nil {
		return nil, nil, err
	}
	res := w.Message.CertInqRes
	return w, &CertRes{CertRes: res.CertRes, EncK: res.EncK}, nil
}

// InqReq makes CertInqReq, which asks what became of CertReq. It is signed with the key that CertReq was for.
func (c *CardEnrolment) InqReq(e *Endpoint, now time.Time, key crypto.Signer) ([]byte, error) {
	if c.key == nil {
		return nil, errOrder("CertReq")
	}
	if own, ok := c.key.(interface{ Equal(crypto.PublicKey) bool }); !ok || !own.Equal(key.Public()) {
		return nil, errors.New("the registration is for another key: the CA is asked with the key that it was begun with")
	}
	return c.inqReq(e, now, cms.Signer{Key: key})
}

// OpenInqRes checks CertInqRes; its outcomes are those of OpenCertRes.
func (c *CardEnrolment) OpenInqRes(e *Endpoint, now time.Time, b []byte) (*CardCertificate, error) {
	w, res, err := c.receiveInqRes(e, now, b)
	if err != nil {
		return nil, err
	}
	return c.openRes(e, now, w, res)
}

// InqReq makes CertInqReq, which asks what became of CertReq. It is signed with the key that CertReq was
// for; signKey is nil if that asked for a key-exchange certificate alone.
func (m *MeAqEnrolment) InqReq(e *Endpoint, now time.Time, signKey crypto.Signer) ([]byte, error) {
	if !m.requested {
		return nil, errOrder("CertReq")
	}
	if m.signKey == nil {
		if e.SignCert == nil {
			return nil, errors.New("the question is signed by the certificate that the requester has: it needs that")
		}
		return m.inqReq(e, now, e.cmsSigner())
	}
	if own, ok := m.signKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || signKey == nil || !own.Equal(signKey.Public()) {
		return nil, errors.New("the registration is for another key: the CA is asked with the key that it was begun with")
	}
	return m.inqReq(e, now, cms.Signer{Key: signKey})
}

// OpenInqRes checks CertInqRes; its outcomes are those of OpenCertRes.
func (m *MeAqEnrolment) OpenInqRes(e *Endpoint, now time.Time, b []byte) (*EntityCertificates, error) {
	w, res, err := m.receiveInqRes(e, now, b)
	if err != nil {
		return nil, err
	}
	return m.openRes(e, now, w, res)
}

// kept is a registration whose CertReq was made, as Keep gives it.
type kept struct {
	Version  int64
	Brand    BrandID
	Language Language
	LIDEE    LocalID
	LIDCA    LocalID
	Type     RequestType
	Keys     PublicKeySorE
}

// keptCard has what the answer to a cardholder is opened and checked with.
type keptCard struct {
	Common     kept
	PAN        PAN
	Expiry     CardExpiry
	CardSecret Secret
	BackKey    BackKey
}

type keptEntity struct {
	Common kept
	ID     IDData
}

const keptVersion = 1

// KeptOctetsMax bounds what Keep gives.
const KeptOctetsMax = 32 << 10

var errKept = errors.New("what was kept of a registration is damaged, or of another version: register anew")

func (r *registration) keepCommon(language Language, sign, exchange crypto.PublicKey) (kept, error) {
	keys, err := newKeys(sign, exchange)
	return kept{keptVersion, r.brand, language, r.lidEE, r.lidCA, r.typ, keys}, err
}

// readKept decodes what Keep gave.
func readKept(b []byte, v any, k *kept) (sign, exchange crypto.PublicKey, err error) {
	if len(b) > KeptOctetsMax || Unmarshal(b, v) != nil || k.Version != keptVersion {
		return nil, nil, errKept
	}
	for _, key := range []struct {
		spki *der.Raw
		use  pki.Use
		into *crypto.PublicKey
	}{{k.Keys.PublicKeyS, pki.Signature, &sign}, {k.Keys.PublicKeyE, pki.KeyExchange, &exchange}} {
		if key.spki == nil {
			continue
		}
		if *key.into, err = parseKey(*key.spki, key.use); err != nil {
			return nil, nil, errKept
		}
	}
	return sign, exchange, nil
}

// Keep gives what is needed to ask later, also after a crash, what became of CertReq. It holds the card
// number and secrets: encrypt it, and clear it after use.
func (c *CardEnrolment) Keep() ([]byte, error) {
	if c.key == nil {
		return nil, errOrder("CertReq")
	}
	common, err := c.keepCommon(c.language, c.key, nil)
	if err != nil {
		return nil, err
	}
	k := keptCard{common, c.pan, c.expiry, c.cardSecret, c.backKey}
	defer clear(k.CardSecret[:])
	return der.Marshal(k)
}

// ResumeCardEnrolment takes up a registration of which Keep gave the octets, for InqReq.
func ResumeCardEnrolment(octets []byte) (*CardEnrolment, error) {
	var k keptCard
	sign, _, err := readKept(octets, &k, &k.Common)
	defer func() {
		clear(k.PAN)
		clear(k.Expiry)
		clear(k.CardSecret[:])
		clear(k.BackKey)
	}()
	if err != nil {
		return nil, err
	}
	if holder, _, _, _ := k.Common.Type.parts(); holder != pki.Card || sign == nil {
		return nil, errKept
	}
	c := newCardEnrolment(k.Common.Brand, k.Common.Language, k.PAN, k.Expiry, k.Common.Type)
	c.lidEE, c.lidCA, c.key = k.Common.LIDEE, k.Common.LIDCA, sign
	c.cardSecret, c.backKey = k.CardSecret, bytes.Clone(k.BackKey)
	return c, nil
}

// Keep gives what is needed to ask later, also after a crash, what became of CertReq.
func (m *MeAqEnrolment) Keep() ([]byte, error) {
	if !m.requested {
		return nil, errOrder("CertReq")
	}
	common, err := m.keepCommon(m.language, m.signKey, m.exchangeKey)
	if err != nil {
		return nil, err
	}
	return der.Marshal(keptEntity{common, m.id})
}

// ResumeMeAqEnrolment takes up a registration of which Keep gave the octets, for InqReq.
func ResumeMeAqEnrolment(octets []byte) (*MeAqEnrolment, error) {
	var k keptEntity
	sign, exchange, err := readKept(octets, &k, &k.Common)
	if err != nil {
		return nil, err
	}
	m, err := NewMeAqEnrolment(k.Common.Brand, k.Common.Language, k.Common.Type, k.ID)
	if err != nil {
		return nil, errKept
	}
	m.lidEE, m.lidCA, m.signKey, m.exchangeKey, m.requested = k.Common.LIDEE, k.Common.LIDCA, sign, exchange, true
	return m, nil
}

// SignKey is the signature key that CertReq asks to certify; nil if it asks for none.
func (m *MeAqEnrolment) SignKey() crypto.PublicKey { return m.signKey }

// Card is the card that is registered. What it gives is cleared with the registration.
func (c *CardEnrolment) Card() (PAN, CardExpiry) { return c.pan, c.expiry }
