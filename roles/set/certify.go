package set

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/der"
	"github.com/setkit/setkit/roles/set/pki"
)

// This file is the CA's side of registrations (SET §7.2, §7.3): each request opened and checked as far as
// that needs no record of earlier ones, and each answer made. The endpoint's Verifier tells which
// BrandCRLIdentifier and CRLs the answers carry; its Chain holds all CA certificates that a requester
// needs to validate what the CA signs, its own certificate-signing one included, and those CRLs.

// OpenCardCInitReq checks that CardCInitReq is for this CA's brand and agrees with its header.
func (e *Endpoint) OpenCardCInitReq(w *MessageWrapper) (*CardCInitReq, error) {
	m := w.Message.CardCInitReq
	return m, e.checkEntry(w, m.RRPID, m.LIDEE, nil, m.BrandID, m.Extensions)
}

// OpenMeAqCInitReq checks that Me-AqCInitReq is for this CA and its brand and agrees with its header.
func (e *Endpoint) OpenMeAqCInitReq(w *MessageWrapper) (*MeAqCInitReq, error) {
	m := w.Message.MeAqCInitReq
	if err := e.checkEntry(w, m.RRPID, m.LIDEE, nil, m.BrandID, m.Extensions); err != nil {
		return nil, err
	}
	if err := e.certifiesType(m.RequestType); err != nil {
		return nil, err
	}
	if holder, _, _, _ := m.RequestType.parts(); !m.IDData.fits(holder) {
		return nil, &ProtocolError{Code: DecodingFailure, Err: fmt.Errorf("%v with the identification of another party", m.RequestType)}
	}
	return m, nil
}

func (e *Endpoint) checkEntry(w *MessageWrapper, rrpid RRPID, lidEE, lidCA LocalID, brand BrandID, x MsgExtensions) error {
	if err := w.checkLIDs(rrpid, lidEE, lidCA); err != nil {
		return err
	}
	if own := BrandID(e.SignCert.Brand()); !own.Matches(brand) {
		return &ProtocolError{Code: MessageNotSupported, Err: fmt.Errorf("brand %q is asked for, this CA certifies for %q", brand, own)}
	}
	return known(x)
}

// checkLIDs holds the identifiers in the header against those inside a certificate message (SET §2.1).
func (w *MessageWrapper) checkLIDs(rrpid RRPID, lidEE, lidCA LocalID) error {
	h := w.MessageHeader
	switch {
	case h.RRPID == nil || *h.RRPID != rrpid:
		return mismatch("rrpid")
	case h.MessageIDs == nil || !bytes.Equal(h.MessageIDs.LIDC, lidEE):
		return mismatch("lid-C")
	case !bytes.Equal(h.MessageIDs.LIDM, lidCA):
		return mismatch("lid-M")
	}
	return nil
}

// certifiesType refuses a request for certificates that this CA does not issue.
func (e *Endpoint) certifiesType(t RequestType) error {
	holder, _, _, _ := t.parts()
	issuer := map[pki.Type]pki.Type{pki.Card: pki.CCA, pki.Mer: pki.MCA, pki.Pgwy: pki.PCA}[holder]
	if !e.SignCert.Type.Has(issuer) {
		return &ProtocolError{Code: MessageNotSupported, Err: fmt.Errorf("%v is not served here", t)}
	}
	return nil
}

// OpenedRegFormReq is a RegFormReq decrypted and checked. Clear it after use.
type OpenedRegFormReq struct {
	Data    RegFormReqData
	PANOnly PANOnly
}

// Clear overwrites the card number.
func (o *OpenedRegFormReq) Clear() { o.PANOnly.Clear() }

