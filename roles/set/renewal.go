package set

import (
	"errors"
	"slices"
	"time"

	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/pki"
)

// Who renews its certificates gets new keys with them (SET §4.6). What was encrypted for the former ones is
// still under way: payment instructions of orders that wait, answers to requests from before, and the tokens
// of a gateway, which stand for instalments and recurring payments of years.

// addressee gives the endpoint, or one that it was, for whose certificate ci is encrypted; e itself where it
// is for none of them. That a former certificate has expired does not matter. One that was revoked is worth
// nothing any more: whoever stole its keys can make tokens with them.
func (e *Endpoint) addressee(now time.Time, ci cms.ContentInfo) (*Endpoint, error) {
	for _, former := range e.Former {
		if cms.EncryptedFor(ci, former.ExchangeCert.X509) {
			return former, former.notRevoked(e, now)
		}
	}
	return e, nil
}

// peThumb names the gateway's key-exchange certificate to a merchant whose thumbs do not show it (SET §7.4). The
// certificate itself is beside the signature in any case.
func (e *Endpoint) peThumb(thumbs *Thumbs) *CertThumb {
	if thumbs.HasCert(e.ExchangeCert) {
		return nil
	}
	thumb := e.ExchangeCert.CertThumb()
	return &thumb
}

// learnGateway has the party keep the certificate that a gateway names in an answer, if it names one and it is its
// own.
func (e *Endpoint) learnGateway(now time.Time, thumb *CertThumb, signer *pki.Certificate, certs []*pki.Certificate) error {
	if thumb == nil {
		return nil
	}
	cert, err := byThumb(certs, *thumb)
	if err != nil {
		return err
	}
	if err := e.validate(now, cert, certs, pki.KeyExchange, pki.Pgwy); err != nil {
		return err
	}
	if string(cert.X509.RawSubject) != string(signer.X509.RawSubject) {
		return &ProtocolError{Code: InvalidCertificate, Thumb: thumb, Err: errors.New("the certificate is another gateway's")}
	}
	if e.LearntGateway != nil {
		e.LearntGateway(cert, certs)
	}
	return nil
}

// notRevoked refuses certificates of the past that e knows to be revoked at present.
func (former *Endpoint) notRevoked(e *Endpoint, now time.Time) error {
	for _, c := range []*pki.Certificate{former.SignCert, former.ExchangeCert} {
		var v *pki.VerifyError
		if _, err := e.Verifier.Verify(c, slices.Concat(former.Chain, e.Chain), now); errors.As(err, &v) && v.Reason == pki.Revoked {
			return &ProtocolError{Code: RevokedCertificate, Thumb: &v.Thumb, Err: err}
		}
	}
	return nil
}
