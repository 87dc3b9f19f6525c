package merchant

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/setkit/setkit/roles/set"
)

// What an operator can have done with orders. Every method checks the merchant's own books, stores what is to
// be done and returns; the server that works on this database does it. Amounts are in minor units of the
// order's currency. An order that cannot be done so is an *OrderError, one that does not exist ErrNoOrder.

// captureItemsMax bounds the authorizations of one capture request: a message has an end.
const captureItemsMax = 50

// change gives one order and its sale to fn, which begins an operation or refuses it with a reason.
func (s *Store) change(ctx context.Context, now time.Time, orderID, command string, fn func(o *Order, sl *sale) (*operation, error)) (*Operation, error) {
	var op *operation
	err := s.db.Tx(ctx, func(tx *sql.Tx) error {
		o, err := one(ctx, tx, `WHERE o.id = $1`, orderID)
		if err != nil {
			return err
		}
		sl := o.sale
		refuse := func(reason string) error {
			return &OrderError{Number: o.Number, State: o.State, Command: command, Reason: reason, Possible: sl.possible(now)}
		}
		switch {
		case sl == nil || sl.state != saleTaken:
			return refuse("it is not paid")
		case sl.pending != "":
			return refuse(fmt.Sprintf("its last operation (%s) still waits for the gateway", o.Payment.Pending))
		case sl.unresolved():
			return refuse("nobody but the acquirer can tell what became of its last request: ask there")
		}
		op, err = fn(o, sl)
		if reason, ok := errors.AsType[refusal](err); ok {
			return refuse(string(reason))
		}
		if err != nil {
			return err
		}
		return s.begin(ctx, tx, op, map[set.XID]*sale{sl.xid: sl}, time.Time{})
	})
	if err != nil {
		return nil, err
	}
	return op.view(), nil
}

// refusal is why an operation is not begun.
type refusal string

func (r refusal) Error() string { return string(r) }

// share puts an amount into an operation, as far as each of the authorizations allows; 0 is all that they
// allow.
func (o *operation) share(sl *sale, from []*authorization, minor int64, most func(*authorization) set.CurrencyAmount) error {
	amount := func(minor int64) set.CurrencyAmount {
		return set.CurrencyAmount{Currency: sl.Sale.PurchAmt.Currency, Amount: set.Natural(minor), AmtExp10: sl.Sale.PurchAmt.AmtExp10}
	}
	sum := amount(0)
	for _, a := range from {
		sum = plus(sum, most(a))
	}
	left := amount(minor)
	if minor == 0 {
		left = sum
	}
	if order, _ := left.Cmp(sum); minor < 0 || order > 0 {
		return refusal(fmt.Sprintf("%v is more than the %v that are left", left, sum))
	}
	for _, a := range from {
		part := most(a)
		if order, _ := part.Cmp(left); order > 0 {
			part = left
		}
		if part.Amount > 0 {
			o.add(sl, a, part)
			left, _ = left.Minus(part)
		}
	}
	return nil
}

// Capture captures what is authorized of an order and not captured yet: the amount, or all of it when that is
// 0. What is left of an authorization after its capture is given up.
func (s *Store) Capture(ctx context.Context, now time.Time, orderID string, amount int64) (*Operation, error) {
	return s.change(ctx, now, orderID, "capture", func(_ *Order, sl *sale) (*operation, error) {
		open := sl.open()
		if len(open) == 0 {
			return nil, refusal("nothing is authorized that is not captured")
		}
		op := newOperation(KindCapture, now, sl.Sale.BrandID)
		return op, op.share(sl, open, amount, func(a *authorization) set.CurrencyAmount { return a.Position.Authorized })
	})
}

