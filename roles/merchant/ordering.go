package merchant

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/setkit/setkit/roles/set"
)

const (
	referenceOctetsMax = 100
	returnOctetsMax    = 512
	requestKeyMax      = 200

	// SessionLife is how long a basket is kept after its last change.
	SessionLife = 30 * 24 * time.Hour
)

// OrderRequest is what is to be ordered, and for whom.
type OrderRequest struct {
	Lines []LineRequest
	Terms Terms

	Reference string      // the other shop's own name for the order
	Returns   ReturnPages // of the other shop; empty ones are this shop's
	Tell      bool        // see [Store.TellChanges]

	// Session and Basket have the lines come from the basket of a customer, which is then empty. The same basket
	// makes one order.
	Session string
	Basket  int64 // its version

	// Key, where there is no session, names the request: the same key makes one order.
	Key string
}

// LineRequest is one line of what is to be ordered: an item of the catalogue, or something that the other shop
// names and prices itself.
type LineRequest struct {
	Item     string
	Name     string
	Price    int64 // of one, in minor units
	Quantity int64
}

// ReturnPages are where the cardholder's software leads a customer when it is done (SET §8.3).
type ReturnPages struct{ Success, Failure, Cancel string }

var (
	// ErrOrderInvalid tells that the shop does not sell what was asked for.
	ErrOrderInvalid = errors.New("this cannot be ordered")

	// ErrKeyReused tells that the key of a request to make an order was used for a different one.
	ErrKeyReused = errors.New("the key was used before for a different order")

	// ErrBasketChanged tells that a basket is no longer what the customer was shown.
	ErrBasketChanged = errors.New("the basket has changed")
)

// MakeOrder makes an order. made is false when the same request has made it before.
func (m *Merchant) MakeOrder(ctx context.Context, r OrderRequest) (o *Order, made bool, err error) {
	key, digest, err := r.identity()
	if err != nil {
		return nil, false, err
	}
	if r.Session != "" { // the version tells which basket is meant, and may have made its order
		basket, err := m.Store.Basket(ctx, r.Session)
		if err != nil {
			return nil, false, err
		}
		r.Lines = basket.Lines
		if basket.Version != r.Basket {
			o, err := m.Store.orderByKey(ctx, key, digest)
			if errors.Is(err, ErrNoOrder) {
				err = ErrBasketChanged
			}
			return o, false, err
		}
	}
	lines, total, err := m.Catalogue.price(r.Lines)
	if err != nil {
		return nil, false, err
	}
	if err := m.checkRequest(r); err != nil {
		return nil, false, err
	}
	amount, err := m.Catalogue.amount(total)
	if err != nil {
		return nil, false, err
	}
	o = &Order{
		ID: rand.Text(), Created: m.Now(), State: OrderNew, Lines: lines, Terms: r.Terms, Reference: r.Reference, Version: 1,
		amount: amount, lidM: set.NewLocalID(), returns: r.Returns,
	}
	o, made, err = m.Store.createOrder(ctx, o, r, key, digest)
	if made {
		m.Log.Info("order made", "order", o.Number, "amount", o.Total)
	}
	return o, made, err
}

// identity gives the key under which a request makes its order, "" if it makes one each time, and what tells it
// from another request.
func (r OrderRequest) identity() (key string, digest []byte, err error) {
	switch {
	case r.Session != "":
		return fmt.Sprintf("basket %s %d", sessionID(r.Session), r.Basket), []byte{}, nil
	case len(r.Key) > requestKeyMax:
		return "", nil, fmt.Errorf("%w: the key has more than %d octets", ErrOrderInvalid, requestKeyMax)
	case r.Key == "":
		return "", nil, nil
	}
	raw, err := json.Marshal(r)
	if err != nil {
		return "", nil, err
	}
	sum := sha256.Sum256(raw)
	return "request " + r.Key, sum[:], nil
}

// checkRequest holds against its limits what is not a line.
func (m *Merchant) checkRequest(r OrderRequest) error {
	if r.Terms != "" && !slices.Contains(m.Catalogue.Terms, r.Terms) {
		return fmt.Errorf("%w: it cannot be paid so", ErrOrderInvalid)
	}
	if len(r.Reference) > referenceOctetsMax || strings.ContainsFunc(r.Reference, unicode.IsControl) {
		return fmt.Errorf("%w: want a reference of one line and at most %d octets", ErrOrderInvalid, referenceOctetsMax)
	}
	for _, page := range []string{r.Returns.Success, r.Returns.Failure, r.Returns.Cancel} {
		u, err := url.Parse(page)
		if page != "" && (err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.Fragment != "" ||
			len(page) > returnOctetsMax || strings.ContainsFunc(page, func(c rune) bool { return c <= ' ' || c > '~' })) {
			return fmt.Errorf("%w: a page to return to is no http or https address of at most %d octets", ErrOrderInvalid, returnOctetsMax)
		}
	}
	return nil
}