// OpenRegFormReq decrypts RegFormReq and checks it.
func (e *Endpoint) OpenRegFormReq(w *MessageWrapper) (*OpenedRegFormReq, error) {
	plaintext, packed, err := e.recipient().Decrypt(cms.ContentInfo(*w.Message.RegFormReq), ContentRegFormReqTBE, cms.WithHashPANOnly)
	if err != nil {
		return nil, protocol(err)
	}
	defer clear(packed)
	var tbe RegFormReqTBE
	if err := decode(plaintext, &tbe); err != nil {
		return nil, err
	}
	o := &OpenedRegFormReq{Data: tbe.Value}
	if o.PANOnly, err = UnpackPANOnly(packed); err != nil {
		return nil, &ProtocolError{Code: DecodingFailure, Err: err}
	}
	if err := errors.Join(protocol(tbe.DD.Check(ContentPANOnly, o.PANOnly)), e.checkRegForm(w, &o.Data)); err != nil {
		o.Clear()
		return nil, err
	}
	return o, nil
}

func (e *Endpoint) checkRegForm(w *MessageWrapper, d *RegFormReqData) error {
	if err := w.checkLIDs(d.RRPID, d.LIDEE, d.LIDCA); err != nil {
		return err
	}
	if holder, _, _, _ := d.RequestType.parts(); holder != pki.Card {
		return &ProtocolError{Code: MessageNotSupported, Err: fmt.Errorf("RegFormReq for %v", d.RequestType)}
	}
	return errors.Join(e.certifiesType(d.RequestType), known(d.Extensions))
}

// OpenedCertReq is a CertReq decrypted, whose signatures by the key to be certified and by the one that
// the requester has verify. Clear it after use.
type OpenedCertReq struct {
	Data        CertReqData
	Account     *AcctInfo        // nil when the requester gave no account data
	SignKey     crypto.PublicKey // to be certified; nil if not asked for
	ExchangeKey crypto.PublicKey // to be certified; nil if not asked for
	Signer      *pki.Certificate // of a renewal, and of a request for a key-exchange certificate alone; else nil
}

// Renewal tells whether the request is for a certificate that replaces the one that EEThumb names.
func (o *OpenedCertReq) Renewal() bool {
	_, _, _, renewal := o.Data.RequestType.parts()
	return renewal
}

// Possessed is the key by which the request was signed, and so must be what is asked about it later.
func (o *OpenedCertReq) Possessed() crypto.PublicKey {
	if o.SignKey != nil {
		return o.SignKey
	}
	return o.Signer.X509.PublicKey
}

// Clear overwrites account data and the back key.
func (o *OpenedCertReq) Clear() {
	if o.Account != nil && o.Account.PANData0 != nil {
		o.Account.PANData0.Clear()
	}
	if o.Data.CABackKeyData != nil {
		clear(o.Data.CABackKeyData.BackKey)
	}
}

// BackKey is the key for a cardholder's CertRes; nil if there is none that can be used.
func (o *OpenedCertReq) BackKey() BackKey {
	b := o.Data.CABackKeyData
	if b == nil || !b.BackAlgID.Algorithm.Equal(oidAES256GCM) || len(b.BackKey) != backKeyOctets {
		return nil
	}
	return b.BackKey
}

// OpenCertReq decrypts CertReq and checks it. With a *CertStatusError the request comes too, because it
// is answered by a CertRes of that status; any other error is answered by an Error.
func (e *Endpoint) OpenCertReq(now time.Time, w *MessageWrapper) (*OpenedCertReq, error) {
	o, sd, err := e.decryptCertReq(w.Message.CertReq)
	if err != nil {
		return nil, protocol(err)
	}
	d := &o.Data
	if err := w.checkLIDs(d.RRPID, d.LIDEE, d.LIDCA); err != nil {
		o.Clear()
		return nil, err
	}
	if err := errors.Join(e.checkDate(now, d.RequestDate), e.certifiesType(d.RequestType), known(d.Extensions)); err != nil {
		o.Clear()
		return nil, err
	}
	if err := o.checkParts(); err != nil {
		return o, err
	}
	return o, e.checkPossession(now, o, sd)
}

