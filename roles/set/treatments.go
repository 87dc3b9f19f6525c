package set

import (
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/pki"
)

// enc is Enc(s, r, t). The recipient needs the sender's key-exchange certificate to answer.
func enc[T any](e *Endpoint, types cms.SignedEncrypted, t T, crls [][]byte, to *pki.Certificate) (cms.ContentInfo, error) {
	return cms.Enc(types, t, e.ownCertificates(nil, e.ExchangeCert), crls, e.cmsSigner(), to.X509)
}

// openEnc undoes enc and checks everything about it that does not depend on T.
func openEnc[T any](e *Endpoint, now time.Time, types cms.SignedEncrypted, ci cms.ContentInfo, want pki.Type) (t T, signer *pki.Certificate, certs []*pki.Certificate, err error) {
	own, err := e.addressee(now, ci)
	if err != nil {
		return t, nil, nil, err
	}
	sd, err := own.recipient().OpenEnc(types, ci)
	if err != nil {
		return t, nil, nil, protocol(err)
	}
	return openedSigned[T](e, now, sd, nil, want)
}

// encB is EncB(s, r, t, b): t is linked to the baggage b, signed and encrypted; b travels beside it.
func encB[T, B any](e *Endpoint, types cms.SignedEncrypted, t T, baggageType asn1.ObjectIdentifier, b B, crls [][]byte, to *pki.Certificate) (EncB[B], error) {
	dd, err := cms.DD(baggageType, b)
	if err != nil {
		return EncB[B]{}, err
	}
	ci, err := enc(e, types, cms.Linked[T]{Value: t, DD: dd}, crls, to)
	return EncB[B]{Enc: ci, Baggage: b}, err
}

// openEncB undoes encB and checks everything about it that does not depend on T.
func openEncB[T, B any](e *Endpoint, now time.Time, types cms.SignedEncrypted, b EncB[B], baggageType asn1.ObjectIdentifier, want pki.Type) (t T, signer *pki.Certificate, certs []*pki.Certificate, err error) {
	linked, signer, certs, err := openEnc[cms.Linked[T]](e, now, types, b.Enc, want)
	if err != nil {
		return t, nil, nil, err
	}
	return linked.Value, signer, certs, protocol(linked.DD.Check(baggageType, b.Baggage))
}

// encBX is EncBX(s, r, t, b, p): encB with an account in the RSA block. The signature covers it too.
func encBX[T, B any](e *Endpoint, types cms.SignedEncrypted, t T, baggageType asn1.ObjectIdentifier, b B, p PANToken, crls [][]byte, to *pki.Certificate) (EncBX[B], error) {
	dd, err := cms.DD(baggageType, b)
	if err != nil {
		return EncBX[B]{}, err
	}
	ci, err := encX(e, types, cms.Linked[T]{Value: t, DD: dd}, p, e.ownCertificates(nil, e.ExchangeCert), crls, to)
	return EncBX[B]{EncX: ci, Baggage: b}, err
}

// openEncBX undoes encBX and checks everything about it that does not depend on T. The account is secret:
// whoever gets it clears it.
func openEncBX[T, B any](e *Endpoint, now time.Time, types cms.SignedEncrypted, b EncBX[B], baggageType asn1.ObjectIdentifier, want pki.Type) (t T, p PANToken, signer *pki.Certificate, certs []*pki.Certificate, err error) {
	own, err := e.addressee(now, b.EncX)
	if err != nil {
		return t, p, nil, nil, err
	}
	linked, p, sd, err := openEncX[cms.Linked[T]](own, types, b.EncX)
	if err != nil {
		return t, p, nil, nil, err
	}
	informed, err := e.informed(now, &linked, sd)
	if err == nil {
		signer, err = informed.signerCertificate(now, sd, nil, want)
	}
	if err == nil {
		err = verifyX(sd, linked, p, signer)
	}
	if err == nil {
		e.tell(informed)
	}
	if err == nil {
		certs, err = parseCertificates(sd.Certificates)
	}
	if err == nil {
		err = protocol(linked.DD.Check(baggageType, b.Baggage))
	}
	if err != nil {
		p.Clear()
		return t, p, nil, nil, err
	}
	return linked.Value, p, signer, certs, nil
}

// encX is EncX(s, r, t, p) with an account as p.
func encX[T any](e *Endpoint, types cms.SignedEncrypted, t T, p PANToken, certs []*x509.Certificate, crls [][]byte, to *pki.Certificate) (cms.ContentInfo, error) {
	packed := p.Pack()
	if packed == nil {
		return cms.ContentInfo{}, errors.New("an account without card number or expiry")
	}
	defer clear(packed)
	return cms.EncX(types, t, p, packed, cms.WithPANToken, certs, crls, []cms.Signer{e.cmsSigner()}, to.X509)
}

// openEncX decrypts what encX made. The signature is still to be verified.
func openEncX[T any](e *Endpoint, types cms.SignedEncrypted, ci cms.ContentInfo) (t T, p PANToken, sd *cms.SignedData, err error) {
	t, packed, sd, err := cms.OpenEncX[T](e.recipient(), types, ci, cms.WithPANToken)
	if err != nil {
		return t, p, nil, protocol(err)
	}
	defer clear(packed)
	if err := check(reflect.ValueOf(&t)); err != nil {
		return t, p, nil, &ProtocolError{Code: DecodingFailure, Err: err}
	}
	if p, err = UnpackPANToken(packed); err != nil {
		return t, p, nil, &ProtocolError{Code: DecodingFailure, Err: err}
	}
	return t, p, sd, nil
}

// verifyX verifies the signature of EncX, which covers t and p.
func verifyX[T any](sd *cms.SignedData, t T, p PANToken, signer *pki.Certificate) error {
	if err := sd.VerifyDetached(0, cms.Pair[T, PANToken]{Value: t, Extra: p}, signer.X509.PublicKey); err != nil {
		return &ProtocolError{Code: SignatureFailure, Err: fmt.Errorf("of %v: %w", signer, err)}
	}
	return nil
}