const orderNumberFirst = 1001

// createOrder stores an order that nobody can guess, unless its request has made one.
func (s *Store) createOrder(ctx context.Context, o *Order, r OrderRequest, key string, digest []byte) (stored *Order, made bool, err error) {
	rawLines, err := json.Marshal(o.Lines)
	if err != nil {
		return nil, false, err
	}
	session := ""
	if r.Session != "" {
		session = sessionID(r.Session)
	}
	err = s.db.Tx(ctx, func(tx *sql.Tx) error {
		made = false
		if key != "" {
			if stored, err = readOrderByKey(ctx, tx, key, digest); !errors.Is(err, ErrNoOrder) {
				return err
			}
		}
		if session != "" {
			if err := emptyBasket(ctx, tx, session, r.Basket); err != nil {
				return err
			}
		}
		err := tx.QueryRowContext(ctx, `SELECT COALESCE(MAX(number) + 1, $1) FROM shop_order`, orderNumberFirst).Scan(&o.Number)
		if err != nil {
			return fmt.Errorf("number an order: %w", err)
		}
		o.description = describe(o.Number, o.Lines, o.amount, o.Terms)
		_, err = tx.ExecContext(ctx,
			`INSERT INTO shop_order (id, number, lid_m, created_s, state, description, lines, currency, amount, exponent, terms,
			   session, reference, success_url, failure_url, cancel_url, tell, request_key, request_digest)
			 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)`,
			o.ID, o.Number, []byte(o.lidM), o.Created.Unix(), string(o.State), o.description, rawLines,
			int64(o.amount.Currency), int64(o.amount.Amount), o.amount.AmtExp10, string(o.Terms),
			session, o.Reference, o.returns.Success, o.returns.Failure, o.returns.Cancel, flag(r.Tell),
			sql.NullString{String: key, Valid: key != ""}, digest)
		if err != nil {
			return fmt.Errorf("store order %d: %w", o.Number, err)
		}
		made = true
		stored, err = one(ctx, tx, `WHERE o.id = $1`, o.ID)
		return err
	})
	if err != nil {
		return nil, false, err
	}
	return stored, made, nil
}

