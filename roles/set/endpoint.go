package set

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/der"
	"github.com/setkit/setkit/roles/set/pki"
)

// DefaultWindow is how far the date of a message may be from the receiver's clock (profile A9).
const DefaultWindow = 10 * time.Minute

// Endpoint is one party's side of the protocol: the keys with which it signs and opens, their
// certificates, and whom it trusts. Its methods do no I/O and take the time as an argument. It may be
// used concurrently if its keys may.
type Endpoint struct {
	SignKey      crypto.Signer
	SignCert     *pki.Certificate // nil before the first certificate
	ExchangeKey  crypto.Decrypter
	ExchangeCert *pki.Certificate   // nil for a cardholder
	Chain        []*pki.Certificate // the CA certificates above these, without the root
	Verifier     *pki.Verifier
	Software     SWIdent
	Window       time.Duration // 0 means DefaultWindow

	// Former are the party as it was before renewals, each without Verifier and SignKey. What was made for
	// their keys is still opened: see addressee.
	Former []*Endpoint

	// Learnt, if there is one, is told the verifier that knows the revocation lists of an answer too.
	Learnt func(*pki.Verifier)

	// LearntGateway, if there is one, is told the key-exchange certificate that a gateway has in the place of the
	// one that was asked, and the certificates that came with it: among them those of the CAs above.
	LearntGateway func(cert *pki.Certificate, others []*pki.Certificate)
}

func random[T ~[20]byte]() T {
	var v [20]byte
	rand.Read(v[:])
	return T(v)
}

// NewLocalID makes a local identifier that no one can guess.
func NewLocalID() LocalID {
	id := random[Nonce]()
	return LocalID(id[:])
}

// NewXID makes a transaction identifier.
func NewXID() XID { return random[XID]() }

// NewRRPID makes the identifier of a request.
func NewRRPID() RRPID { return random[RRPID]() }

// NewChallenge makes a challenge.
func NewChallenge() Challenge { return random[Challenge]() }

// NewNonce makes a nonce.
func NewNonce() Nonce { return random[Nonce]() }

// NewSecret makes a CardSecret or NonceCCA.
func NewSecret() Secret { return random[Secret]() }

// wrap puts a message into its wrapper. The RRPID is nil only for an Error about something undecodable.
func (e *Endpoint) wrap(now time.Time, ids *MessageIDs, rrpid *RRPID, m Message) ([]byte, error) {
	return Encode(MessageWrapper{
		MessageHeader: MessageHeader{
			Version: Version, Date: now.UTC().Truncate(time.Second), MessageIDs: ids, RRPID: rrpid, SWIdent: e.Software,
		},
		Message: m,
	})
}

// Receive decodes a request and makes the checks that every message gets (SET §7.1, steps 1, 2, 3, 4 and
// 6). Its error is a *ProtocolError; the wrapper comes with it as far as it could be read.
func (e *Endpoint) Receive(now time.Time, b []byte, served ...MessageType) (*MessageWrapper, error) {
	w, err := Decode(b)
	if err != nil {
		return nil, err
	}
	if err := e.checkHeader(now, w); err != nil {
		return w, err
	}
	if w.Message.Error != nil {
		return w, &ProtocolError{Code: MessageNotSupported, Err: errors.New("an Error message, which is not answered")}
	}
	if t := w.Message.Type(); !slices.Contains(served, t) {
		return w, &ProtocolError{Code: MessageNotSupported, Err: fmt.Errorf("%v is not served here", t)}
	}
	if w.MessageHeader.RRPID == nil {
		return w, &ProtocolError{Code: BadMessageHeader, Err: errors.New("no RRPID")}
	}
	return w, nil
}

func (e *Endpoint) checkHeader(now time.Time, w *MessageWrapper) error {
	h := &w.MessageHeader
	switch {
	case h.Version > Version:
		return &ProtocolError{Code: VersionTooNew, Err: fmt.Errorf("version %d", h.Version)}
	case h.Version < Version:
		return &ProtocolError{Code: VersionTooOld, Err: fmt.Errorf("version %d", h.Version)}
	}
	return errors.Join(e.checkDate(now, h.Date), known(w.MWExtensions))
}

