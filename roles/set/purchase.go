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
	TransIDs     TransIDs // complete once PInitRes has come, or Start has been called
	InitRRPID    RRPID
	Thumbs       *Thumbs // of the lists and certificates that PInitReq said are known
	RRPID        RRPID   // of PReq
	ChallC       Challenge
	ChallM       *Challenge // nil without a PInit pair
	ODSalt       Nonce
	MerchantCert []byte // DER, the signature certificate that PInitRes came with
	GatewayCert  []byte // DER, the key-exchange certificate that peThumb names

	// InstallRecurData is what merchant and cardholder agreed of instalments or recurring payments. It is
	// not taken from the initiation message by itself: the cardholder is asked first.
	InstallRecurData *InstallRecurData
}

// Offer is what the merchant answered, for the cardholder to see before anything is signed.
type Offer struct {
	Merchant *pki.Certificate
	Gateway  *pki.Certificate
	Others   []*pki.Certificate // that came along: among them those of the CAs above these
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

// InitReq makes PInitReq. It shows the thumbprints of the certificates held, which the answer then need not bring:
// of gateways and of the CAs above merchants and gateways.
func (p *Purchase) InitReq(e *Endpoint, now time.Time, held ...*pki.Certificate) ([]byte, error) {
	p.Thumbs = e.thumbs(held...)
	ids := &MessageIDs{LIDC: p.TransIDs.LIDC, LIDM: p.TransIDs.LIDM}
	return e.wrap(now, ids, &p.InitRRPID, Message{PInitReq: &PInitReq{
		RRPID: p.InitRRPID, Language: p.TransIDs.Language, LIDC: p.TransIDs.LIDC, LIDM: p.TransIDs.LIDM,
		ChallC: p.ChallC, BrandID: p.BrandID, BIN: p.BIN, Thumbs: p.Thumbs,
	}})
}

// OpenInitRes checks PInitRes (SET §7.4) and takes the transaction's identifiers from it. A certificate that the
// request's thumbs showed is looked for among those held.
func (p *Purchase) OpenInitRes(e *Endpoint, now time.Time, b []byte, held ...*pki.Certificate) (*Offer, error) {
	w, err := e.receiveResponse(now, b, p.InitRRPID, PInitResType)
	if err != nil {
		return nil, err
	}
	sd, err := cms.ParseSigned(cms.ContentInfo(*w.Message.PInitRes), ContentPInitResData)
	if err != nil {
		return nil, protocol(err)
	}
	var data PInitResData
	if err := decode(sd.Content, &data); err != nil {
		return nil, err
	}
	own, err := e.informed(now, &data, sd, held...)
	if err != nil {
		return nil, err
	}
	merchant, err := own.signer(now, sd, held, pki.Mer)
	if err != nil {
		return nil, err
	}
	e.tell(own)
	certs, err := parseCertificates(sd.Certificates)
	if err != nil {
		return nil, err
	}
	if err := p.checkInitRes(w, &data); err != nil {
		return nil, err
	}
	all := slices.Concat(certs, held)
	gateway, err := byThumb(all, data.PEThumb)
	if err != nil {
		return nil, err
	}
	if err := own.validate(now, gateway, all, pki.KeyExchange, pki.Pgwy); err != nil {
		return nil, err
	}
	offer := &Offer{Merchant: merchant, Gateway: gateway, Others: certs}
	if err := p.accept(offer); err != nil {
		return nil, err
	}
	p.TransIDs, p.ChallM = data.TransIDs, &data.ChallM
	return offer, nil
}

// checkInitRes holds PInitRes against the request.
func (p *Purchase) checkInitRes(w *MessageWrapper, data *PInitResData) error {
	same, err := sameThumbs(data.Thumbs, p.Thumbs)
	if err != nil {
		return err
	}
	t := &data.TransIDs
	switch {
	case data.RRPID != p.InitRRPID:
		return &ProtocolError{Code: UnknownRRPID}
	case string(t.LIDC) != string(p.TransIDs.LIDC), p.TransIDs.LIDM != nil && string(t.LIDM) != string(p.TransIDs.LIDM):
		return &ProtocolError{Code: UnknownLID}
	case data.ChallC != p.ChallC:
		return &ProtocolError{Code: ChallengeMismatch}
	case !same:
		return &ProtocolError{Code: ThumbsMismatch}
	}
	return errors.Join(w.checkIDs(*t), known(data.Extensions))
}

// accept keeps the certificates that the purchase goes by, if they are of the card's brand.
func (p *Purchase) accept(o *Offer) error {
	if !p.BrandID.Matches(BrandID(o.Merchant.Brand())) || !p.BrandID.Matches(BrandID(o.Gateway.Brand())) {
		return ErrBrand
	}
	p.MerchantCert, p.GatewayCert = o.Merchant.X509.Raw, o.Gateway.X509.Raw
	return nil
}

// Start does without the PInit pair, for a cardholder who has the merchant's signature certificate and the
// gateway's key-exchange certificate already, and others above them (SET §7.4).
func (p *Purchase) Start(e *Endpoint, now time.Time, o *Offer, others []*pki.Certificate) error {
	if err := e.validate(now, o.Merchant, others, pki.Signature, pki.Mer); err != nil {
		return err
	}
	if err := e.validate(now, o.Gateway, others, pki.KeyExchange, pki.Pgwy); err != nil {
		return err
	}
	if err := p.accept(o); err != nil {
		return err
	}
	p.TransIDs.XID, p.TransIDs.PReqDate, p.ChallM = NewXID(), now.UTC().Truncate(time.Second), nil
	return nil
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

// ErrCardCert tells that the gateway takes no purchase without a cardholder's certificate: enrol the card
// first.
var ErrCardCert = errors.New("the gateway requires a cardholder's certificate: enrol the card first")

// Request makes PReq: the order for the merchant and the payment instructions for the gateway. With a
// cardholder's certificate it is signed, by one signature that binds both; without one it is ErrCardCert,
// or not signed where the gateway's certificate says that it need not be.
func (p *Purchase) Request(e *Endpoint, now time.Time, account *Account) ([]byte, error) {
	gateway, err := pki.ParseCertificate(p.GatewayCert)
	if err != nil {
		return nil, err
	}
	oi, err := p.oiData()
	if err != nil {
		return nil, err
	}
	var req PReq
	switch {
	case e.SignCert != nil:
		req.PReqDualSigned, err = p.signed(e, gateway, oi, account)
	case gateway.CardCertRequired:
		err = ErrCardCert
	default:
		req.PReqUnsigned, err = p.unsigned(e, gateway, oi, account)
	}
	if err != nil {
		return nil, err
	}
	return e.wrap(now, p.TransIDs.messageIDs(), &p.RRPID, Message{PReq: &req})
}

// signed asks the endpoint's SignKey for one signature.
func (p *Purchase) signed(e *Endpoint, gateway *pki.Certificate, oi OIData, account *Account) (*PReqDualSigned, error) {
	head, err := p.piHead(e, gateway, oi.HOD, account.CardSecret)
	if err != nil {
		return nil, err
	}
	if err := p.offerBackKey(&head, gateway, account); err != nil {
		return nil, err
	}
	panData := PANData{PAN: account.PAN, CardExpiry: account.CardExpiry, PANSecret: account.PANSecret, ExNonce: NewNonce()}
	defer clear(panData.PANSecret[:])
	hPIData, err := cms.DD(ContentPIData, PIData{head, panData})
	if err != nil {
		return nil, err
	}
	exPI, err := sealPI(gateway, head, oi, ContentPIDualSignedTBE, ContentPANData, panData, cms.WithPANData)
	if err != nil {
		return nil, err
	}
	hOIData, err := cms.DD(ContentOIData, oi)
	if err != nil {
		return nil, err
	}
	signature, err := cms.SignDetached(ContentPITBS, PITBS{HPIData: hPIData, HOIData: hOIData}, e.ownCertificates(nil), nil, e.cmsSigner())
	if err != nil {
		return nil, err
	}
	return &PReqDualSigned{
		PIDualSigned: PIDualSigned{PISignature: signature, EXPIData: exPI},
		OIDualSigned: OIDualSigned{Value: oi, DD: hPIData},
	}, nil
}

// unsigned uses no secret of the cardholder's: there is none (SET §2.7).
func (p *Purchase) unsigned(e *Endpoint, gateway *pki.Certificate, oi OIData, account *Account) (*PReqUnsigned, error) {
	head, err := p.piHead(e, gateway, oi.HOD, Secret{})
	if err != nil {
		return nil, err
	}
	token := PANToken{PAN: account.PAN, CardExpiry: account.CardExpiry, ExNonce: NewNonce()}
	hPIData, err := cms.DD(ContentPIDataUnsigned, PIDataUnsigned{head, token})
	if err != nil {
		return nil, err
	}
	sealed, err := sealPI(gateway, head, oi, ContentPIUnsignedTBE, ContentPANToken, token, cms.WithHashToken)
	if err != nil {
		return nil, err
	}
	return &PReqUnsigned{PIUnsigned: PIUnsigned(sealed), OIUnsigned: OIUnsigned{Value: oi, DD: hPIData}}, nil
}

func (p *Purchase) oiData() (OIData, error) {
	h, err := hod(p.OD, p.PurchAmt, p.ODSalt, p.InstallRecurData, p.ODExtensions)
	if err != nil {
		return OIData{}, err
	}
	oi := OIData{
		TransIDs: p.TransIDs, RRPID: p.RRPID, ChallC: p.ChallC, HOD: h, ODSalt: p.ODSalt,
		ChallM: p.ChallM, BrandID: p.BrandID, BIN: p.BIN,
	}
	for _, x := range p.ODExtensions {
		oi.ODExtOIDs = append(oi.ODExtOIDs, x.ID)
	}
	return oi, nil
}

func (p *Purchase) piHead(e *Endpoint, gateway *pki.Certificate, h HOD, secret Secret) (PIHead, error) {
	merchant, err := pki.ParseCertificate(p.MerchantCert)
	if err != nil {
		return PIHead{}, err
	}
	stain, err := TransStain(p.TransIDs.XID, secret)
	if err != nil {
		return PIHead{}, err
	}
	thumb, err := der.Marshal(gateway.CertThumb())
	if err != nil {
		return PIHead{}, err
	}
	return PIHead{
		TransIDs: p.TransIDs, Inputs: PIInputs{HOD: h, PurchAmt: p.PurchAmt},
		MerchantID: MerchantID(merchant.Merchant.MerchantID), InstallRecurData: p.InstallRecurData,
		TransStain: stain, SWIdent: e.Software,
		Extensions: MsgExtensions{{ID: ExtPEThumb, Value: thumb}},
	}, nil
}

// sealPI is EX(P, PI-OILink, PANData) or EXH(P, PI-OILink, PANToken).
func sealPI(gateway *pki.Certificate, head PIHead, oi OIData, contentType, accountType oid, account interface{ Pack() []byte }, bc cms.BlockContents) (cms.ContentInfo, error) {
	hOIData, err := cms.DD(ContentOIData, oi)
	if err != nil {
		return cms.ContentInfo{}, err
	}
	hAccount, err := cms.DD(accountType, account)
	if err != nil {
		return cms.ContentInfo{}, err
	}
	packed := account.Pack()
	defer clear(packed)
	tbe := cms.Linked[PIOILink]{Value: PIOILink{Value: head, DD: hOIData}, DD: hAccount}
	return cms.Encrypt(gateway.X509, contentType, tbe, bc, packed)
}

// OpenResponse checks PRes and gives what became of the purchase. By the certificates held, of CAs, the revocation
// lists that it brings are verified.
func (p *Purchase) OpenResponse(e *Endpoint, now time.Time, b []byte, held ...*pki.Certificate) (*PResData, error) {
	w, err := e.receiveResponse(now, b, p.RRPID, PResType)
	if err != nil {
		return nil, err
	}
	return p.openResult(e, now, w, cms.ContentInfo(*w.Message.PRes), p.RRPID, p.ChallC, held)
}

func (p *Purchase) openResult(e *Endpoint, now time.Time, w *MessageWrapper, ci cms.ContentInfo, rrpid RRPID, challenge Challenge, held []*pki.Certificate) (*PResData, error) {
	data, merchant, _, err := opened[PResData](e, now, ci, ContentPResData, held, pki.Mer)
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

// InqReq asks the merchant what became of the purchase (SET §7.6). It takes one signature of a cardholder
// with a certificate.
func (p *Purchase) InqReq(e *Endpoint, now time.Time) (*Inquiry, []byte, error) {
	q := &Inquiry{RRPID: NewRRPID(), ChallC: NewChallenge()}
	data := InqReqData{TransIDs: p.TransIDs, RRPID: q.RRPID, ChallC2: q.ChallC}
	req := InqReq{InqReqUnsigned: &data}
	if e.SignCert != nil {
		ci, err := e.sign(ContentInqReqData, data, nil)
		if err != nil {
			return nil, nil, err
		}
		req = InqReq{InqReqSigned: &ci}
	}
	b, err := e.wrap(now, p.TransIDs.messageIDs(), &q.RRPID, Message{InqReq: &req})
	return q, b, err
}

// OpenInqRes checks InqRes and gives what became of the purchase, as OpenResponse does.
func (p *Purchase) OpenInqRes(e *Endpoint, now time.Time, q *Inquiry, b []byte, held ...*pki.Certificate) (*PResData, error) {
	w, err := e.receiveResponse(now, b, q.RRPID, InqResType)
	if err != nil {
		return nil, err
	}
	return p.openResult(e, now, w, cms.ContentInfo(*w.Message.InqRes), q.RRPID, q.ChallC, held)
}
