package set

import (
	"time"

	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/der"
	"github.com/setkit/setkit/roles/set/pki"
)

// Revocation lists travel in the answers of the payment messages: the BrandCRLIdentifier inside what is
// signed, the CRLs beside the signature (SET §6.6). Each is signed by itself.

// thumbs show which lists the endpoint knows, and certificates that it has; nil when there are none.
func (e *Endpoint) thumbs(certs ...*pki.Certificate) *Thumbs {
	known := e.Verifier.Store()
	if len(certs) == 0 && len(known.CRLs) == 0 && len(known.BCIs) == 0 {
		return nil
	}
	thumbs := pki.NewThumbs(certs, known.CRLs, known.BCIs)
	return &thumbs
}

// listsOf gives the BrandCRLIdentifiers that the contents of a message carry. It is not ok for messages that
// bring no lists.
func listsOf(content any) (bcis []der.Raw, ok bool) {
	var bci *der.Raw
	switch c := content.(type) {
	case *PInitResData:
		bci = c.BrandCRLIdentifier
	case *cms.Linked[AuthResData]:
		bci = c.Value.BrandCRLIdentifier
	case *AuthRevResData:
		bci = c.BrandCRLIdentifier
	case *cms.Linked[AuthRevResData]:
		bci = c.Value.BrandCRLIdentifier
	case *CapResData:
		bci = c.BrandCRLIdentifier
	case *CapRevOrCredResData:
		bci = c.BrandCRLIdentifier
	case *PResData:
		bci = c.BrandCRLIdentifier
	case *PCertResTBS:
		return c.BrandCRLIdentifierSeq, true
	default:
		return nil, false
	}
	if bci != nil {
		bcis = []der.Raw{*bci}
	}
	return bcis, true
}

// informed is the endpoint that knows the revocation lists of a message too, by which who signed it is to be
// verified.
func (e *Endpoint) informed(now time.Time, content any, sd *cms.SignedData, held ...*pki.Certificate) (*Endpoint, error) {
	bcis, ok := listsOf(content)
	if !ok || len(bcis) == 0 && len(sd.CRLs) == 0 {
		return e, nil
	}
	certs, err := parseCertificates(sd.Certificates)
	if err != nil {
		return nil, err
	}
	own := *e
	own.Verifier, err = e.learn(now, sd.CRLs, bcis, append(append(certs, held...), e.Chain...))
	return &own, err
}

// tell lets the party keep what the informed endpoint has learnt, once the message is known to be genuine.
func (e *Endpoint) tell(informed *Endpoint) {
	if informed != e && e.Learnt != nil {
		e.Learnt(informed.Verifier)
	}
}

// learn gives the verifier that knows these lists too.
func (e *Endpoint) learn(now time.Time, rawCRLs [][]byte, rawBCIs []der.Raw, certs []*pki.Certificate) (*pki.Verifier, error) {
	bad := func(err error) (*pki.Verifier, error) { return nil, &ProtocolError{Code: InvalidCertificate, Err: err} }
	var crls []*pki.CRL
	for _, raw := range rawCRLs {
		l, err := pki.ParseCRL(raw)
		if err != nil {
			return bad(err)
		}
		crls = append(crls, l)
	}
	v, err := e.Verifier.Update(nil, crls, certs, now)
	for i := 0; err == nil && i < len(rawBCIs); i++ {
		var bci *pki.BrandCRLIdentifier
		if bci, err = pki.ParseBCI(rawBCIs[i]); err == nil {
			v, err = v.Update(bci, crls, certs, now)
		}
	}
	if err != nil {
		return bad(err)
	}
	return v, nil
}