// checkDate refuses what was made too far from now. The header's date is not signed, and can be made anew by who
// repeats a message later than its answer is kept: so that inside is checked too, where there is one.
func (e *Endpoint) checkDate(now, date time.Time) error {
	window := e.Window
	if window == 0 {
		window = DefaultWindow
	}
	if age := now.Sub(date); age > window {
		return &ProtocolError{Code: MessageTooOld, Err: fmt.Errorf("dated %v, %v ago: check both clocks", date, age.Round(time.Second))}
	} else if age < -window {
		return &ProtocolError{Code: MessageTooNew, Err: fmt.Errorf("dated %v, %v ahead: check both clocks", date, -age.Round(time.Second))}
	}
	return nil
}

// known refuses a critical extension: setkit knows no extension that may be critical.
func known(x MsgExtensions) error {
	if oid, ok := x.Unknown(); ok {
		return &ProtocolError{Code: UnrecognizedExtension, OID: oid}
	}
	return nil
}

// PeerError is an Error message that came as the answer to a request.
type PeerError struct {
	Code   ErrorCode
	Signer *pki.Certificate // who signed it, by a certificate that validates, about this request; else nil
}

func (e *PeerError) Error() string {
	if e.Signer == nil {
		return fmt.Sprintf("the peer answers with a SET Error that nobody has signed for this request: %v", e.Code)
	}
	return fmt.Sprintf("the holder of the %v answers with SET Error %v", e.Signer, e.Code)
}

// receiveResponse decodes the answer to the request with the given RRPID. An Error message becomes a
// *PeerError.
func (e *Endpoint) receiveResponse(now time.Time, b []byte, rrpid RRPID, want MessageType) (*MessageWrapper, error) {
	w, err := Decode(b)
	if err != nil {
		return nil, err
	}
	if w.Message.Error != nil {
		return nil, e.peerError(now, rrpid, w.Message.Error)
	}
	if err := e.checkHeader(now, w); err != nil {
		return nil, err
	}
	if t := w.Message.Type(); t != want {
		return nil, &ProtocolError{Code: MessageNotSupported, Err: fmt.Errorf("the answer is %v, want %v", t, want)}
	}
	if h := w.MessageHeader.RRPID; h == nil || *h != rrpid {
		return nil, &ProtocolError{Code: UnknownRRPID, Err: errors.New("the answer is to another request")}
	}
	return w, nil
}

// peerError has a signer only if what was signed names the request: else it may be a replay.
func (e *Endpoint) peerError(now time.Time, rrpid RRPID, m *Error) error {
	if m.UnsignedError != nil {
		return &PeerError{Code: m.UnsignedError.ErrorCode}
	}
	sd, err := cms.ParseSigned(cms.ContentInfo(*m.SignedError), ContentErrorTBS)
	if err != nil {
		return protocol(err)
	}
	var tbs ErrorTBS
	if err := decode(sd.Content, &tbs); err != nil {
		return err
	}
	peer := &PeerError{Code: tbs.ErrorCode}
	about := tbs.ErrorMsg.MessageHeader
	if about == nil || about.RRPID == nil || *about.RRPID != rrpid {
		return peer
	}
	if cert, err := e.signer(now, sd, nil); err == nil {
		peer.Signer = cert
	}
	return peer
}

// ErrorResponse makes the Error message that answers request, of which w is what could be read (nil if
// nothing). What is not a *ProtocolError becomes unspecifiedFailure. An Error message is never answered: then
// there is none (SET §2.3).
func (e *Endpoint) ErrorResponse(now time.Time, request []byte, w *MessageWrapper, cause error) ([]byte, error) {
	if w != nil && w.Message.Error != nil {
		return nil, nil
	}
	var p *ProtocolError
	if !errors.As(cause, &p) {
		p = &ProtocolError{Code: UnspecifiedFailure}
	}
	tbs := ErrorTBS{ErrorCode: p.Code, ErrorNonce: NewNonce(), ErrorOID: p.OID, ErrorThumb: p.Thumb}
	var rrpid *RRPID
	var ids *MessageIDs
	if w != nil {
		tbs.ErrorMsg.MessageHeader = &w.MessageHeader
		rrpid, ids = w.MessageHeader.RRPID, w.MessageHeader.MessageIDs
	} else {
		bad := BadWrapper(request[:min(len(request), BadWrapperOctetsMax)])
		if bad == nil {
			bad = BadWrapper{}
		}
		tbs.ErrorMsg.BadWrapper = &bad
	}
	m := Message{Error: &Error{UnsignedError: &tbs}}
	if e.SignCert != nil {
		ci, err := e.sign(ContentErrorTBS, tbs, nil)
		if err != nil {
			return nil, err
		}
		signed := SignedError(ci)
		m.Error = &Error{SignedError: &signed}
	}
	return e.wrap(now, ids, rrpid, m)
}