func (e *Endpoint) decryptCertReq(req *CertReq) (o *OpenedCertReq, sd *cms.SignedData, err error) {
	o = new(OpenedCertReq)
	if req.Enc != nil {
		if sd, err = e.recipient().OpenEnc(typesCertReq, *req.Enc); err != nil {
			return nil, nil, err
		}
		return o, sd, decode(sd.Content, &o.Data)
	}
	bc := cms.WithAcctData
	if e.ExchangeCert.Type.Has(pki.CCA) {
		bc = cms.WithPANData0
	}
	var packed []byte
	o.Data, packed, sd, err = cms.OpenEncX[CertReqData](e.recipient(), typesCertReqX, *req.EncX, bc)
	if err != nil {
		return nil, nil, err
	}
	defer clear(packed)
	if o.Account, err = unpackAccount(packed, bc); err == nil {
		err = check(reflect.ValueOf(&o.Data))
	}
	if err != nil {
		o.Clear()
		return nil, nil, &ProtocolError{Code: DecodingFailure, Err: err}
	}
	return o, sd, nil
}

func unpackAccount(packed []byte, bc cms.BlockContents) (*AcctInfo, error) {
	if bc == cms.WithPANData0 {
		p, err := UnpackPANData0(packed)
		return &AcctInfo{PANData0: &p}, err
	}
	a, err := UnpackAcctData(packed)
	return &AcctInfo{AcctData: &a}, err
}

// checkParts checks that the request has what its type says, and reads the keys to be certified.
func (o *OpenedCertReq) checkParts() error {
	d := &o.Data
	holder, sign, exchange, renewal := d.RequestType.parts()
	malformed := func(message string) error {
		return &CertStatusError{Code: RegFormAnswerMalformed, Message: message}
	}
	switch {
	case !d.IDData.fits(holder):
		return malformed("the identification is of another kind of party")
	case holder == pki.Card && (o.Account == nil || o.Account.PANData0 == nil):
		return malformed("the card is missing")
	case sign != (d.PublicKeySorE.PublicKeyS != nil) || exchange != (d.PublicKeySorE.PublicKeyE != nil):
		return malformed(fmt.Sprintf("the public keys are not those that %v asks for", d.RequestType))
	case renewal != (d.EEThumb != nil):
		return malformed("a renewal, and nothing else, names the certificate that it renews")
	case holder == pki.Card && o.BackKey() == nil:
		return &CertStatusError{Code: UnableToEncryptCertRes, Message: "no usable key for the answer: AES-256-GCM is wanted"}
	}
	var err error
	if sign {
		if o.SignKey, err = parseKey(*d.PublicKeySorE.PublicKeyS, pki.Signature); err != nil {
			return &CertStatusError{Code: RejectedByCA, Message: "signature key: " + err.Error()}
		}
	}
	if exchange {
		if o.ExchangeKey, err = parseKey(*d.PublicKeySorE.PublicKeyE, pki.KeyExchange); err != nil {
			return &CertStatusError{Code: RejectedByCA, Message: "key-exchange key: " + err.Error()}
		}
	}
	return nil
}

// parseKey reads a SubjectPublicKeyInfo in its distinguished encoding. The requester sees its error.
func parseKey(spki []byte, use pki.Use) (crypto.PublicKey, error) {
	key, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return nil, errors.New("cannot be read")
	}
	if again, err := x509.MarshalPKIXPublicKey(key); err != nil || !bytes.Equal(again, spki) {
		return nil, errors.New("not in its distinguished encoding")
	}
	switch k := key.(type) {
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n < pki.RSABitsMin || n > pki.RSABitsMax || k.E < 3 || k.E%2 == 0 {
			return nil, fmt.Errorf("want RSA of %d to %d bits", pki.RSABitsMin, pki.RSABitsMax)
		}
	case *ecdsa.PublicKey:
		if use == pki.KeyExchange || k.Curve != elliptic.P256() && k.Curve != elliptic.P384() {
			return nil, errors.New("want RSA, or for signatures ECDSA on P-256 or P-384")
		}
	default:
		return nil, errors.New("want RSA, or for signatures ECDSA on P-256 or P-384")
	}
	return key, nil
}

