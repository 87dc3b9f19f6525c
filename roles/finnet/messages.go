package finnet

import (
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/moov-io/iso8583"

	"github.com/setkit/setkit/roles/set"
)

func (a *Authorization) encode() (*iso8583.Message, error) {
	b := newBuilder(kindAuthorize.mti)
	b.set(fieldProcessing, purchase)
	b.trace(a.Trace)
	b.card(a.PAN, a.Expiry)
	b.amount(a.Amount)
	b.set(fieldEntryMode, entryECommerce)
	b.set(fieldCondition, overInternet)
	b.merchant(a.Merchant)
	b.set(fieldMerchantName, asciiName(a.Merchant.Name))
	if a.Merchant.Category != "" {
		if !isDigits(a.Merchant.Category) || len(a.Merchant.Category) != 4 {
			b.check(fmt.Errorf("merchant category %q is not 4 digits", a.Merchant.Category))
		}
		b.set(fieldCategory, a.Merchant.Category)
	}
	b.tag(tagXID, a.XID[:])
	if len(a.TransStain) > 0 {
		if len(a.TransStain) != transStainBytes {
			b.check(fmt.Errorf("TransStain has %d octets, want %d", len(a.TransStain), transStainBytes))
		}
		b.tag(tagTransStain, a.TransStain)
	}
	return b.m, b.err
}

func decodeAuthorization(m *iso8583.Message) (*Authorization, error) {
	p := &parser{m: m}
	p.constant(fieldEntryMode, entryECommerce)
	p.constant(fieldCondition, overInternet)
	a := &Authorization{
		Trace:  p.trace(),
		PAN:    p.pan(),
		Expiry: p.expiry(),
		Amount: p.amount(),
		Merchant: Merchant{
			ID:       set.MerchantID(p.printable(fieldMerchant)),
			Name:     p.printable(fieldMerchantName),
			Category: text(m, fieldCategory),
			Terminal: p.terminal(),
		},
		XID:        p.xid(),
		TransStain: p.tag(tagTransStain),
	}
	if a.Merchant.ID == "" {
		p.fail(fieldMerchant, "is blank")
	}
	if c := a.Merchant.Category; c != "" && !isDigits(c) {
		p.fail(fieldCategory, "not digits")
	}
	if n := len(a.TransStain); n != 0 && n != transStainBytes {
		p.fail(fieldPrivate, "TransStain has %d octets", n)
	}
	return a, p.err
}

func (c *AccountCheck) encode() (*iso8583.Message, error) {
	b := newBuilder(kindVerify.mti)
	b.set(fieldProcessing, accountCheck)
	b.trace(c.Trace)
	b.card(c.PAN, c.Expiry)
	b.set(fieldAmount, noAmount)
	b.check(checkHolder(c.Holder))
	b.tag(tagHolder, []byte(c.Holder))
	if n := len(c.Secret); n == 0 || n > SecretBytesMax {
		b.check(fmt.Errorf("registration secret has %d octets, want 1 to %d", n, SecretBytesMax))
	}
	b.tag(tagSecret, c.Secret)
	return b.m, b.err
}

const noAmount = "000000000000"

func checkHolder(name string) error {
	if len(name) == 0 || len(name) > HolderBytesMax || !utf8.ValidString(name) {
		return fmt.Errorf("cardholder's name has %d octets, want 1 to %d of UTF-8", len(name), HolderBytesMax)
	}
	return nil
}

func decodeAccountCheck(m *iso8583.Message) (*AccountCheck, error) {
	p := &parser{m: m}
	p.constant(fieldAmount, noAmount)
	c := &AccountCheck{
		Trace:  p.trace(),
		PAN:    p.pan(),
		Expiry: p.expiry(),
		Holder: string(p.tag(tagHolder)),
		Secret: p.tag(tagSecret),
	}
	if checkHolder(c.Holder) != nil {
		p.fail(fieldPrivate, "cardholder's name is not UTF-8")
	}
	return c, p.err
}

func (r *Reversal) encode() (*iso8583.Message, error) {
	b := newBuilder(kindReverse.mti)
	b.set(fieldProcessing, purchase)
	b.trace(r.Trace)
	b.amount(r.Amount)
	b.original(r.Trace, r.Original, kindAuthorize)
	if r.Remains.Amount != 0 {
		b.replacement(r.Amount, r.Remains)
	}
	return b.m, b.err
}