// cmsSigner is the party's signature key for the cms package.
func (e *Endpoint) cmsSigner() cms.Signer {
	s := cms.Signer{Key: e.SignKey}
	if e.SignCert != nil {
		s.Certificate = e.SignCert.X509
	}
	return s
}

func (e *Endpoint) recipient() cms.Recipient {
	r := cms.Recipient{Key: e.ExchangeKey}
	if e.ExchangeCert != nil {
		r.Certificate = e.ExchangeCert.X509
	}
	return r
}

// ownCertificates are what a peer needs to verify our signatures, with others that it must have, less
// those that its thumbs show it holds.
func (e *Endpoint) ownCertificates(thumbs *Thumbs, others ...*pki.Certificate) []*x509.Certificate {
	var out []*x509.Certificate
	seen := make(map[pki.Digest]bool)
	add := func(c *pki.Certificate) {
		if c == nil || seen[c.Thumbprint()] || thumbs.HasCert(c) {
			return
		}
		seen[c.Thumbprint()] = true
		out = append(out, c.X509)
	}
	add(e.SignCert)
	for _, c := range e.Chain {
		add(c)
	}
	for _, c := range others {
		add(c)
	}
	return out
}

// sign is S with the party's signature key.
func (e *Endpoint) sign(contentType asn1.ObjectIdentifier, v any, thumbs *Thumbs, others ...*pki.Certificate) (cms.ContentInfo, error) {
	return cms.Sign(contentType, v, e.ownCertificates(thumbs, others...), nil, e.cmsSigner())
}

// signer finds and validates the certificate of a SignedData's only signer, and verifies the signature
// over the content that came. want lists the holders that may sign; empty means any.
func (e *Endpoint) signer(now time.Time, sd *cms.SignedData, held []*pki.Certificate, want ...pki.Type) (*pki.Certificate, error) {
	cert, err := e.signerCertificate(now, sd, held, want...)
	if err != nil {
		return nil, err
	}
	if err := sd.Verify(0, cert.X509.PublicKey); err != nil {
		return nil, &ProtocolError{Code: SignatureFailure, Err: fmt.Errorf("of %v: %w", cert, err)}
	}
	return cert, nil
}

// signerCertificate finds and validates the certificate that the only signer of sd names.
func (e *Endpoint) signerCertificate(now time.Time, sd *cms.SignedData, held []*pki.Certificate, want ...pki.Type) (*pki.Certificate, error) {
	if sd.Signers != 1 {
		return nil, &ProtocolError{Code: SignatureFailure, Err: fmt.Errorf("%d signers, want 1", sd.Signers)}
	}
	return e.certificateOf(now, sd, 0, held, want...)
}

// certificateOf finds and validates the certificate that signer i of sd names.
func (e *Endpoint) certificateOf(now time.Time, sd *cms.SignedData, i int, held []*pki.Certificate, want ...pki.Type) (*pki.Certificate, error) {
	certs, err := parseCertificates(sd.Certificates)
	if err != nil {
		return nil, err
	}
	certs = append(certs, held...)
	at := slices.IndexFunc(certs, func(c *pki.Certificate) bool { return sd.Names(i, c.X509) })
	if at < 0 {
		return nil, &ProtocolError{Code: MissingCertificate, Err: errors.New("of the signer")}
	}
	return certs[at], e.validate(now, certs[at], certs, pki.Signature, want...)
}