// CaptureAll captures what is authorized of all orders, with as few requests as hold it.
func (s *Store) CaptureAll(ctx context.Context, now time.Time) (views []*Operation, err error) {
	err = s.db.Tx(ctx, func(tx *sql.Tx) error {
		views = nil
		orders, err := selectOrders(ctx, tx, `WHERE s.pending = '' AND o.state IN ('authorized', 'captured') ORDER BY o.number`)
		if err != nil {
			return err
		}
		byGateway := make(map[string][]*sale)
		for _, o := range orders {
			if len(o.sale.open()) > 0 {
				name, err := o.sale.gatewayName()
				if err != nil {
					return err
				}
				byGateway[name] = append(byGateway[name], o.sale)
			}
		}
		for _, sales := range byGateway {
			for len(sales) > 0 {
				op := newOperation(KindCapture, now, sales[0].Sale.BrandID)
				these := make(map[set.XID]*sale)
				for len(sales) > 0 && (len(op.Items) == 0 || len(op.Items)+len(sales[0].open()) <= captureItemsMax) {
					these[sales[0].xid] = sales[0]
					for _, a := range sales[0].open() {
						op.add(sales[0], a, a.Position.Authorized)
					}
					sales = sales[1:]
				}
				if err := s.begin(ctx, tx, op, these, time.Time{}); err != nil {
					return err
				}
				views = append(views, op.view())
			}
		}
		return nil
	})
	return views, err
}

// Void undoes the captures of an order whose batch is still open, or else takes its authorizations back. So an
// order that is captured is authorized after the first Void, and voided after the second.
func (s *Store) Void(ctx context.Context, now time.Time, orderID string) (*Operation, error) {
	return s.change(ctx, now, orderID, "void", func(_ *Order, sl *sale) (*operation, error) {
		if undoable := sl.undoable(); len(undoable) > 0 {
			op := newOperation(KindUncapture, now, sl.Sale.BrandID)
			for _, a := range undoable {
				op.add(sl, a, a.Position.Captured)
			}
			return op, nil
		}
		op := sl.reverseNewest(now)
		switch {
		case op != nil:
			op.All = true
			return op, nil
		case len(sl.within(func(p set.Position) bool { return p.Settled })) > 0:
			return nil, refusal("the batch of its capture is closed")
		case len(sl.lastRefund()) > 0:
			return nil, refusal("some of it was given back")
		}
		return nil, refusal("nothing is authorized or captured")
	})
}

// reverseNewest begins to take back the newest authorization that is not captured, nil if there is none: the
// token for a next one counts those before it.
func (s *sale) reverseNewest(now time.Time) *operation {
	open := s.open()
	if len(open) == 0 {
		return nil
	}
	op := newOperation(KindReverse, now, s.Sale.BrandID)
	a := open[len(open)-1]
	op.add(s, a, set.CurrencyAmount{Currency: a.Position.Authorized.Currency, AmtExp10: a.Position.Authorized.AmtExp10})
	return op
}

// Reverse lowers the newest authorization that is not captured to an amount.
func (s *Store) Reverse(ctx context.Context, now time.Time, orderID string, to int64) (*Operation, error) {
	return s.change(ctx, now, orderID, "reverse", func(_ *Order, sl *sale) (*operation, error) {
		op := sl.reverseNewest(now)
		if op == nil {
			return nil, refusal("nothing is authorized that is not captured")
		}
		held := sl.authorization(op.Items[0].RRPID).Position.Authorized
		stays := set.CurrencyAmount{Currency: held.Currency, Amount: set.Natural(to), AmtExp10: sl.Sale.PurchAmt.AmtExp10}
		if order, _ := stays.Cmp(held); to < 1 || order >= 0 {
			return nil, refusal(fmt.Sprintf("want less than the %v that are authorized, and more than nothing, which is void", held))
		}
		op.Items[0].Amount, op.Items[0].Total = stays, stays.String()
		return op, nil
	})
}

// Refund gives back an amount of what was captured of an order, or all that is left of it when that is 0.
func (s *Store) Refund(ctx context.Context, now time.Time, orderID string, amount int64) (*Operation, error) {
	return s.change(ctx, now, orderID, "refund", func(_ *Order, sl *sale) (*operation, error) {
		refundable := sl.refundable()
		if len(refundable) == 0 {
			return nil, refusal("nothing is captured that was not given back")
		}
		slices.Reverse(refundable)
		op := newOperation(KindRefund, now, sl.Sale.BrandID)
		return op, op.share(sl, refundable, amount, func(a *authorization) set.CurrencyAmount {
			rest, _ := a.Position.Captured.Minus(a.Position.Credited)
			return rest
		})
	})
}

