package set

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/pki"
)

// GatewayCertRequest asks the acquirer's gateway for its certificates, and for the revocation lists that go
// with them (SET §5.11). It may be stored as JSON.
type GatewayCertRequest struct {
	RRPID      RRPID
	MerTermIDs MerTermIDs
	Brands     []BrandAndBIN
	Thumbs     *Thumbs // of what the merchant has already; nil for nothing
}

// PCertReq makes the request.
func (e *Endpoint) PCertReq(now time.Time, r *GatewayCertRequest) ([]byte, error) {
	ci, err := e.sign(ContentPCertReqData, PCertReqData{
		PCertTags: e.rrTags(now, r.RRPID, r.MerTermIDs), MThumbs: r.Thumbs, BrandAndBINSeq: r.Brands,
	}, nil)
	if err != nil {
		return nil, err
	}
	req := PCertReq(ci)
	return e.wrap(now, nil, &r.RRPID, Message{PCertReq: &req})
}

// GatewayCerts is what a gateway answered.
type GatewayCerts struct {
	Items []GatewayCert      // in the order of the request
	Above []*pki.Certificate // what came along: among it the CA certificates above these
}

// GatewayCert is the answer for one brand and BIN.
type GatewayCert struct {
	Code        PCertCode
	Certificate *pki.Certificate // on success
}

// OpenPCertRes checks PCertRes. A certificate that the request's thumbs showed is looked for among those
// held. Who answers must be of the acquirer that the merchant's own certificate names: any gateway of the
// brand has a genuine certificate.
func (e *Endpoint) OpenPCertRes(now time.Time, r *GatewayCertRequest, b []byte, held ...*pki.Certificate) (*GatewayCerts, error) {
	w, err := e.receiveResponse(now, b, r.RRPID, PCertResType)
	if err != nil {
		return nil, err
	}
	sd, err := cms.ParseSigned(cms.ContentInfo(*w.Message.PCertRes), ContentPCertResTBS)
	if err != nil {
		return nil, protocol(err)
	}
	var data PCertResTBS
	if err := decode(sd.Content, &data); err != nil {
		return nil, err
	}
	certs, err := parseCertificates(sd.Certificates)
	if err != nil {
		return nil, err
	}
	own, err := e.informed(now, &data, sd, held...)
	if err != nil {
		return nil, err
	}
	signer, err := own.signer(now, sd, held, pki.Pgwy)
	if err != nil {
		return nil, err
	}
	if signer.Subject.Unit != e.SignCert.Subject.Unit {
		return nil, &ProtocolError{Code: SignatureFailure, Err: fmt.Errorf("signed by a gateway of %q, which is not the merchant's acquirer", signer.Subject.Unit)}
	}
	if err := errors.Join(e.checkTags(data.PCertTags, r.RRPID), known(data.Extensions)); err != nil {
		return nil, err
	}
	e.tell(own)
	out := &GatewayCerts{Above: certs}
	if len(data.PCertResItemSeq) != len(r.Brands) {
		return nil, differs("%d certificates for %d brands", len(data.PCertResItemSeq), len(r.Brands))
	}
	for i, item := range data.PCertResItemSeq {
		cert, err := own.gatewayCert(now, item, r.Brands[i].BrandID, signer, slices.Concat(certs, held))
		if err != nil {
			return nil, err
		}
		out.Items = append(out.Items, GatewayCert{item.PCertCode, cert})
	}
	return out, nil
}

// gatewayCert finds the certificate that an item names, and checks that it is of the brand asked for and of
// the gateway that signed.
func (e *Endpoint) gatewayCert(now time.Time, item PCertResItem, brand BrandID, signer *pki.Certificate, certs []*pki.Certificate) (*pki.Certificate, error) {
	if item.PCertCode != PCertSuccess {
		return nil, nil
	}
	if item.CertThumb == nil {
		return nil, &ProtocolError{Code: MissingCertificate, Err: errors.New("a success that names no certificate")}
	}
	cert, err := byThumb(certs, *item.CertThumb)
	if err != nil {
		return nil, err
	}
	if err := e.validate(now, cert, certs, pki.KeyExchange, pki.Pgwy); err != nil {
		return nil, err
	}
	if !brand.Matches(BrandID(cert.Brand())) {
		return nil, ErrBrand
	}
	if cert.Subject.Unit != signer.Subject.Unit || cert.Subject.CommonName != signer.Subject.CommonName {
		return nil, &ProtocolError{Code: InvalidCertificate, Thumb: item.CertThumb, Err: errors.New("the certificate is another gateway's")}
	}
	return cert, nil
}

// OpenedPCertReq is a request for certificates whose signature verifies.
type OpenedPCertReq struct {
	Data     PCertReqData
	Merchant *pki.Certificate
}

// OpenPCertReq verifies PCertReq.
func (e *Endpoint) OpenPCertReq(now time.Time, w *MessageWrapper) (*OpenedPCertReq, error) {
	data, merchant, _, err := opened[PCertReqData](e, now, cms.ContentInfo(*w.Message.PCertReq), ContentPCertReqData, nil, pki.Mer)
	if err != nil {
		return nil, err
	}
	if data.PCertTags.RRPID != *w.MessageHeader.RRPID {
		return nil, mismatch("rrpid")
	}
	if err := errors.Join(e.checkMerchant(now, merchant, data.PCertTags), known(data.Extensions)); err != nil {
		return nil, err
	}
	return &OpenedPCertReq{data, merchant}, nil
}

// PCertRes answers with one item for each brand and BIN, in the order of the request, and with the
// certificates and revocation lists that the merchant lacks; above are the CA certificates above those of
// other brands.
func (e *Endpoint) PCertRes(now time.Time, o *OpenedPCertReq, items []GatewayCert, above ...*pki.Certificate) ([]byte, error) {
	if len(items) != len(o.Data.BrandAndBINSeq) {
		return nil, fmt.Errorf("%d certificates for %d brands", len(items), len(o.Data.BrandAndBINSeq))
	}
	data, thumbs := PCertResTBS{PCertTags: o.Data.PCertTags}, o.Data.MThumbs
	for _, item := range items {
		res := PCertResItem{PCertCode: item.Code}
		if item.Certificate != nil {
			thumb := item.Certificate.CertThumb()
			res.CertThumb, above = &thumb, append(above, item.Certificate)
		}
		data.PCertResItemSeq = append(data.PCertResItemSeq, res)
	}
	for _, bci := range e.Verifier.Store().BCIs {
		if !thumbs.HasBCI(bci) {
			data.BrandCRLIdentifierSeq = append(data.BrandCRLIdentifierSeq, bci.Raw)
		}
	}
	ci, err := cms.Sign(ContentPCertResTBS, data, e.ownCertificates(thumbs, above...), e.crls(thumbs), e.cmsSigner())
	if err != nil {
		return nil, err
	}
	res := PCertRes(ci)
	return e.wrap(now, nil, &data.PCertTags.RRPID, Message{PCertRes: &res})
}
