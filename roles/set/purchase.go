package set

import (
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/der"
	"github.com/setkit/setkit/roles/set/pki"
)

// Purchase is the cardholder's side of one purchase (SET §7.4): what must be remembered from one message
// to the next, and after a crash. It holds no secret and may be stored as JSON.
type Purchase struct {
	OD           []byte // the order description, exactly as the initiation message delivered it
	ODExtensions MsgExtensions
	PurchAmt     CurrencyAmount
	BrandID      BrandID
	BIN          BIN
	TransIDs     TransIDs // complete once PInitRes has come
	InitRRPID    RRPID
	RRPID        RRPID // of PReq
	ChallC       Challenge
	ChallM       Challenge
	ODSalt       Nonce
	MerchantCert []byte // DER, the signature certificate that PInitRes came with
	GatewayCert  []byte // DER, the key-exchange certificate that peThumb names
}

// Offer is what the merchant answered, for the cardholder to see before anything is signed.
type Offer struct {
	Merchant *pki.Certificate
	Gateway  *pki.Certificate
}

// Account is what a cardholder pays with. It is secret: Clear it after use.
type Account struct {
	PAN        PAN
	CardExpiry CardExpiry
	CardSecret Secret
	PANSecret  Secret
}

// Clear overwrites the account.
func (a *Account) Clear() {
	clear(a.PAN)
	clear(a.CardExpiry)
	clear(a.CardSecret[:])
	clear(a.PANSecret[:])
}

// ErrBrand tells that merchant or gateway belong to another brand than the card: the purchase must stop.
var ErrBrand = errors.New("the certificates are not of the card's brand")

// NewPurchase starts a purchase that an initiation message asks for, with a card of one of its brands.
func NewPurchase(m *Initiation, brand BrandID, bin BIN, language Language) (*Purchase, error) {
	if m.PurchAmt == nil {
		return nil, errors.New("initiation message without an amount")
	}
	if !slices.ContainsFunc(m.Brands, brand.Matches) {
		return nil, fmt.Errorf("the merchant takes %v, not %s", m.Brands, brand)
	}
	return &Purchase{
		OD: m.Order, ODExtensions: m.Extensions, PurchAmt: *m.PurchAmt, BrandID: brand, BIN: bin,
		TransIDs:  TransIDs{LIDC: NewLocalID(), LIDM: m.LIDM, Language: language},
		InitRRPID: NewRRPID(), RRPID: NewRRPID(), ChallC: NewChallenge(), ODSalt: NewNonce(),
	}, nil
}

// InitReq makes PInitReq.
func (p *Purchase) InitReq(e *Endpoint, now time.Time) ([]byte, error) {
	ids := &MessageIDs{LIDC: p.TransIDs.LIDC, LIDM: p.TransIDs.LIDM}
	return e.wrap(now, ids, &p.InitRRPID, Message{PInitReq: &PInitReq{
		RRPID: p.InitRRPID, Language: p.TransIDs.Language, LIDC: p.TransIDs.LIDC, LIDM: p.TransIDs.LIDM,
		ChallC: p.ChallC, BrandID: p.BrandID, BIN: p.BIN,
	}})
}

// OpenInitRes checks PInitRes (SET §7.4) and takes the transaction's identifiers from it.
func (p *Purchase) OpenInitRes(e *Endpoint, now time.Time, b []byte) (*Offer, error) {
	w, err := e.receiveResponse(now, b, p.InitRRPID, PInitResType)
	if err != nil {
		return nil, err
	}
	data, merchant, certs, err := opened[PInitResData](e, now, cms.ContentInfo(*w.Message.PInitRes), ContentPInitResData, pki.Mer)
	if err != nil {
		return nil, err
	}
	t := &data.TransIDs
	switch {
	case data.RRPID != p.InitRRPID:
		return nil, &ProtocolError{Code: UnknownRRPID}
	case string(t.LIDC) != string(p.TransIDs.LIDC), p.TransIDs.LIDM != nil && string(t.LIDM) != string(p.TransIDs.LIDM):
		return nil, &ProtocolError{Code: UnknownLID}
	case data.ChallC != p.ChallC:
		return nil, &ProtocolError{Code: ChallengeMismatch}
	case data.Thumbs != nil:
		return nil, &ProtocolError{Code: ThumbsMismatch}
	}
	if err := errors.Join(w.checkIDs(*t), known(data.Extensions)); err != nil {
		return nil, err
	}
	gateway, err := byThumb(certs, data.PEThumb)
	if err != nil {
		return nil, err
	}
	if err := e.validate(now, gateway, certs, pki.KeyExchange, pki.Pgwy); err != nil {
		return nil, err
	}
	if !p.BrandID.Matches(BrandID(merchant.Brand())) || !p.BrandID.Matches(BrandID(gateway.Brand())) {
		return nil, ErrBrand
	}
	p.TransIDs, p.ChallM = *t, data.ChallM
	p.MerchantCert, p.GatewayCert = merchant.X509.Raw, gateway.X509.Raw
	return &Offer{Merchant: merchant, Gateway: gateway}, nil
}

