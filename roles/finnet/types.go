package finnet

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/setkit/setkit/roles/set"
)

var (
	// ErrNoReply says that a message was or may have been sent and that its outcome is unknown. After
	// an authorization the caller must reverse, until the reversal is answered.
	ErrNoReply = errors.New("issuer gave no answer: the outcome is unknown")

	// ErrUnavailable says that the issuer could not be reached. Nothing was sent.
	ErrUnavailable = errors.New("issuer is not reachable: nothing was sent")
)

// ResponseCode is field 39.
type ResponseCode string

// The response codes that the network uses.
const (
	Approved           ResponseCode = "00"
	DoNotHonour        ResponseCode = "05"
	InvalidTransaction ResponseCode = "12"
	InvalidAmount      ResponseCode = "13"
	InvalidCard        ResponseCode = "14"
	UnknownOriginal    ResponseCode = "25"
	FormatError        ResponseCode = "30"
	StolenCard         ResponseCode = "43"
	InsufficientFunds  ResponseCode = "51"
	ExpiredCard        ResponseCode = "54"
	RestrictedCard     ResponseCode = "62"
	IssuerUnavailable  ResponseCode = "91"
	Duplicate          ResponseCode = "94"
	OutOfBalance       ResponseCode = "95"
	Malfunction        ResponseCode = "96" // reaches a caller of Client as ErrNoReply
)

var responseNames = map[ResponseCode]string{
	Approved: "approved", DoNotHonour: "do not honour", InvalidTransaction: "invalid transaction",
	InvalidAmount: "invalid amount", InvalidCard: "invalid card number", UnknownOriginal: "unknown original",
	FormatError: "format error", StolenCard: "stolen card", InsufficientFunds: "insufficient funds",
	ExpiredCard: "expired card", RestrictedCard: "restricted card", IssuerUnavailable: "issuer unavailable",
	Duplicate: "duplicate", OutOfBalance: "reconcile error", Malfunction: "system malfunction",
}

// String gives the code and its meaning, e.g. "51 insufficient funds".
func (c ResponseCode) String() string {
	if name, ok := responseNames[c]; ok {
		return string(c) + " " + name
	}
	return string(c)
}

// Trace names one message among all that its sender ever sent.
type Trace struct {
	Acquirer     set.BIN // field 32: the institution that sends; 6 digits
	STAN         string  // field 11: 6 digits
	RRN          string  // field 37: 12 characters, the same in all messages about one transaction
	Transmission string  // field 7: MMDDhhmmss, UTC
}

// NewTrace makes the trace of the first message about a transaction.
func NewTrace(acquirer set.BIN, now time.Time) Trace {
	return Trace{acquirer, randomSTAN(), rand.Text()[:rrnBytes], now.UTC().Format(transmissionLayout)}
}

// Next makes the trace of a later message about the same transaction.
func (t Trace) Next(now time.Time) Trace {
	t.STAN = randomSTAN()
	t.Transmission = now.UTC().Format(transmissionLayout)
	return t
}

const transmissionLayout = "0102150405"

// randomSTAN is a number from 000001 to 999999. It needs to tell apart only what is under way with one
// retrieval reference number, so the slight bias of the remainder does not matter.
func randomSTAN() string {
	var b [4]byte
	rand.Read(b[:])
	return fmt.Sprintf("%06d", binary.BigEndian.Uint32(b[:])%999_999+1)
}

// Merchant tells the issuer who is being paid.
type Merchant struct {
	ID       set.MerchantID // at most MerchantIDBytesMax characters
	Name     string         // shown to the cardholder; cut to 40 characters of ASCII
	Category string         // ISO 18245, 4 digits; may be empty
	Terminal string         // at most TerminalBytesMax characters; may be empty
}

// Authorization asks the issuer to hold an amount for a purchase (0100).
type Authorization struct {
	Trace
	PAN        set.PAN
	Expiry     set.CardExpiry
	Amount     set.CurrencyAmount
	Merchant   Merchant
	XID        set.XID
	TransStain []byte // 32 octets, or none (SET §6.4)
}

// AccountCheck asks the issuer whether a person is the cardholder of an account, before a certificate
// is issued (0100 with processing code 330000). It moves no money.
type AccountCheck struct {
	Trace
	PAN    set.PAN
	Expiry set.CardExpiry
	Holder string
	Secret []byte // the registration secret that the issuer gave to the cardholder
}

// Reversal takes an authorization back, whatever became of it, or makes it smaller (0400).
type Reversal struct {
	Trace
	Original Trace // of the authorization; same Acquirer and RRN
	Amount   set.CurrencyAmount
	Remains  set.CurrencyAmount // what stays authorized, less than Amount; zero, and then of any currency: nothing
}

// Clearing books the capture of an authorization, in full or in part (0220). Its trace names it: the same
// one again is the same clearing.
type Clearing struct {
	Trace
	Original     Trace // of the authorization; same Acquirer and RRN
	Amount       set.CurrencyAmount
	ApprovalCode string
	Merchant     Merchant // only ID and Terminal are sent
	XID          set.XID
	Settlement   Settlement
}

// Refund pays back what was cleared of an authorization, in full or in part (0220 with processing code
// 200000). Its trace names it, as that of a Clearing does.
type Refund Clearing

// Withdrawal takes a clearing or a refund back, in full (0420).
type Withdrawal struct {
	Trace
	Original   Trace // of the clearing or refund; same Acquirer and RRN
	Refund     bool  // Original is a refund
	Amount     set.CurrencyAmount
	Settlement Settlement
}

// Settlement numbers the settlements of an acquirer, from 1 to SettlementMax. A clearing, refund or
// withdrawal belongs to the one that it names.
type Settlement int

// SettlementMax is the greatest number of a settlement.
const SettlementMax Settlement = 999_999

// A Sum is how many messages of a kind there were, and how much they were about in minor units.
type Sum struct {
	Count  int64
	Amount int64
}

// Totals are what was approved in one settlement and currency.
type Totals struct {
	Sales        Sum // clearings
	SalesTaken   Sum // clearings that were taken back
	Refunds      Sum
	RefundsTaken Sum // refunds that were taken back
}

// Net is what the issuer owes the acquirer, in minor units; below zero it is owed to the issuer.
func (t Totals) Net() int64 {
	return t.Sales.Amount - t.SalesTaken.Amount - t.Refunds.Amount + t.RefundsTaken.Amount
}

// Reconciliation closes a settlement of one currency, if both sides have the same totals (0500). It has no
// retrieval reference number.
type Reconciliation struct {
	Trace
	Settlement Settlement
	Currency   set.Currency
	Totals     Totals
}

// Balance is the issuer's answer to a Reconciliation.
type Balance struct {
	Code   ResponseCode // Approved, or OutOfBalance: then the settlement stays open
	Totals Totals       // the issuer's own
}

// Answer is the issuer's decision on an authorization.
type Answer struct {
	Code         ResponseCode
	ApprovalCode string // 6 characters, when Code is Approved
}
