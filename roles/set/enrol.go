package set

import (
	"bytes"
	"crypto"
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

// ReferralError tells that the CA has no form for the requester, and who may have one.
type ReferralError struct {
	Reason string
	URLs   []URL // the preferred one first
}

func (e *ReferralError) Error() string {
	s := "the CA has no registration form for this request"
	if e.Reason != "" {
		s += ": " + e.Reason
	}
	for _, u := range e.URLs {
		s += fmt.Sprintf("; see %s", u)
	}
	return s
}

// CertStatusError tells why a CertReq gave no certificate.
type CertStatusError struct {
	Code        CertStatusCode
	Message     string       // of the CA, to be shown; may be empty
	FailedItems []FailedItem // with RegFormAnswerMalformed: fields of the form, counted from 1
}

func (e *CertStatusError) Error() string {
	s := fmt.Sprintf("the CA answers %v", e.Code)
	if e.Message != "" {
		s += ": " + e.Message
	}
	for _, f := range e.FailedItems {
		s += fmt.Sprintf("; field %d: %s", f.ItemNumber, f.ItemReason)
	}
	return s
}

// Pending tells whether the CA has not decided yet, and may be asked again by CertInqReq.
func (e *CertStatusError) Pending() bool {
	return e.Code == RequestInProgress || e.Code == RequestPended
}

// registration is what cardholder, merchant and gateway share while they enrol: whom they talk to, what
// they asked last, and what they have learnt of the CA.
type registration struct {
	brand BrandID
	ca    pki.Type // CCA, MCA or PCA
	typ   RequestType

	lidEE     LocalID
	lidCA     LocalID
	rrpid     RRPID
	challenge Challenge // of the request under way
	thumbs    *Thumbs   // of the request under way
	challCA   *Challenge

	verifier *pki.Verifier      // knows the revocation lists that the CA sent; nil before
	held     []*pki.Certificate // validated certificates of the CA and above it
	exchange *pki.Certificate   // the CA's key-exchange certificate; nil before the first answer
	template *RegTemplate       // of the form; nil when it has none
	formed   bool               // whether a form has come
}

func newRegistration(brand BrandID, ca pki.Type, typ RequestType) registration {
	return registration{brand: brand, ca: ca, typ: typ, lidEE: NewLocalID()}
}

// restart forgets the registration so far, but not what was learnt of certificates and revocation.
func (r *registration) restart(e *Endpoint) {
	fresh := newRegistration(r.brand, r.ca, r.typ)
	fresh.verifier, fresh.held = r.verifier, r.held
	*r = fresh
	r.begin(e)
}

// begin draws the identifiers of a new request and notes what it says the requester holds.
func (r *registration) begin(e *Endpoint) {
	r.rrpid, r.challenge = NewRRPID(), NewChallenge()
	verifier := r.endpoint(e).Verifier
	store := verifier.Store()
	certs := slices.Clone(r.held)
	for _, c := range slices.Concat(e.Chain, verifier.Roots()) {
		if !slices.Contains(certs, c) {
			certs = append(certs, c)
		}
	}
	r.thumbs = nil
	if len(certs)+len(store.CRLs)+len(store.BCIs) > 0 {
		thumbs := pki.NewThumbs(certs, store.CRLs, store.BCIs)
		r.thumbs = &thumbs
	}
}

// endpoint is e with what the CA has sent of revocation.
func (r *registration) endpoint(e *Endpoint) *Endpoint {
	if r.verifier == nil {
		return e
	}
	own := *e
	own.Verifier = r.verifier
	return &own
}

func (r *registration) wrap(e *Endpoint, now time.Time, m Message) ([]byte, error) {
	return e.wrap(now, &MessageIDs{LIDC: r.lidEE, LIDM: r.lidCA}, &r.rrpid, m)
}

// caAnswer is what every answer of a CA repeats.
type caAnswer struct {
	rrpid     RRPID
	lidEE     LocalID
	lidCA     LocalID
	challenge Challenge
	thumbs    *Thumbs
	bci       *der.Raw
	ext       MsgExtensions
}

// openAnswer verifies S(CA, T) and that it answers the request under way. fields tells where T has what every
// answer repeats.
func openAnswer[T any](r *registration, e *Endpoint, now time.Time, w *MessageWrapper, sd *cms.SignedData, fields func(*T) caAnswer) (v T, signer *pki.Certificate, certs []*pki.Certificate, err error) {
	fail := func(err error) (T, *pki.Certificate, []*pki.Certificate, error) { return v, nil, nil, err }
	if certs, err = parseCertificates(sd.Certificates); err != nil {
		return fail(err)
	}
	certs = append(certs, r.held...)
	if err := decode(sd.Content, &v); err != nil {
		return fail(err)
	}
	a := fields(&v)
	peer, err := r.informed(e, now, sd.CRLs, a.bci, certs)
	if err != nil {
		return fail(err)
	}
	if signer, err = peer.signer(now, sd, r.held, r.ca); err != nil {
		return fail(err)
	}
	if err := r.checkBrand(signer); err != nil {
		return fail(err)
	}
	if err := errors.Join(r.check(w, a), known(a.ext)); err != nil {
		return fail(err)
	}
	r.lidCA, r.verifier = a.lidCA, peer.Verifier
	r.keep(e, now, signer, certs)
	return v, signer, certs, nil
}

// Verifier knows what the CA has sent: revocation lists, and the root that takes over. It is nil before the
// first answer.
func (r *registration) Verifier() *pki.Verifier { return r.verifier }

// informed is e with the revocation lists of a message, and the roots that ours announced, taken in. The
// lists are signed by themselves.
func (r *registration) informed(e *Endpoint, now time.Time, rawCRLs [][]byte, rawBCI *der.Raw, certs []*pki.Certificate) (*Endpoint, error) {
	own := *r.endpoint(e)
	own.Verifier = own.Verifier.Succeed(certs, now)
	bad := func(err error) (*Endpoint, error) {
		return nil, &ProtocolError{Code: InvalidCertificate, Err: err}
	}
	var crls []*pki.CRL
	for _, raw := range rawCRLs {
		l, err := pki.ParseCRL(raw)
		if err != nil {
			return bad(err)
		}
		crls = append(crls, l)
	}
	var bci *pki.BrandCRLIdentifier
	if rawBCI != nil {
		var err error
		if bci, err = pki.ParseBCI(*rawBCI); err != nil {
			return bad(err)
		}
	}
	if bci == nil && len(crls) == 0 {
		return &own, nil
	}
	v, err := own.Verifier.Update(bci, crls, slices.Concat(certs, e.Chain), now)
	if err != nil {
		return bad(err)
	}
	own.Verifier = v
	return &own, nil
}

// checkBrand refuses a certificate of another brand than the one to enrol for.
func (r *registration) checkBrand(c *pki.Certificate) error {
	if r.brand.Matches(BrandID(c.Brand())) {
		return nil
	}
	thumb := c.CertThumb()
	return &ProtocolError{Code: InvalidCertificate, Thumb: &thumb, Err: fmt.Errorf("%v is of brand %q, want %q", c, c.Brand(), r.brand)}
}

// check holds an answer against the request under way (SET §7.1).
func (r *registration) check(w *MessageWrapper, a caAnswer) error {
	ids := w.MessageHeader.MessageIDs
	switch {
	case a.challenge != r.challenge:
		return &ProtocolError{Code: ChallengeMismatch, Err: errors.New("the answer is to another request")}
	case a.rrpid != r.rrpid:
		return &ProtocolError{Code: UnknownRRPID, Err: errors.New("the answer is to another request")}
	case !bytes.Equal(a.lidEE, r.lidEE), r.lidCA != nil && !bytes.Equal(a.lidCA, r.lidCA):
		return &ProtocolError{Code: UnknownLID, Err: errors.New("the answer belongs to another registration")}
	case ids == nil || !bytes.Equal(ids.LIDC, a.lidEE):
		return mismatch("lid-C")
	case !bytes.Equal(ids.LIDM, a.lidCA):
		return mismatch("lid-M")
	}
	if same, err := sameThumbs(a.thumbs, r.thumbs); err != nil || !same {
		return &ProtocolError{Code: ThumbsMismatch, Err: err}
	}
	return nil
}

func sameThumbs(a, b *Thumbs) (bool, error) {
	if a == nil || b == nil {
		return a == b, nil
	}
	rawA, errA := der.Marshal(a)
	rawB, errB := der.Marshal(b)
	return bytes.Equal(rawA, rawB), errors.Join(errA, errB)
}

// keep remembers a valid certificate with those above it, so that they need not be sent again.
func (r *registration) keep(e *Endpoint, now time.Time, c *pki.Certificate, certs []*pki.Certificate) {
	for _, c := range r.path(e, now, c, certs) {
		if !slices.ContainsFunc(r.held, func(o *pki.Certificate) bool { return o.Thumbprint() == c.Thumbprint() }) {
			r.held = append(r.held, c)
		}
	}
}

// above are the certificates between a valid one and the root.
func (r *registration) above(e *Endpoint, now time.Time, c *pki.Certificate, certs []*pki.Certificate) []*pki.Certificate {
	path := r.path(e, now, c, certs)
	return path[min(1, len(path)):]
}

// path is a certificate with those above it, without the root; nil if it is not valid.
func (r *registration) path(e *Endpoint, now time.Time, c *pki.Certificate, certs []*pki.Certificate) []*pki.Certificate {
	chain, err := r.endpoint(e).Verifier.Verify(c, slices.Concat(certs, e.Chain), now)
	if err != nil {
		return nil
	}
	return chain[:len(chain)-1]
}

// takeExchange finds the key-exchange certificate that a CA names by its thumbprint, and checks that it
// belongs to the CA that signed (SET §7.2).
func (r *registration) takeExchange(e *Endpoint, now time.Time, thumb CertThumb, signer *pki.Certificate, certs []*pki.Certificate) error {
	c, err := byThumb(certs, thumb)
	if err != nil {
		return err
	}
	if err := r.endpoint(e).validate(now, c, certs, pki.KeyExchange, r.ca); err != nil {
		return err
	}
	if !bytes.Equal(c.X509.RawSubject, signer.X509.RawSubject) {
		return &ProtocolError{Code: InvalidCertificate, Thumb: &thumb, Err: errors.New("key-exchange key of another CA than the one that signed")}
	}
	r.exchange = c
	r.keep(e, now, c, certs)
	return nil
}

// takeForm gives the form, or the referral as an error.
func (r *registration) takeForm(f RegFormOrReferral) (*RegFormData, error) {
	if f.ReferralData != nil {
		return nil, &ReferralError{Reason: string(f.ReferralData.Reason), URLs: f.ReferralData.ReferralURLSeq}
	}
	r.template, r.formed = f.RegFormData.RegTemplate, true
	return f.RegFormData, nil
}

// formAnswers puts answers, one for each field and empty where there is none, into their wire form.
func (r *registration) formAnswers(answers []FieldText) (id Natural, items []RegFormItem, err error) {
	if r.template == nil {
		if len(answers) > 0 {
			return 0, nil, fmt.Errorf("%d answers to a form without fields", len(answers))
		}
		return 0, nil, nil
	}
	fields := r.template.RegFieldSeq
	if len(answers) != len(fields) {
		return 0, nil, fmt.Errorf("%d answers to a form of %d fields: give one for each, empty where there is none", len(answers), len(fields))
	}
	for i, f := range fields {
		if reason := f.refuses(answers[i]); reason != "" {
			return 0, nil, fmt.Errorf("field %d: %s", i+1, reason)
		}
		if answers[i] != "" {
			items = append(items, RegFormItem{FieldName: f.FieldName, FieldValue: FieldValue{Text: &answers[i]}})
		}
	}
	return r.template.RegFormID, items, nil
}

// refuses tells why an answer does not fit the field; an empty text means that it does.
func (f *RegField) refuses(answer FieldText) Text512 {
	n := len([]rune(string(answer)))
	switch {
	case n == 0 && f.FieldRequired:
		return "an answer is required"
	case n > int(f.FieldLen):
		return Text512(fmt.Sprintf("the answer has more than %d characters", f.FieldLen))
	}
	return ""
}

// newKeys is what a certificate request asks to certify.
func newKeys(sign, exchange crypto.PublicKey) (k PublicKeySorE, err error) {
	for _, key := range []struct {
		public crypto.PublicKey
		field  **der.Raw
	}{{sign, &k.PublicKeyS}, {exchange, &k.PublicKeyE}} {
		if key.public == nil {
			continue
		}
		spki, err := x509.MarshalPKIXPublicKey(key.public)
		if err != nil {
			return k, fmt.Errorf("public key to certify: %w", err)
		}
		raw := der.Raw(spki)
		*key.field = &raw
	}
	return k, nil
}

// Content types of the certificate messages that are encrypted.
var (
	typesCertReqX = cms.SignedEncrypted{TBE: ContentCertReqTBEX, TBS: ContentCertReqTBS}
	typesCertReq  = cms.SignedEncrypted{TBE: ContentCertReqTBE, TBS: ContentCertReqData}
	typesCertRes  = cms.SignedEncrypted{TBE: ContentCertResTBE, TBS: ContentCertResData}
)

// oidAES256GCM is the content encryption of everything, and so what a back key is for (profile A6).
var oidAES256GCM = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 46}