// checkIDs holds the identifiers in the header against those inside the message.
func (w *MessageWrapper) checkIDs(t TransIDs) error {
	ids := w.MessageHeader.MessageIDs
	switch {
	case ids == nil:
		return mismatch("messageIDs")
	case string(ids.LIDC) != string(t.LIDC):
		return mismatch("lid-C")
	case string(ids.LIDM) != string(t.LIDM):
		return mismatch("lid-M")
	case ids.XID == nil || *ids.XID != t.XID:
		return mismatch("xID")
	}
	return nil
}

func (t TransIDs) messageIDs() *MessageIDs {
	return &MessageIDs{LIDC: t.LIDC, LIDM: t.LIDM, XID: &t.XID}
}

// hod is the digest of what both sides say was ordered.
func hod(od []byte, amount CurrencyAmount, salt Nonce, ir *InstallRecurData, extensions MsgExtensions) (HOD, error) {
	return cms.DD(ContentHODInput, HODInput{OD: od, PurchAmt: amount, ODSalt: salt, InstallRecurData: ir, ODExtensions: extensions})
}

// TransStain is the cardholder's evidence of a transaction: HMAC-SHA-256 of the XID under CardSecret
// (SET §6.4, profile A2).
func TransStain(xid XID, cardSecret Secret) (Digest, error) {
	data, err := der.Marshal(xid)
	if err != nil {
		return Digest{}, err
	}
	mac := hmac.New(sha256.New, cardSecret[:])
	mac.Write(data)
	return Digest(mac.Sum(nil)), nil
}

// Request makes the dual-signed PReq: the order for the merchant, the payment instructions for the
// gateway, and one signature that binds both. The endpoint's SignKey is asked for one signature.
func (p *Purchase) Request(e *Endpoint, now time.Time, account *Account) ([]byte, error) {
	if e.SignCert == nil {
		return nil, errors.New("a signed purchase needs the cardholder's certificate: enrol the card first")
	}
	gateway, err := pki.ParseCertificate(p.GatewayCert)
	if err != nil {
		return nil, err
	}
	oi, err := p.oiData()
	if err != nil {
		return nil, err
	}
	head, err := p.piHead(e, gateway, oi.HOD, account)
	if err != nil {
		return nil, err
	}
	panData := PANData{PAN: account.PAN, CardExpiry: account.CardExpiry, PANSecret: account.PANSecret, ExNonce: NewNonce()}
	defer clear(panData.PANSecret[:])
	hPIData, err := cms.DD(ContentPIData, PIData{head, panData})
	if err != nil {
		return nil, err
	}
	exPI, err := sealPI(gateway, head, oi, panData)
	if err != nil {
		return nil, err
	}
	hOIData, err := cms.DD(ContentOIData, oi)
	if err != nil {
		return nil, err
	}
	signature, err := cms.SignDetached(ContentPITBS, PITBS{HPIData: hPIData, HOIData: hOIData}, e.ownCertificates(nil), e.cmsSigner())
	if err != nil {
		return nil, err
	}
	return e.wrap(now, p.TransIDs.messageIDs(), &p.RRPID, Message{PReq: &PReq{PReqDualSigned: &PReqDualSigned{
		PIDualSigned: PIDualSigned{PISignature: signature, EXPIData: exPI},
		OIDualSigned: OIDualSigned{Value: oi, DD: hPIData},
	}}})
}

func (p *Purchase) oiData() (OIData, error) {
	h, err := hod(p.OD, p.PurchAmt, p.ODSalt, nil, p.ODExtensions)
	if err != nil {
		return OIData{}, err
	}
	oi := OIData{
		TransIDs: p.TransIDs, RRPID: p.RRPID, ChallC: p.ChallC, HOD: h, ODSalt: p.ODSalt,
		ChallM: &p.ChallM, BrandID: p.BrandID, BIN: p.BIN,
	}
	for _, x := range p.ODExtensions {
		oi.ODExtOIDs = append(oi.ODExtOIDs, x.ID)
	}
	return oi, nil
}