// checkPossession verifies the signatures of the request (SET §4.6): by the new signature key, which has no
// certificate yet, if one is to be certified; and by the key of the certificate that the requester has, if
// it renews that or wants a key-exchange certificate alone.
func (e *Endpoint) checkPossession(now time.Time, o *OpenedCertReq, sd *cms.SignedData) error {
	holder, sign, _, renewal := o.Data.RequestType.parts()
	own, former := -1, -1
	for i := range sd.Signers {
		if sd.Names(i, nil) {
			own = i
		} else {
			former = i
		}
	}
	want := 0
	for _, needed := range []bool{sign, renewal || !sign} {
		if needed {
			want++
		}
	}
	if sd.Signers != want || sign != (own >= 0) || (renewal || !sign) != (former >= 0) {
		return errPossession
	}
	if sign && o.verify(sd, own, o.SignKey) != nil {
		return errPossession
	}
	if former < 0 {
		return nil
	}
	cert, err := e.certificateOf(now, sd, former, nil, holder)
	if err != nil {
		return &CertStatusError{Code: SigValidationFail, Message: "the certificate that signs the request is not valid: register anew"}
	}
	if o.verify(sd, former, cert.X509.PublicKey) != nil {
		return errPossession
	}
	if o.Signer = cert; renewal && sign && cert.Thumbprint() != o.Data.EEThumb.Thumbprint {
		return errPossession
	}
	return nil
}

var errPossession = &CertStatusError{Code: SigValidationFail, Message: "the signatures of the request are not those that it needs, or do not verify"}

func (o *OpenedCertReq) verify(sd *cms.SignedData, i int, key crypto.PublicKey) error {
	if o.Account != nil {
		return sd.VerifyDetached(i, CertReqTBS{Value: o.Data, Extra: *o.Account}, key)
	}
	return sd.Verify(i, key)
}

// Answers gives the answers of the request to the fields of a form, one for each and empty where there is
// none. Answers that the form does not allow are a *CertStatusError.
func (o *OpenedCertReq) Answers(form *RegTemplate) ([]FieldText, error) {
	if o.Data.RegFormID != form.RegFormID {
		return nil, &CertStatusError{Code: RegFormAnswerMalformed, Message: "the answers are to another form"}
	}
	answers := make([]FieldText, len(form.RegFieldSeq))
	for _, item := range o.Data.RegForm {
		i := slices.IndexFunc(form.RegFieldSeq, func(f RegField) bool { return slices.Equal(f.FieldName, item.FieldName) })
		if i < 0 || answers[i] != "" {
			return nil, &CertStatusError{Code: RegFormAnswerMalformed, Message: "an answer is to no field of the form, or repeated"}
		}
		answers[i] = item.FieldValue.text()
	}
	failed := &CertStatusError{Code: RegFormAnswerMalformed}
	for i, f := range form.RegFieldSeq {
		reason := f.refuses(answers[i])
		if !utf8.ValidString(string(answers[i])) {
			reason = "the answer is not text"
		}
		if reason != "" {
			failed.FailedItems = append(failed.FailedItems, FailedItem{ItemNumber(i + 1), reason})
		}
	}
	if len(failed.FailedItems) > 0 {
		return nil, failed
	}
	return answers, nil
}

func (v FieldValue) text() FieldText {
	if v.Text != nil {
		return *v.Text
	}
	return FieldText(*v.Octets)
}

// CardCInitRes answers CardCInitReq.
func (e *Endpoint) CardCInitRes(now time.Time, req *CardCInitReq, lidCA LocalID) ([]byte, error) {
	ci, err := e.caSign(ContentCardCInitResTBS, CardCInitResTBS{
		RRPID: req.RRPID, LIDEE: req.LIDEE, ChallEE: req.ChallEE, LIDCA: lidCA,
		CAEThumb: e.ExchangeCert.CertThumb(), BrandCRLIdentifier: e.brandCRLIdentifier(req.Thumbs), Thumbs: req.Thumbs,
	}, req.Thumbs, e.ExchangeCert)
	if err != nil {
		return nil, err
	}
	res := CardCInitRes(ci)
	return e.wrapCA(now, req.LIDEE, lidCA, req.RRPID, Message{CardCInitRes: &res})
}