// validate checks the path of a certificate to the root, and that it is for this use by one of these
// holders.
func (e *Endpoint) validate(now time.Time, cert *pki.Certificate, others []*pki.Certificate, use pki.Use, want ...pki.Type) error {
	bad := func(err error) error {
		thumb := cert.CertThumb()
		return &ProtocolError{Code: InvalidCertificate, Thumb: &thumb, Err: err}
	}
	if cert.Use != use || len(want) > 0 && !slices.ContainsFunc(want, func(t pki.Type) bool { return cert.Type.Has(t) }) {
		return bad(fmt.Errorf("%v where one of %v for %v is needed", cert, want, use))
	}
	if _, err := e.Verifier.Verify(cert, slices.Concat(others, e.Chain), now); err != nil {
		var v *pki.VerifyError
		if !errors.As(err, &v) {
			return bad(err)
		}
		codes := map[pki.Reason]ErrorCode{
			pki.Expired: ExpiredCertificate, pki.Revoked: RevokedCertificate, pki.Missing: MissingCertificate, pki.Invalid: InvalidCertificate,
		}
		return &ProtocolError{Code: codes[v.Reason], Thumb: &v.Thumb, Err: err}
	}
	if p := cert.PrivateKeyUsage; p != nil && (now.Before(p.NotBefore) || now.After(p.NotAfter)) {
		return bad(fmt.Errorf("%v outside its private key usage period", cert))
	}
	return nil
}

func parseCertificates(raw []*x509.Certificate) ([]*pki.Certificate, error) {
	var out []*pki.Certificate
	for _, c := range raw {
		cert, err := pki.ParseCertificate(c.Raw)
		if err != nil {
			return nil, &ProtocolError{Code: InvalidCertificate, Err: err}
		}
		out = append(out, cert)
	}
	return out, nil
}

// byThumb finds the certificate that a thumbprint inside a signed message names: the certificates beside
// it are not signed, the thumbprint is (SET §3.1).
func byThumb(certs []*pki.Certificate, thumb CertThumb) (*pki.Certificate, error) {
	for _, c := range certs {
		if c.Thumbprint() == thumb.Thumbprint {
			return c, nil
		}
	}
	return nil, &ProtocolError{Code: MissingCertificate, Thumb: &thumb, Err: errors.New("named by its thumbprint")}
}

// protocol gives an error of the packages below the code that a peer is told.
func protocol(err error) error {
	var p *ProtocolError
	var d *der.Error
	switch {
	case err == nil || errors.As(err, &p):
		return err
	case errors.Is(err, cms.ErrSignature), errors.Is(err, cms.ErrDigest):
		return &ProtocolError{Code: SignatureFailure, Err: err}
	case errors.Is(err, cms.ErrDecrypt), errors.Is(err, cms.ErrMalformed), errors.As(err, &d):
		return &ProtocolError{Code: DecodingFailure, Err: err}
	}
	return err // a device that is away, for one: not the peer's fault
}

// decode is Unmarshal for what a peer sent.
func decode(b []byte, v any) error {
	if err := Unmarshal(b, v); err != nil {
		return &ProtocolError{Code: DecodingFailure, Err: err}
	}
	return nil
}

// opened decodes and verifies S(signer, T) with a signer of one of the types wanted.
func opened[T any](e *Endpoint, now time.Time, ci cms.ContentInfo, contentType asn1.ObjectIdentifier, held []*pki.Certificate, want ...pki.Type) (v T, cert *pki.Certificate, certs []*pki.Certificate, err error) {
	sd, err := cms.ParseSigned(ci, contentType)
	if err != nil {
		return v, nil, nil, protocol(err)
	}
	return openedSigned[T](e, now, sd, held, want...)
}

// openedSigned looks for the certificates that did not come along among those held.
func openedSigned[T any](e *Endpoint, now time.Time, sd *cms.SignedData, held []*pki.Certificate, want ...pki.Type) (v T, cert *pki.Certificate, certs []*pki.Certificate, err error) {
	if err = decode(sd.Content, &v); err != nil {
		return v, nil, nil, err
	}
	own, err := e.informed(now, &v, sd, held...)
	if err != nil {
		return v, nil, nil, err
	}
	if cert, err = own.signer(now, sd, held, want...); err != nil {
		return v, nil, nil, err
	}
	e.tell(own)
	certs, err = parseCertificates(sd.Certificates)
	return v, cert, certs, err
}

// mismatch tells that header and message disagree.
func mismatch(what string) error {
	return &ProtocolError{Code: WrapperMsgMismatch, Err: fmt.Errorf("%s differs between header and message", what)}
}