func decodeReversal(m *iso8583.Message) (*Reversal, error) {
	p := &parser{m: m}
	r := &Reversal{Trace: p.trace(), Amount: p.amount()}
	r.Original = p.original(r.Trace, kindAuthorize)
	r.Remains = p.replacement(r.Amount)
	return r, p.err
}

func (c *Clearing) encode() (*iso8583.Message, error) { return encodeAdvice(kindClear, c) }

func (r *Refund) encode() (*iso8583.Message, error) { return encodeAdvice(kindRefund, (*Clearing)(r)) }

func encodeAdvice(k *kind, c *Clearing) (*iso8583.Message, error) {
	b := newBuilder(k.mti)
	b.set(fieldProcessing, k.processing)
	b.trace(c.Trace)
	b.amount(c.Amount)
	if len(c.ApprovalCode) != approvalBytes || !isPrintable(c.ApprovalCode) {
		b.check(fmt.Errorf("approval code has %d characters, want %d", len(c.ApprovalCode), approvalBytes))
	}
	b.set(fieldApproval, c.ApprovalCode)
	b.merchant(c.Merchant)
	b.tag(tagXID, c.XID[:])
	b.settlement(c.Settlement)
	b.original(c.Trace, c.Original, kindAuthorize)
	return b.m, b.err
}

func decodeAdvice(m *iso8583.Message) (*Clearing, error) {
	p := &parser{m: m}
	c := &Clearing{
		Trace:        p.trace(),
		Amount:       p.amount(),
		ApprovalCode: p.printable(fieldApproval),
		Merchant:     Merchant{ID: set.MerchantID(p.printable(fieldMerchant)), Terminal: p.terminal()},
		XID:          p.xid(),
		Settlement:   p.settlement(),
	}
	c.Original = p.original(c.Trace, kindAuthorize)
	if c.Merchant.ID == "" {
		p.fail(fieldMerchant, "is blank")
	}
	return c, p.err
}

func (w *Withdrawal) encode() (*iso8583.Message, error) {
	k, of := w.kinds()
	b := newBuilder(k.mti)
	b.set(fieldProcessing, k.processing)
	b.trace(w.Trace)
	b.amount(w.Amount)
	b.settlement(w.Settlement)
	b.original(w.Trace, w.Original, of)
	return b.m, b.err
}

// kinds gives the kind of a withdrawal and of what it takes back.
func (w *Withdrawal) kinds() (k, of *kind) {
	if w.Refund {
		return kindUnrefund, kindRefund
	}
	return kindUnclear, kindClear
}

func decodeWithdrawal(m *iso8583.Message, isRefund bool) (*Withdrawal, error) {
	p := &parser{m: m}
	w := &Withdrawal{Trace: p.trace(), Refund: isRefund, Amount: p.amount(), Settlement: p.settlement()}
	_, of := w.kinds()
	w.Original = p.original(w.Trace, of)
	return w, p.err
}

func (r *Reconciliation) encode() (*iso8583.Message, error) {
	b := newBuilder(kindReconcile.mti)
	b.sender(r.Trace)
	b.settlement(r.Settlement)
	b.currency(r.Currency)
	b.totals(r.Totals)
	return b.m, b.err
}

func decodeReconciliation(m *iso8583.Message) (*Reconciliation, error) {
	p := &parser{m: m}
	r := &Reconciliation{Trace: p.sender(), Settlement: p.settlement(), Currency: p.currency(), Totals: p.totals()}
	return r, p.err
}

func encodeEcho(stan, transmission string) (*iso8583.Message, error) {
	b := newBuilder(kindEcho.mti)
	b.set(fieldSTAN, stan)
	b.set(fieldTransmission, transmission)
	b.set(fieldNetwork, echoTest)
	return b.m, b.err
}

// echo is a decoded network management message.
type echo struct{}