// MeAqCInitRes answers Me-AqCInitReq with a form or a referral. acctField asks for account data, and is
// nil when none is wanted.
func (e *Endpoint) MeAqCInitRes(now time.Time, req *MeAqCInitReq, lidCA LocalID, challCA Challenge, form RegFormOrReferral, acctField *RegField) ([]byte, error) {
	ci, err := e.caSign(ContentMeAqCInitResTBS, MeAqCInitResTBS{
		RRPID: req.RRPID, LIDEE: req.LIDEE, ChallEE: req.ChallEE, LIDCA: lidCA, ChallCA: challCA, RequestType: req.RequestType,
		RegFormOrReferral: form, AcctDataField: acctField, CAEThumb: e.ExchangeCert.CertThumb(),
		BrandCRLIdentifier: e.brandCRLIdentifier(req.Thumbs), Thumbs: req.Thumbs,
	}, req.Thumbs, e.ExchangeCert)
	if err != nil {
		return nil, err
	}
	res := MeAqCInitRes(ci)
	return e.wrapCA(now, req.LIDEE, lidCA, req.RRPID, Message{MeAqCInitRes: &res})
}

// RegFormRes answers RegFormReq with a form or a referral. It names the key-exchange certificate again,
// because it may have changed since CardCInitRes.
func (e *Endpoint) RegFormRes(now time.Time, req *RegFormReqData, lidCA LocalID, challCA Challenge, form RegFormOrReferral) ([]byte, error) {
	thumb := e.ExchangeCert.CertThumb()
	ci, err := e.caSign(ContentRegFormResTBS, RegFormResTBS{
		RRPID: req.RRPID, LIDEE: req.LIDEE, ChallEE2: req.ChallEE2, LIDCA: lidCA, ChallCA: challCA, CAEThumb: &thumb,
		RequestType: req.RequestType, RegFormOrReferral: form,
		BrandCRLIdentifier: e.brandCRLIdentifier(req.Thumbs), Thumbs: req.Thumbs,
	}, req.Thumbs, e.ExchangeCert)
	if err != nil {
		return nil, err
	}
	res := RegFormRes(ci)
	return e.wrapCA(now, req.LIDEE, lidCA, req.RRPID, Message{RegFormRes: &res})
}

// CertRes answers CertReq: with the certificates when the status is complete. A cardholder's is encrypted
// under the back key; without one, only a refusal can be sent.
func (e *Endpoint) CertRes(now time.Time, o *OpenedCertReq, lidCA LocalID, status CertStatus, certs ...*pki.Certificate) ([]byte, error) {
	holder, _, _, _ := o.Data.RequestType.parts()
	data := CertResData{
		RRPID: o.Data.RRPID, LIDEE: o.Data.LIDEE, ChallEE3: o.Data.ChallEE3, LIDCA: lidCA, CertStatus: status, Thumbs: o.Data.Thumbs,
	}
	res, err := e.certRes(&data, holder == pki.Card, o.BackKey(), certs)
	if err != nil {
		return nil, err
	}
	return e.wrapCA(now, data.LIDEE, lidCA, data.RRPID, Message{CertRes: res})
}

// certRes makes the answer to CertReq and CertInqReq.
func (e *Endpoint) certRes(data *CertResData, card bool, backKey BackKey, certs []*pki.Certificate) (*CertRes, error) {
	status := &data.CertStatus
	if complete := status.CertStatusCode == RequestComplete; complete != (len(certs) > 0) {
		return nil, fmt.Errorf("CertRes of status %v with %d certificates", status.CertStatusCode, len(certs))
	}
	if card && backKey == nil && (len(certs) > 0 || status.NonceCCA != nil) {
		return nil, errors.New("CertRes for a cardholder cannot be encrypted: it would show the secret nonce")
	}
	data.BrandCRLIdentifier = e.brandCRLIdentifier(data.Thumbs)
	if len(certs) > 0 {
		thumbs := pki.NewThumbs(certs, nil, nil)
		data.CertThumbs = &thumbs
	}
	if card && backKey != nil {
		ci, err := cms.EncBack(typesCertRes, *data, e.ownCertificates(data.Thumbs, certs...), e.crls(data.Thumbs), e.cmsSigner(), backKey)
		return &CertRes{EncK: &ci}, err
	}
	ci, err := e.caSign(ContentCertResData, *data, data.Thumbs, certs...)
	return &CertRes{CertRes: &ci}, err
}

