package merchant

import (
	"time"

	"github.com/setkit/setkit/roles/set"
)

// OrderState is how far an order has come.
type OrderState string

// The states of an order. It can be paid while it is new, declined or failed.
const (
	OrderNew         OrderState = "new"
	OrderAuthorizing OrderState = "authorizing" // a purchase request was taken, the gateway's answer is awaited
	OrderDeclined    OrderState = "declined"
	OrderFailed      OrderState = "failed" // the gateway refused to process the request
	OrderAuthorized  OrderState = "authorized"
	OrderCaptured    OrderState = "captured"

	// OrderUnresolved is an order whose authorization was asked for and whose outcome can no longer be
	// learnt from the gateway's server: a person asks the acquirer.
	OrderUnresolved OrderState = "unresolved"
)

// payable tells whether an order in this state may be paid.
func (s OrderState) payable() bool {
	return s == OrderNew || s == OrderDeclined || s == OrderFailed
}

// CaptureState is how far the capture of an authorization has come.
type CaptureState string

// The states of a capture.
const (
	CaptureNone    CaptureState = ""
	CapturePending CaptureState = "pending"
	CaptureDone    CaptureState = "captured"
	CaptureRefused CaptureState = "refused"
)

// Order is an order as shop and operator see it.
type Order struct {
	ID      string     `json:"id"` // unguessable
	Number  int64      `json:"number"`
	Created time.Time  `json:"created"`
	State   OrderState `json:"state"`
	Lines   []Line     `json:"lines"`
	Total   string     `json:"total"` // for people, such as "10.50 EUR"
	Amount  Money      `json:"amount"`
	Payment *Payment   `json:"payment,omitempty"` // the one under way, or the last one

	description []byte
	amount      set.CurrencyAmount
	lidM        set.LocalID
}

// Money is an amount in minor units.
type Money struct {
	Currency string `json:"currency"` // ISO 4217 code
	Minor    int64  `json:"minor"`
}

// Payment is what is known of the payment of an order.
type Payment struct {
	XID          set.XID      `json:"xid"`
	AuthCode     string       `json:"authCode,omitempty"`
	ApprovalCode string       `json:"approvalCode,omitempty"` // the issuer's
	Authorized   *time.Time   `json:"authorized,omitempty"`   // when the gateway's answer came
	Capture      CaptureState `json:"capture,omitempty"`
	CapCode      string       `json:"capCode,omitempty"`
	Captured     *time.Time   `json:"captured,omitempty"`
	Failure      string       `json:"failure,omitempty"` // why there is no result
}

// saleState is how far one transaction of SET has come.
type saleState string

const (
	saleInitiated   saleState = "initiated"
	saleRejected    saleState = "rejected"
	saleAuthorizing saleState = "authorizing"
	saleAuthorized  saleState = "authorized"
	saleDeclined    saleState = "declined"
	saleFailed      saleState = "failed"
	saleUnresolved  saleState = "unresolved"
)

// orderState is what the outcome of its sale makes of an order.
func (s saleState) orderState() OrderState {
	return map[saleState]OrderState{
		saleAuthorized: OrderAuthorized, saleDeclined: OrderDeclined, saleFailed: OrderFailed, saleUnresolved: OrderUnresolved,
	}[s]
}

// sale is one transaction of SET: a row of the table.
type sale struct {
	xid     set.XID
	orderID string
	created time.Time
	state   saleState
	request []byte // digest of the PReq that was taken
	record
	authReq []byte
	capture CaptureState
	capReq  []byte
}

// record is the part of a sale that is stored as JSON.
type record struct {
	Sale          set.Sale
	Authorization *authorization `json:",omitempty"`
	Capture       *capture       `json:",omitempty"`
}

// authorization is what was asked of the gateway and what it answered.
type authorization struct {
	Request      set.AuthorizationRequest
	At           time.Time // of the outcome; zero before
	Code         set.AuthCode
	ApprovalCode string
	CapToken     []byte
	Failure      string
}

// capture is what was asked of the gateway and what it answered.
type capture struct {
	Request set.CaptureRequest
	At      time.Time // of the outcome; zero before
	Code    set.CapCode
	Amount  set.CurrencyAmount
	Failure string
}

func (s *sale) payment() *Payment {
	p := &Payment{XID: s.xid, Capture: s.capture}
	if a := s.Authorization; a != nil && !a.At.IsZero() {
		p.ApprovalCode, p.Authorized, p.Failure = a.ApprovalCode, &a.At, a.Failure
		if a.Failure == "" {
			p.AuthCode = a.Code.String()
		}
	}
	if c := s.record.Capture; c != nil && !c.At.IsZero() {
		p.Captured, p.CapCode = &c.At, c.Code.String()
		if c.Failure != "" {
			p.Failure, p.CapCode = c.Failure, ""
		}
	}
	return p
}