func flag(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

func (s *Store) orderByKey(ctx context.Context, key string, digest []byte) (o *Order, err error) {
	err = s.db.View(ctx, func(tx *sql.Tx) error {
		o, err = readOrderByKey(ctx, tx, key, digest)
		return err
	})
	return o, err
}

// readOrderByKey gives the order that a request has made, ErrNoOrder, or ErrKeyReused.
func readOrderByKey(ctx context.Context, tx *sql.Tx, key string, digest []byte) (*Order, error) {
	o, err := one(ctx, tx, `WHERE o.request_key = $1`, key)
	if err != nil {
		return nil, err
	}
	var same int64
	err = tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM shop_order WHERE request_key = $1 AND request_digest = $2`, key, digest).Scan(&same)
	if err != nil {
		return nil, fmt.Errorf("compare a request with an earlier one: %w", err)
	}
	if same == 0 {
		return nil, ErrKeyReused
	}
	return o, nil
}

// Initiation makes the message that starts the cardholder's software on an order (SET §8.3). It changes
// nothing. pages are those to come back to where the order has none of its own; the query page shows the order.
func (m *Merchant) Initiation(o *Order, query string, pages ReturnPages) ([]byte, error) {
	terms, err := o.Terms.parse()
	if err != nil {
		return nil, err
	}
	or := func(own, other string) string {
		if own != "" {
			return own
		}
		return other
	}
	message := set.Initiation{
		Kind: set.PaymentInitiation, Versions: []string{"1.0"}, SETURL: m.URL("set"), QueryURL: query,
		SuccessURL: or(o.returns.Success, pages.Success), FailureURL: or(o.returns.Failure, pages.Failure), CancelURL: or(o.returns.Cancel, pages.Cancel),
		LIDM: o.lidM, PurchAmt: &o.amount, Brands: []set.BrandID{set.BrandID(m.Endpoint.SignCert.Brand())},
		InstallRecur: terms, OrderType: "text/plain; charset=utf-8", Order: o.description,
	}
	return message.Encode()
}

// URL makes an absolute address of the shop.
func (m *Merchant) URL(path ...string) string { return m.base.JoinPath(path...).String() }

// Name is the merchant's name as its certificate has it.
func (m *Merchant) Name() string { return m.endpoint().SignCert.Merchant.Names[0].Name }

// OrderFilter chooses orders. The newest come first.
type OrderFilter struct {
	State   OrderState // "" is all
	Session string     // of the customer who ordered; "" is all
	Before  int64      // only numbers lower than this; 0 is all
	Limit   int        // at the most so many; 0 is all
}

// FilterOrders gives the orders that a filter chooses.
func (s *Store) FilterOrders(ctx context.Context, f OrderFilter) (orders []*Order, err error) {
	where, args := "WHERE 1 = 1", []any{}
	add := func(clause string, value any) {
		args = append(args, value)
		where += fmt.Sprintf(clause, len(args))
	}
	if f.State != "" {
		add(" AND o.state = $%d", string(f.State))
	}
	if f.Session != "" {
		add(" AND o.session = $%d", sessionID(f.Session))
	}
	if f.Before != 0 {
		add(" AND o.number < $%d", f.Before)
	}
	where += " ORDER BY o.number DESC"
	if f.Limit != 0 {
		add(" LIMIT $%d", f.Limit)
	}
	err = s.db.View(ctx, func(tx *sql.Tx) error {
		orders, err = selectOrders(ctx, tx, where, args...)
		return err
	})
	return orders, err
}

// Basket is what a customer has chosen and not ordered yet.
type Basket struct {
	Lines   []LineRequest
	Version int64 // changes whenever the basket does; 0 before it is used

	form string // SHA-256 of the one that was sent last
}

// sessionID is how a session is stored, so that whoever reads the database has not the session.
func sessionID(secret string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(secret))) }

// Basket gives the basket of a session, an empty one if nothing was put there.
func (s *Store) Basket(ctx context.Context, session string) (b Basket, err error) {
	err = s.db.View(ctx, func(tx *sql.Tx) error {
		b, err = readBasket(ctx, tx, sessionID(session))
		return err
	})
	return b, err
}

func readBasket(ctx context.Context, tx *sql.Tx, id string) (b Basket, err error) {
	var raw []byte
	err = tx.QueryRowContext(ctx, `SELECT basket, version, last_form FROM shop_session WHERE id = $1`, id).Scan(&raw, &b.Version, &b.form)
	if errors.Is(err, sql.ErrNoRows) {
		return Basket{}, nil
	}
	if err != nil {
		return Basket{}, fmt.Errorf("read a basket: %w", err)
	}
	return b, json.Unmarshal(raw, &b.Lines)
}

// ChangeBasket changes the basket of a session. An error of change leaves it as it was. form names what the
// customer has sent, "" if it may come again: the second of two clicks on the same button changes nothing.
func (s *Store) ChangeBasket(ctx context.Context, now time.Time, session, form string, change func(lines []LineRequest) ([]LineRequest, error)) error {
	id := sessionID(session)
	return s.db.Tx(ctx, func(tx *sql.Tx) error {
		b, err := readBasket(ctx, tx, id)
		if err != nil {
			return err
		}
		if form != "" {
			digest := fmt.Sprintf("%x", sha256.Sum256([]byte(form)))
			if digest == b.form {
				return nil
			}
			b.form = digest
		}
		lines, err := change(b.Lines)
		if err != nil {
			return err
		}
		raw, err := json.Marshal(lines)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO shop_session (id, used_s, basket, version, last_form) VALUES ($1, $2, $3, $4, $5)
			ON CONFLICT (id) DO UPDATE SET used_s = $2, basket = $3, version = $4, last_form = $5`, id, now.Unix(), raw, b.Version+1, b.form)
		if err != nil {
			return fmt.Errorf("store a basket: %w", err)
		}
		return nil
	})
}

// emptyBasket empties a basket that is still in this version, or gives ErrBasketChanged.
func emptyBasket(ctx context.Context, tx *sql.Tx, id string, version int64) error {
	ok, err := changed(tx.ExecContext(ctx, `UPDATE shop_session SET basket = $1, version = version + 1 WHERE id = $2 AND version = $3`, []byte("[]"), id, version))
	if err == nil && !ok {
		err = ErrBasketChanged
	}
	return err
}