// UndoRefund takes back the last refund of an order that stands.
func (s *Store) UndoRefund(ctx context.Context, now time.Time, orderID string) (*Operation, error) {
	return s.change(ctx, now, orderID, "undo-refund", func(_ *Order, sl *sale) (*operation, error) {
		last := sl.lastRefund()
		if len(last) == 0 {
			return nil, refusal("there is no refund that stands")
		}
		op := newOperation(KindUndoRefund, now, sl.Sale.BrandID)
		for _, a := range sl.Authorizations {
			if r := last[a]; r != nil {
				op.add(sl, a, r.Amount)
			}
		}
		return op, nil
	})
}

// Ship authorizes the amount of one shipment of an order in several. With last, or when nothing of the order
// is left, no more can follow.
func (s *Store) Ship(ctx context.Context, now time.Time, orderID string, amount int64, last bool) (*Operation, error) {
	return s.change(ctx, now, orderID, "ship", func(_ *Order, sl *sale) (*operation, error) {
		rest := sl.rest()
		ship := set.CurrencyAmount{Currency: rest.Currency, Amount: set.Natural(amount), AmtExp10: sl.Sale.PurchAmt.AmtExp10}
		order, _ := ship.Cmp(rest)
		switch {
		case !sl.Split:
			return nil, refusal("it was not ordered in several shipments")
		case sl.complete():
			return nil, refusal("its last shipment is authorized")
		case amount < 1:
			return nil, refusal("want the amount of the shipment")
		case order > 0:
			return nil, refusal(fmt.Sprintf("%v is more than the %v that are left", ship, rest))
		}
		return sl.authorize(now, ship, !last && order < 0), nil
	})
}

// Charge authorizes the next instalment or recurring payment of an order.
func (s *Store) Charge(ctx context.Context, now time.Time, orderID string) (*Operation, error) {
	return s.change(ctx, now, orderID, "charge", func(_ *Order, sl *sale) (*operation, error) {
		d := sl.Sale.InstallRecurData
		switch {
		case d == nil:
			return nil, refusal("it is not paid in instalments or again and again")
		case sl.complete():
			return nil, refusal(fmt.Sprintf("all its %d instalments are authorized", *d.InstallRecurInd.InstallTotalTrans))
		}
		if r := d.InstallRecurInd.Recurring; r != nil {
			if sl.lapsed(now) {
				return nil, refusal(fmt.Sprintf("its last day was %s", r.RecurringExpiry.Format(time.DateOnly)))
			}
			if due := sl.due(); now.Before(due) {
				return nil, refusal(fmt.Sprintf("its next payment is due on %s", due.Format(time.RFC3339)))
			}
		}
		return sl.authorize(now, sl.nextPayment(), false), nil
	})
}

// lapsed tells whether the last day of recurring payments is over.
func (s *sale) lapsed(now time.Time) bool {
	d := s.Sale.InstallRecurData
	return d != nil && d.InstallRecurInd.Recurring != nil && now.After(d.InstallRecurInd.Recurring.RecurringExpiry)
}

// due is when the next recurring payment may be asked for.
func (s *sale) due() time.Time {
	standing, r := s.standing(), s.Sale.InstallRecurData.InstallRecurInd.Recurring
	if len(standing) == 0 {
		return time.Time{}
	}
	return standing[len(standing)-1].At.Add(time.Duration(r.RecurringFrequency) * 24 * time.Hour)
}

// nextPayment is the amount of the first or the next payment: the whole purchase each time it recurs, or what is
// left divided by the instalments left, rounded up to minor units.
func (s *sale) nextPayment() set.CurrencyAmount {
	total := s.Sale.PurchAmt
	d := s.Sale.InstallRecurData
	if d == nil || d.InstallRecurInd.InstallTotalTrans == nil {
		return total
	}
	rest := s.rest()
	left := int64(*d.InstallRecurInd.InstallTotalTrans) - int64(len(s.standing()))
	if left > 0 {
		rest.Amount = set.Natural((int64(rest.Amount) + left - 1) / left)
	}
	return rest
}

// authorize begins the next authorization of a purchase.
func (s *sale) authorize(now time.Time, amount set.CurrencyAmount, subsequent bool) *operation {
	a := &authorization{Request: set.AuthorizationRequest{
		RRPID: set.NewRRPID(), Amount: amount, Subsequent: subsequent, AuthToken: s.AuthToken, AuthRetNum: s.AuthRetNum,
	}}
	s.Authorizations = append(s.Authorizations, a)
	op := newOperation(KindAuthorize, now, s.Sale.BrandID)
	op.add(s, a, amount)
	return op
}