// decodeRequest gives the typed request that m is: *Authorization, *AccountCheck, *Reversal, *Clearing,
// *Refund, *Withdrawal, *Reconciliation or *echo.
func decodeRequest(m *iso8583.Message) (any, error) {
	k, err := kindOf(m)
	if err != nil {
		return nil, err
	}
	var req any
	switch k {
	case kindAuthorize:
		req, err = decodeAuthorization(m)
	case kindVerify:
		req, err = decodeAccountCheck(m)
	case kindReverse:
		req, err = decodeReversal(m)
	case kindClear:
		req, err = decodeAdvice(m)
	case kindRefund:
		var c *Clearing
		c, err = decodeAdvice(m)
		req = (*Refund)(c)
	case kindUnclear, kindUnrefund:
		req, err = decodeWithdrawal(m, k == kindUnrefund)
	case kindReconcile:
		req, err = decodeReconciliation(m)
	default:
		p := &parser{m: m}
		p.constant(fieldNetwork, echoTest)
		p.digits(fieldSTAN)
		p.digits(fieldTransmission)
		req, err = &echo{}, p.err
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", k.name, err)
	}
	return req, nil
}

// isRequest tells whether a message type asks for an answer: its third digit is 0 or 2.
func isRequest(mti string) bool {
	return len(mti) == 4 && isDigits(mti) && (mti[2] == '0' || mti[2] == '2')
}

// responseType is the message type of the response to a request.
func responseType(mti string) string {
	return mti[:2] + string(mti[2]+1) + mti[3:]
}

// reply is what a response says: an answer and, to a reconciliation, the issuer's totals.
type reply struct {
	Answer
	totals *Totals
}

// respond makes the response to request m.
func respond(m *iso8583.Message, a reply) (*iso8583.Message, error) {
	b := newBuilder(responseType(text(m, fieldMTI)))
	present := m.GetFields()
	for _, id := range echoed {
		if _, ok := present[id]; ok {
			b.set(id, text(m, id))
		}
	}
	b.set(fieldResponse, string(a.Code))
	if a.ApprovalCode != "" {
		b.set(fieldApproval, a.ApprovalCode)
	}
	if a.totals != nil {
		b.set(fieldBalance, balanceCode(a.Code))
		b.totals(*a.totals)
	}
	return b.m, b.err
}

// balanceCode is field 66 of the response to a reconciliation.
func balanceCode(c ResponseCode) string {
	if c == Approved {
		return inBalance
	}
	return outOfBalance
}

// decodeResponse checks that response answers request, and gives what it says.
func decodeResponse(request, response *iso8583.Message) (reply, error) {
	if text(response, fieldMTI) != responseType(text(request, fieldMTI)) {
		return reply{}, errors.New("answer has the wrong message type")
	}
	sent, got := request.GetFields(), response.GetFields()
	for _, id := range echoed {
		_, inSent := sent[id]
		_, inGot := got[id]
		if inSent != inGot || text(request, id) != text(response, id) {
			return reply{}, fmt.Errorf("answer does not repeat field %d", id)
		}
		delete(got, id)
	}
	p := &parser{m: response}
	a := reply{Answer: Answer{Code: ResponseCode(p.printable(fieldResponse)), ApprovalCode: p.printable(fieldApproval)}}
	if a.Code == "" {
		p.fail(fieldResponse, "is absent")
	}
	_, hasApproval := got[fieldApproval]
	isAuthorization := text(request, fieldMTI) == kindAuthorize.mti && text(request, fieldProcessing) == purchase
	if hasApproval != (isAuthorization && a.Code == Approved) {
		p.fail(fieldApproval, "is absent from an approval, or present elsewhere")
	}
	if text(request, fieldMTI) == kindReconcile.mti && (a.Code == Approved || a.Code == OutOfBalance) {
		t := p.totals()
		p.constant(fieldBalance, balanceCode(a.Code))
		a.totals = &t
		for _, id := range append(totalFields, fieldBalance) {
			delete(got, id)
		}
	}
	for id := range got {
		if id > 1 && id != fieldResponse && id != fieldApproval {
			p.fail(id, "is not part of an answer")
		}
	}
	return a, p.err
}

// matchKey is what a response must share with its request to be paired with it.
func matchKey(m *iso8583.Message) string {
	return text(m, fieldSTAN) + text(m, fieldTransmission) + text(m, fieldRRN)
}
