package set

import (
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/pki"
)

var (
	typesBatchAdminReq = cms.SignedEncrypted{TBE: ContentBatchAdminReqTBE, TBS: ContentBatchAdminReqData}
	typesBatchAdminRes = cms.SignedEncrypted{TBE: ContentBatchAdminResTBE, TBS: ContentBatchAdminResData}
)

// BatchRequest is what the merchant wants of a batch (SET §7.8). It may be stored as JSON.
type BatchRequest struct {
	RRPID       RRPID
	GatewayCert []byte // DER of the gateway's key-exchange certificate
	MerTermIDs  MerTermIDs
	BatchID     *Natural                 // nil leaves the choice to the gateway
	Operation   *BatchOperation          // nil only asks
	Brands      []BrandAndBIN            // to open the batch for, or to purge of
	Summary     bool                     // asks for the totals
	Detail      *ReturnTransactionDetail // asks for one page of items
	Status      *BatchStatus             // the merchant's own totals, to close the batch only if they agree
	Details     *TransDetails
}

// BatchAdminReq makes the request.
func (e *Endpoint) BatchAdminReq(now time.Time, r *BatchRequest) ([]byte, error) {
	gateway, err := pki.ParseCertificate(r.GatewayCert)
	if err != nil {
		return nil, err
	}
	ci, err := enc(e, typesBatchAdminReq, BatchAdminReqData{
		BatchAdminRRTags: e.rrTags(now, r.RRPID, r.MerTermIDs), BatchID: r.BatchID, BrandAndBINSeq: r.Brands, BatchOperation: r.Operation,
		ReturnBatchSummaryInd: r.Summary, ReturnTransactionDetail: r.Detail, BatchStatus: r.Status, TransDetails: r.Details,
	}, nil, gateway)
	if err != nil {
		return nil, err
	}
	req := BatchAdminReq(ci)
	return e.wrap(now, nil, &r.RRPID, Message{BatchAdminReq: &req})
}

// OpenBatchAdminRes checks BatchAdminRes against the request that it answers.
func (e *Endpoint) OpenBatchAdminRes(now time.Time, r *BatchRequest, b []byte) (*BatchAdminResData, error) {
	w, err := e.receiveFrom(r.GatewayCert, now, b, r.RRPID, BatchAdminResType)
	if err != nil {
		return nil, err
	}
	data, gateway, _, err := openEnc[BatchAdminResData](e, now, typesBatchAdminRes, cms.ContentInfo(*w.Message.BatchAdminRes), pki.Pgwy)
	if err != nil {
		return nil, err
	}
	err = errors.Join(checkGateway(r.GatewayCert, gateway), e.checkTags(data.BatchAdminTags, r.RRPID), known(data.Extensions))
	if err != nil {
		return nil, err
	}
	if r.BatchID != nil && data.BatchID != *r.BatchID {
		return nil, differs("the answer is about batch %d, the request about %d", data.BatchID, *r.BatchID)
	}
	if d := data.TransDetails; d != nil {
		if r.Detail == nil || len(d.TransactionDetailSeq) > int(min(r.Detail.MaximumItems, batchPageMax)) {
			return nil, differs("%d items of a batch, more than were asked for", len(d.TransactionDetailSeq))
		}
		for _, item := range d.TransactionDetailSeq {
			if err := known(item.Extensions); err != nil {
				return nil, err
			}
		}
	}
	return &data, nil
}

// OpenedBatchAdminReq is a batch administration request whose signature verifies.
type OpenedBatchAdminReq struct {
	Data BatchAdminReqData

	Merchant         *pki.Certificate
	MerchantExchange *pki.Certificate
}

// OpenBatchAdminReq opens BatchAdminReq. What the batch says to it is for Judge.
func (e *Endpoint) OpenBatchAdminReq(now time.Time, w *MessageWrapper) (*OpenedBatchAdminReq, error) {
	data, merchant, certs, err := openEnc[BatchAdminReqData](e, now, typesBatchAdminReq, cms.ContentInfo(*w.Message.BatchAdminReq), pki.Mer)
	if err != nil {
		return nil, err
	}
	if data.BatchAdminRRTags.RRPID != *w.MessageHeader.RRPID {
		return nil, &ProtocolError{Code: UnknownRRPID, Err: errors.New("rrpid differs between header and message")} // as SET §7.8 has it
	}
	if err := known(data.Extensions); err != nil {
		return nil, err
	}
	o := &OpenedBatchAdminReq{Data: data, Merchant: merchant}
	o.MerchantExchange, err = e.openMerchant(now, merchant, certs, data.BatchAdminRRTags)
	return o, err
}

// BatchAdminRes answers a batch administration request. The tags are copied from it.
func (e *Endpoint) BatchAdminRes(now time.Time, o *OpenedBatchAdminReq, data BatchAdminResData) ([]byte, error) {
	data.BatchAdminTags = o.Data.BatchAdminRRTags
	ci, err := enc(e, typesBatchAdminRes, data, nil, o.MerchantExchange)
	if err != nil {
		return nil, err
	}
	res := BatchAdminRes(ci)
	return e.wrap(now, nil, &data.BatchAdminTags.RRPID, Message{BatchAdminRes: &res})
}