// backKeyOctets is the size of a back key (profile A6).
const backKeyOctets = 32

// End is the first moment after the month in which the card expires, in UTC.
func (e CardExpiry) End() (time.Time, error) {
	if _, err := ParseCardExpiry(e); err != nil {
		return time.Time{}, err
	}
	month, err := time.Parse("200601", string(e))
	if err != nil {
		return time.Time{}, errors.New("card expiry is not a month")
	}
	return month.AddDate(0, 1, 0), nil
}

func caAnswerOfCertRes(d *CertResData) caAnswer {
	return caAnswer{d.RRPID, d.LIDEE, d.LIDCA, d.ChallEE3, d.Thumbs, d.BrandCRLIdentifier, d.Extensions}
}

// issued finds the new certificates that a CertRes names, in its order.
func issued(d *CertResData, certs []*pki.Certificate, want int) ([]*pki.Certificate, error) {
	if d.CertThumbs == nil || len(d.CertThumbs.CertThumbs) != want {
		return nil, &ProtocolError{Code: MissingCertificate, Err: fmt.Errorf("CertRes does not name %d new certificates", want)}
	}
	var out []*pki.Certificate
	for _, digest := range d.CertThumbs.CertThumbs {
		c, err := byThumb(certs, CertThumb{DigestAlgorithm: d.CertThumbs.DigestAlgorithm, Thumbprint: digest})
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	return out, nil
}

// statusError is the outcome of a request that is not complete.
func statusError(s CertStatus) error {
	if s.CertStatusCode == RequestComplete {
		return nil
	}
	return &CertStatusError{Code: s.CertStatusCode, Message: string(s.EEMessage), FailedItems: s.FailedItemSeq}
}

// certifies refuses a new certificate that is not what was asked for.
func (r *registration) certifies(e *Endpoint, now time.Time, c *pki.Certificate, certs []*pki.Certificate, use pki.Use, typ pki.Type, key crypto.PublicKey) error {
	if err := r.endpoint(e).validate(now, c, certs, use, typ); err != nil {
		return err
	}
	if err := r.checkBrand(c); err != nil {
		return err
	}
	own, ok := key.(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !own.Equal(c.X509.PublicKey) {
		return r.unwanted(c, "another key was certified")
	}
	return nil
}

func (r *registration) unwanted(c *pki.Certificate, why string) error {
	thumb := c.CertThumb()
	return &ProtocolError{Code: InvalidCertificate, Thumb: &thumb, Err: fmt.Errorf("new %v: %s: it is discarded", c, why)}
}

// errOrder tells that the steps of a registration were not taken one after the other.
func errOrder(missing string) error {
	return fmt.Errorf("registration: %s comes first", missing)
}