func (p *Purchase) piHead(e *Endpoint, gateway *pki.Certificate, h HOD, account *Account) (PIHead, error) {
	merchant, err := pki.ParseCertificate(p.MerchantCert)
	if err != nil {
		return PIHead{}, err
	}
	stain, err := TransStain(p.TransIDs.XID, account.CardSecret)
	if err != nil {
		return PIHead{}, err
	}
	thumb, err := der.Marshal(gateway.CertThumb())
	if err != nil {
		return PIHead{}, err
	}
	return PIHead{
		TransIDs: p.TransIDs, Inputs: PIInputs{HOD: h, PurchAmt: p.PurchAmt},
		MerchantID: MerchantID(merchant.Merchant.MerchantID), TransStain: stain, SWIdent: e.Software,
		Extensions: MsgExtensions{{ID: ExtPEThumb, Value: thumb}},
	}, nil
}

// sealPI is EX(P, PI-OILink, PANData).
func sealPI(gateway *pki.Certificate, head PIHead, oi OIData, panData PANData) (cms.ContentInfo, error) {
	hOIData, err := cms.DD(ContentOIData, oi)
	if err != nil {
		return cms.ContentInfo{}, err
	}
	hPANData, err := cms.DD(ContentPANData, panData)
	if err != nil {
		return cms.ContentInfo{}, err
	}
	packed := panData.Pack()
	defer clear(packed)
	tbe := PIDualSignedTBE{Value: PIOILink{Value: head, DD: hOIData}, DD: hPANData}
	return cms.Encrypt(gateway.X509, ContentPIDualSignedTBE, tbe, cms.WithPANData, packed)
}

// OpenResponse checks PRes and gives what became of the purchase.
func (p *Purchase) OpenResponse(e *Endpoint, now time.Time, b []byte) (*PResData, error) {
	w, err := e.receiveResponse(now, b, p.RRPID, PResType)
	if err != nil {
		return nil, err
	}
	return p.openResult(e, now, w, cms.ContentInfo(*w.Message.PRes), p.RRPID, p.ChallC)
}

func (p *Purchase) openResult(e *Endpoint, now time.Time, w *MessageWrapper, ci cms.ContentInfo, rrpid RRPID, challenge Challenge) (*PResData, error) {
	data, merchant, _, err := opened[PResData](e, now, ci, ContentPResData, pki.Mer)
	if err != nil {
		return nil, err
	}
	first, err := pki.ParseCertificate(p.MerchantCert)
	if err != nil {
		return nil, err
	}
	switch {
	case merchant.Merchant.MerchantID != first.Merchant.MerchantID || string(merchant.X509.RawSubject) != string(first.X509.RawSubject):
		return nil, &ProtocolError{Code: SignatureFailure, Err: errors.New("signed by another merchant")}
	case data.RRPID != rrpid:
		return nil, &ProtocolError{Code: UnknownRRPID}
	case data.ChallC != challenge:
		return nil, &ProtocolError{Code: ChallengeMismatch}
	}
	if err := errors.Join(p.TransIDs.check(data.TransIDs), w.checkIDs(data.TransIDs)); err != nil {
		return nil, err
	}
	for _, payload := range data.PResPayloadSeq {
		if err := known(payload.Extensions); err != nil {
			return nil, err
		}
	}
	return &data, nil
}

// check tells whether other names the same transaction.
func (t TransIDs) check(other TransIDs) error {
	switch {
	case other.XID != t.XID:
		return &ProtocolError{Code: UnknownXID}
	case string(other.LIDC) != string(t.LIDC), string(other.LIDM) != string(t.LIDM):
		return &ProtocolError{Code: UnknownLID}
	}
	return nil
}

// Inquiry is an InqReq under way.
type Inquiry struct {
	RRPID  RRPID
	ChallC Challenge
}

// InqReq asks the merchant what became of the purchase (SET §7.6). It takes one signature.
func (p *Purchase) InqReq(e *Endpoint, now time.Time) (*Inquiry, []byte, error) {
	q := &Inquiry{RRPID: NewRRPID(), ChallC: NewChallenge()}
	ci, err := e.sign(ContentInqReqData, InqReqData{TransIDs: p.TransIDs, RRPID: q.RRPID, ChallC2: q.ChallC}, nil)
	if err != nil {
		return nil, nil, err
	}
	b, err := e.wrap(now, p.TransIDs.messageIDs(), &q.RRPID, Message{InqReq: &InqReq{InqReqSigned: &ci}})
	return q, b, err
}

// OpenInqRes checks InqRes and gives what became of the purchase.
func (p *Purchase) OpenInqRes(e *Endpoint, now time.Time, q *Inquiry, b []byte) (*PResData, error) {
	w, err := e.receiveResponse(now, b, q.RRPID, InqResType)
	if err != nil {
		return nil, err
	}
	return p.openResult(e, now, w, cms.ContentInfo(*w.Message.InqRes), q.RRPID, q.ChallC)
}