// BatchState is what has become of a batch number of one merchant.
type BatchState string

// The states of a batch number.
const (
	BatchUnused BatchState = "unused" // may be opened
	BatchIsOpen BatchState = "open"
	BatchClosed BatchState = "closed" // is not opened again
)

// Batch is what a gateway's records say of the batch that a request names.
type Batch struct {
	State  BatchState
	Brands []BrandAndBIN       // what it was opened for; none stands for all
	Items  []TransactionDetail // by BatchSequenceNum

	// Serves tells whether the gateway takes captures of a brand, and of a BIN where one is given.
	Serves func(BrandAndBIN) PCertCode
}

// Judge tells whether a batch allows what is asked; BASuccess when it does. See batchRules.
func (o *OpenedBatchAdminReq) Judge(b *Batch) BAStatus {
	return firstBroken(batchRules, &batchFacts{&o.Data, b})
}

// covers tells whether the batch may hold items of a brand.
func (b *Batch) covers(brand BrandID) bool {
	return len(b.Brands) == 0 || slices.ContainsFunc(b.Brands, func(x BrandAndBIN) bool { return x.BrandID.Matches(brand) })
}

// Details sums up the items of a batch, as a whole and by brand. It is not ok when they are of more than
// one currency: a batch has one.
func (b *Batch) Details(currency Currency) (d BatchDetails, ok bool) {
	d.BatchTotals = newTotals(currency)
	brands := make(map[BrandID]*BrandBatchDetails)
	for _, item := range b.Items {
		one := brands[item.BrandID]
		if one == nil {
			one = &BrandBatchDetails{item.BrandID, newTotals(currency)}
			brands[item.BrandID] = one
		}
		if !d.BatchTotals.add(item) || !one.BatchTotals.add(item) {
			return d, false
		}
	}
	for _, one := range brands {
		d.BrandBatchDetailsSeq = append(d.BrandBatchDetailsSeq, *one)
	}
	slices.SortFunc(d.BrandBatchDetailsSeq, func(a, b BrandBatchDetails) int { return strings.Compare(string(a.BrandID), string(b.BrandID)) })
	return d, true
}

func newTotals(currency Currency) BatchTotals {
	nothing := CurrencyAmount{Currency: currency}
	return BatchTotals{TransactionTotalAmtCredit: nothing, TransactionTotalAmtDebit: nothing}
}

func (t *BatchTotals) add(item TransactionDetail) (ok bool) {
	count, sum := &t.TransactionCountDebit, &t.TransactionTotalAmtDebit
	if item.TransactionAmtType == AmtCredit {
		count, sum = &t.TransactionCountCredit, &t.TransactionTotalAmtCredit
	}
	*count++
	*sum, ok = sum.Plus(item.TransactionAmt)
	return ok
}

// balances tells whether two parties count the same. Only the totals of brands that both state are compared.
func (d BatchDetails) balances(other BatchDetails) bool {
	if !d.BatchTotals.balances(other.BatchTotals) {
		return false
	}
	for _, one := range d.BrandBatchDetailsSeq {
		i := slices.IndexFunc(other.BrandBatchDetailsSeq, func(x BrandBatchDetails) bool { return x.BrandID == one.BrandID })
		if i >= 0 && !one.BatchTotals.balances(other.BrandBatchDetailsSeq[i].BatchTotals) {
			return false
		}
	}
	return true
}

func (t BatchTotals) balances(other BatchTotals) bool {
	return t.TransactionCountCredit == other.TransactionCountCredit && t.TransactionCountDebit == other.TransactionCountDebit &&
		t.TransactionTotalAmtCredit.Equal(other.TransactionTotalAmtCredit) && t.TransactionTotalAmtDebit.Equal(other.TransactionTotalAmtDebit)
}

// batchPageMax bounds the items of one page, whatever is asked for: a message has an end.
const batchPageMax = 1000

// Page gives the items asked for, nil when there are none. A starting point is the BatchSequenceNum of the
// page's first item, so that a purge between two pages moves nothing.
func (b *Batch) Page(want ReturnTransactionDetail) *TransDetails {
	page := new(TransDetails)
	for _, item := range b.Items {
		failed := item.TransactionStatus != nil && *item.TransactionStatus != TransactionSuccess
		switch {
		case int64(item.BatchSequenceNum) < want.StartingPoint,
			want.ErrorsOnlyInd && !failed,
			want.BrandID != "" && !want.BrandID.Matches(item.BrandID):
			continue
		case len(page.TransactionDetailSeq) == int(min(want.MaximumItems, batchPageMax)):
			page.NextStartingPoint = int64(item.BatchSequenceNum)
			return page
		}
		page.TransactionDetailSeq = append(page.TransactionDetailSeq, item)
	}
	if len(page.TransactionDetailSeq) == 0 {
		return nil
	}
	return page
}

// starts tells whether a starting point is one that a page could have named.
func (b *Batch) starts(point int64) bool {
	last := len(b.Items) - 1
	return point == 0 || point > 0 && last >= 0 && point <= int64(b.Items[last].BatchSequenceNum)
}