// OpenedCertInqReq is a CertInqReq whose signature is still to be verified, with the key of the request
// that it is about.
type OpenedCertInqReq struct {
	Data CertInqReqTBS
	sd   *cms.SignedData
}

// OpenCertInqReq decodes CertInqReq. Nothing that it says is to be acted on before Verify.
func (e *Endpoint) OpenCertInqReq(w *MessageWrapper) (*OpenedCertInqReq, error) {
	sd, err := cms.ParseSigned(cms.ContentInfo(*w.Message.CertInqReq), ContentCertInqReqTBS)
	if err != nil {
		return nil, protocol(err)
	}
	o := &OpenedCertInqReq{sd: sd}
	if err := decode(sd.Content, &o.Data); err != nil {
		return nil, err
	}
	return o, errors.Join(w.checkLIDs(o.Data.RRPID, o.Data.LIDEE, o.Data.LIDCA), known(o.Data.Extensions))
}

// Verify checks that the holder of the key asks: the one by which the request was signed (SET §4.7).
func (o *OpenedCertInqReq) Verify(key crypto.PublicKey) error {
	if o.sd.Signers != 1 || o.sd.Verify(0, key) != nil {
		return &ProtocolError{Code: SignatureFailure, Err: errors.New("not signed by the key of the request that it is about")}
	}
	return nil
}

// CertInqRes answers CertInqReq, as CertRes does CertReq. The back key is the one of a cardholder's
// request; a merchant or gateway has none.
func (e *Endpoint) CertInqRes(now time.Time, o *OpenedCertInqReq, card bool, backKey BackKey, status CertStatus, certs ...*pki.Certificate) ([]byte, error) {
	d := &o.Data
	data := CertResData{RRPID: d.RRPID, LIDEE: d.LIDEE, ChallEE3: d.ChallEE3, LIDCA: d.LIDCA, CertStatus: status, Thumbs: d.Thumbs}
	res, err := e.certRes(&data, card, backKey, certs)
	if err != nil {
		return nil, err
	}
	return e.wrapCA(now, d.LIDEE, d.LIDCA, d.RRPID, Message{CertInqRes: &CertInqRes{CertRes: res.CertRes, EncK: res.EncK}})
}

// Status is what a refusal says to the requester.
func (e *CertStatusError) Status() CertStatus {
	return CertStatus{CertStatusCode: e.Code, EEMessage: Text128(e.Message), FailedItemSeq: e.FailedItems}
}

func (e *Endpoint) wrapCA(now time.Time, lidEE, lidCA LocalID, rrpid RRPID, m Message) ([]byte, error) {
	return e.wrap(now, &MessageIDs{LIDC: lidEE, LIDM: lidCA}, &rrpid, m)
}

// caSign is S(CA, v) with the certificates and CRLs that the requester's thumbs do not show.
func (e *Endpoint) caSign(contentType oid, v any, thumbs *Thumbs, others ...*pki.Certificate) (cms.ContentInfo, error) {
	return cms.Sign(contentType, v, e.ownCertificates(thumbs, others...), e.crls(thumbs), e.cmsSigner())
}

// brandCRLIdentifier is the current one, unless the requester's thumbs show it.
func (e *Endpoint) brandCRLIdentifier(thumbs *Thumbs) *der.Raw {
	bci := e.Verifier.Store().BCI(e.SignCert.Brand())
	if bci == nil || thumbs.HasBCI(bci) {
		return nil
	}
	raw := der.Raw(bci.Raw)
	return &raw
}

// crls are those that the endpoint knows, less those that the requester's thumbs show.
func (e *Endpoint) crls(thumbs *Thumbs) [][]byte {
	var out [][]byte
	for _, l := range e.Verifier.Store().CRLs {
		if !thumbs.HasCRL(l) {
			out = append(out, l.X509.Raw)
		}
	}
	return out
}
