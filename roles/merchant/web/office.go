package web

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/setkit/setkit/roles/merchant"
	"github.com/setkit/setkit/roles/set"
)

const (
	officeCookie  = "office"
	officeRowsMax = 50

	// deedTimeout bounds what a confirmation does; it is not cut short when the browser goes away.
	deedTimeout = 20 * time.Second

	// OfficeTimeout is how long a request of the back office takes at the most.
	OfficeTimeout = deedTimeout + 10*time.Second
)

// Office is the back office: orders, what can be done with them, batches. Its pages are in English or French; why
// the books refuse something, and what a gateway or issuer said, is in English on both, and marked as that. Its
// methods may be called by several goroutines.
type Office struct {
	m         *merchant.Merchant
	pages     *pages
	operators func() ([]Operator, error)
	gate      *gate
	visits    visits
}

// NewOffice makes the back office that operators reach at baseURL, which has no path. operators is called for
// every request, so that who is taken off the list is out at once.
func NewOffice(m *merchant.Merchant, baseURL string, operators func() ([]Operator, error)) (*Office, error) {
	base, err := url.Parse(baseURL)
	if err != nil || base.Scheme != "http" && base.Scheme != "https" || base.Host == "" || base.User != nil || strings.Trim(base.Path, "/") != "" || base.RawQuery != "" {
		return nil, fmt.Errorf("base URL of the back office %q: want an http or https address without path and query", baseURL)
	}
	if _, err := operators(); err != nil {
		return nil, err
	}
	return &Office{
		m: m, pages: newPages("office.html", m.Name(), base, m.Log), operators: operators, gate: newGate(),
		visits: visits{by: make(map[string]*visit)},
	}, nil
}

// Handler serves the back office. Requests for another host, such as those of a page whose name was made to lead
// here, are refused.
func (o *Office) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /live.js", o.pages.serveScript)
	mux.HandleFunc("GET /style.css", o.pages.serveStyle)
	mux.HandleFunc("GET /login", func(w http.ResponseWriter, r *http.Request) {
		alert := ""
		if r.FormValue("over") != "" {
			alert = languageOf(r).say("session-over")
		}
		o.showLogin(w, r, http.StatusOK, alert)
	})
	mux.HandleFunc("POST /login", o.logIn)
	inside := func(pattern string, h func(http.ResponseWriter, *http.Request, *visit)) {
		mux.HandleFunc(pattern, o.inside(h))
	}
	inside("POST /logout", o.logOut)
	inside("GET /{$}", o.showOrders)
	inside("GET /orders/{number}", o.showOrder)
	inside("GET /orders/{number}/{action}", o.askOrder)
	inside("POST /orders/{number}/{action}", o.confirm)
	inside("GET /batch", o.showBatches)
	inside("GET /batch/{action}", o.askBatch)
	inside("POST /batch/{action}", o.confirm)
	inside("GET /batch/report/{id}", o.showReport)
	inside("/", func(w http.ResponseWriter, r *http.Request, v *visit) {
		o.pages.tell(w, r, http.StatusNotFound, "not-found", o.view(v), "")
	})
	guarded := o.pages.guard(mux, func(w http.ResponseWriter, r *http.Request) {
		o.pages.tell(w, r, http.StatusForbidden, "foreign", view{}, "")
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.EqualFold(r.Host, o.pages.base.Host) {
			http.Error(w, "this address is not served here", http.StatusMisdirectedRequest)
			return
		}
		guarded.ServeHTTP(w, r)
	})
}

// inside lets only operators in. What changes something also shows that it comes from a page that was made for
// this operator.
func (o *Office) inside(next func(http.ResponseWriter, *http.Request, *visit)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		operators, err := o.operators()
		if err != nil {
			o.pages.unavailable(w, r, view{}, err)
			return
		}
		var v *visit
		login := o.pages.url("login")
		if c, err := r.Cookie(officeCookie); err == nil {
			v = o.visits.find(o.m.Now(), c.Value, operators)
			login += "?over=1"
		}
		safe := r.Method == http.MethodGet || r.Method == http.MethodHead
		switch {
		case v == nil && safe:
			http.Redirect(w, r, login, http.StatusSeeOther)
		case v == nil:
			o.showLogin(w, r, http.StatusUnauthorized, languageOf(r).say("session-over-undone"))
		case !safe && subtle.ConstantTimeCompare([]byte(r.PostFormValue("csrf")), []byte(v.csrf)) != 1:
			o.pages.tell(w, r, http.StatusForbidden, "foreign", o.view(v), "")
		default:
			next(w, r, v)
		}
	}
}

func (o *Office) view(v *visit) view { return view{Operator: v.operator, CSRF: v.csrf} }

// audit writes down what an operator did.
func (o *Office) audit(operator, did string, args ...any) {
	o.m.Log.Info("back office", append([]any{"operator", operator, "did", did}, args...)...)
}

func (o *Office) showLogin(w http.ResponseWriter, r *http.Request, status int, alert string) {
	o.pages.show(w, r, status, "login", view{Title: languageOf(r).say("log-in"), Data: alert})
}

func (o *Office) logIn(w http.ResponseWriter, r *http.Request) {
	operators, err := o.operators()
	if err != nil {
		o.pages.unavailable(w, r, view{}, err)
		return
	}
	name, password := cleanName(r.PostFormValue("name")), []byte(r.PostFormValue("password"))
	defer clear(password)
	err = o.gate.enter(r.Context(), o.m.Now, operators, name, password)
	known := slices.ContainsFunc(operators, func(op Operator) bool { return op.Name == name })
	if !known {
		name = "unknown" // perhaps a password that was typed into the wrong field
	}
	if wait, ok := errors.AsType[waitError](err); ok {
		o.audit(name, "log in", "outcome", "made to wait", "from", r.RemoteAddr)
		seconds := int(wait.Seconds()) + 1
		w.Header().Set("Retry-After", strconv.Itoa(seconds))
		o.showLogin(w, r, http.StatusTooManyRequests, languageOf(r).say("login-wait", seconds))
		return
	}
	if err != nil {
		o.audit(name, "log in", "outcome", "refused", "from", r.RemoteAddr)
		o.showLogin(w, r, http.StatusUnauthorized, languageOf(r).say("login-wrong"))
		return
	}
	o.audit(name, "log in", "outcome", "done", "from", r.RemoteAddr)
	o.setCookie(w, o.visits.begin(o.m.Now(), name), 0)
	http.Redirect(w, r, o.pages.url(), http.StatusSeeOther)
}

func (o *Office) setCookie(w http.ResponseWriter, value string, maxAge int) {
	http.SetCookie(w, &http.Cookie{
		Name: officeCookie, Value: value, Path: "/", MaxAge: maxAge, HttpOnly: true, Secure: o.pages.secure(), SameSite: http.SameSiteStrictMode,
	})
}

func (o *Office) logOut(w http.ResponseWriter, r *http.Request, v *visit) {
	if c, err := r.Cookie(officeCookie); err == nil {
		o.visits.end(c.Value)
	}
	o.setCookie(w, "", -1)
	o.audit(v.operator, "log out")
	http.Redirect(w, r, o.pages.url("login"), http.StatusSeeOther)
}

func (o *Office) showOrders(w http.ResponseWriter, r *http.Request, v *visit) {
	state := merchant.OrderState(r.FormValue("state"))
	before, err := strconv.ParseInt(r.FormValue("before"), 10, 64)
	if r.FormValue("before") != "" && err != nil || state != "" && !slices.Contains(merchant.OrderStates, state) {
		o.pages.tell(w, r, http.StatusBadRequest, "bad-form", o.view(v), "")
		return
	}
	orders, err := o.m.Store.FilterOrders(r.Context(), merchant.OrderFilter{State: state, Before: before, Limit: officeRowsMax + 1})
	if err != nil {
		o.pages.unavailable(w, r, o.view(v), err)
		return
	}
	data := struct {
		Orders []*merchant.Order
		States []merchant.OrderState
		State  merchant.OrderState
		Next   int64
	}{orders, merchant.OrderStates, state, 0}
	if len(orders) > officeRowsMax {
		data.Orders = orders[:officeRowsMax]
		data.Next = data.Orders[officeRowsMax-1].Number
	}
	page := o.view(v)
	page.Title, page.Here, page.Data = languageOf(r).say("orders"), "orders", data
	o.pages.show(w, r, http.StatusOK, "orders", page)
}

// order finds the order that a request is for, by its number, or answers the request.
func (o *Office) order(w http.ResponseWriter, r *http.Request, v *visit) (*merchant.Order, bool) {
	number, err := strconv.ParseInt(r.PathValue("number"), 10, 64)
	var order *merchant.Order
	if err == nil {
		order, err = o.m.Store.FindOrder(r.Context(), strconv.FormatInt(number, 10))
	} else {
		err = merchant.ErrNoOrder
	}
	switch {
	case errors.Is(err, merchant.ErrNoOrder):
		page, l := o.view(v), languageOf(r)
		page.Title, page.Data = l.say("no-order"), message{l.say("not-found-text"), "", o.pages.url()}
		o.pages.show(w, r, http.StatusNotFound, "message", page)
	case err != nil:
		o.pages.unavailable(w, r, o.view(v), err)
	}
	return order, err == nil
}

// actions are what can be done with an order, as merchant.Payment lists it.
var actions = map[string]struct {
	amount, required, last bool
	most                   func(*merchant.Order) merchant.Money // that makes sense
	do                     func(ctx context.Context, s *merchant.Store, now time.Time, id string, minor int64, last bool) (*merchant.Operation, error)
}{
	"capture": {amount: true, most: uncaptured,
		do: func(ctx context.Context, s *merchant.Store, now time.Time, id string, minor int64, _ bool) (*merchant.Operation, error) {
			return s.Capture(ctx, now, id, minor)
		}},
	"reverse": {amount: true, required: true,
		do: func(ctx context.Context, s *merchant.Store, now time.Time, id string, minor int64, _ bool) (*merchant.Operation, error) {
			return s.Reverse(ctx, now, id, minor)
		}},
	"void": {do: func(ctx context.Context, s *merchant.Store, now time.Time, id string, _ int64, _ bool) (*merchant.Operation, error) {
		return s.Void(ctx, now, id)
	}},
	"refund": {amount: true, most: func(o *merchant.Order) merchant.Money {
		m := o.Payment.CapturedAmount
		m.Minor -= o.Payment.RefundedAmount.Minor
		return m
	}, do: func(ctx context.Context, s *merchant.Store, now time.Time, id string, minor int64, _ bool) (*merchant.Operation, error) {
		return s.Refund(ctx, now, id, minor)
	}},
	"undo-refund": {do: func(ctx context.Context, s *merchant.Store, now time.Time, id string, _ int64, _ bool) (*merchant.Operation, error) {
		return s.UndoRefund(ctx, now, id)
	}},
	"ship": {amount: true, required: true, last: true,
		do: func(ctx context.Context, s *merchant.Store, now time.Time, id string, minor int64, last bool) (*merchant.Operation, error) {
			return s.Ship(ctx, now, id, minor, last)
		}},
	"charge": {do: func(ctx context.Context, s *merchant.Store, now time.Time, id string, _ int64, _ bool) (*merchant.Operation, error) {
		return s.Charge(ctx, now, id)
	}},
}

// uncaptured is what of an order is authorized and can still be captured.
func uncaptured(o *merchant.Order) merchant.Money {
	sum := o.Payment.AuthorizedAmount
	sum.Minor = 0
	for _, a := range o.Payment.Authorizations {
		if a.State == set.StateAuthorized {
			sum.Minor += a.Authorized.Minor
		}
	}
	return sum
}

// happening is a row of the payment's history.
type happening struct {
	At     time.Time
	What   string
	Amount merchant.Money
	Batch  string
	Text   string // in English
}

func happenings(l lang, o *merchant.Order) []happening {
	all := []happening{{At: o.Created, What: l.say("event-ordered"), Amount: o.Amount}}
	if o.Payment == nil {
		return all
	}
	add := func(at time.Time, event string, amount merchant.Money, batch *int64, text string) {
		h := happening{At: at, What: l.say("event-" + event), Amount: amount, Text: text}
		if batch != nil {
			h.Batch = l.say("batch-n", *batch)
		}
		all = append(all, h)
	}
	for _, a := range o.Payment.Authorizations {
		switch {
		case a.At == nil:
		case a.ApprovalCode != "":
			add(*a.At, "authorized", a.Asked, nil, a.ApprovalCode)
		default:
			add(*a.At, "declined", a.Asked, nil, strings.TrimSpace(a.Code+" "+a.Failure))
		}
		if a.CapturedAt != nil {
			add(*a.CapturedAt, "captured", a.Captured, a.Batch, "")
		}
		for _, f := range a.Refunds {
			add(f.At, "refunded", f.Amount, f.Batch, "")
			if f.Undone != nil {
				add(*f.Undone, "undone", f.Amount, nil, "")
			}
		}
	}
	slices.SortStableFunc(all, func(a, b happening) int { return a.At.Compare(b.At) })
	return all
}

func (o *Office) showOrder(w http.ResponseWriter, r *http.Request, v *visit) {
	order, ok := o.order(w, r, v)
	if !ok {
		return
	}
	l := languageOf(r)
	type action struct {
		Name, Hint, Most       string
		Amount, Required, Last bool
	}
	data := struct {
		Order   *merchant.Order
		Lines   []row
		Actions []action
		Events  []happening
	}{Order: order, Lines: rows(order.Lines, order.Amount), Events: happenings(l, order)}
	page := o.view(v)
	if p := order.Payment; p != nil {
		for _, name := range p.Possible {
			a := actions[name]
			most := ""
			if a.most != nil {
				most = a.most(order).String()
			}
			data.Actions = append(data.Actions, action{name, l.say("hint-" + name), most, a.amount, a.required, a.last})
		}
		if p.Pending != "" {
			page.Refresh = refreshSeconds
		}
	}
	page.Title, page.Here, page.Data = l.say("order-n", order.Number), "orders", data
	o.pages.show(w, r, http.StatusOK, "detail", page)
}

// question is a page that asks for confirmation.
type question struct{ Question, Hint, Yes, Target, Back, Once string }

// askOrder asks whether something is to be done with an order. What is confirmed is what was shown: the form
// has no more than the name of the deed.
func (o *Office) askOrder(w http.ResponseWriter, r *http.Request, v *visit) {
	order, ok := o.order(w, r, v)
	if !ok {
		return
	}
	l, name := languageOf(r), r.PathValue("action")
	a, known := actions[name]
	if !known {
		o.pages.tell(w, r, http.StatusNotFound, "not-found", o.view(v), "", "orders", r.PathValue("number"))
		return
	}
	q := question{Question: l.say("ask-all", l.say("action-"+name), order.Number), Hint: l.say("hint-" + name)}
	amount := order.Amount
	amount.Minor = 0
	if a.most != nil && order.Payment != nil {
		amount = a.most(order)
	}
	if text := strings.TrimSpace(r.FormValue("amount")); a.amount && text != "" || a.required {
		var err error
		if amount.Minor, err = order.ParseAmount(strings.Replace(text, ",", ".", 1)); err != nil {
			o.pages.tell(w, r, http.StatusUnprocessableEntity, "bad-amount", o.view(v), "", "orders", r.PathValue("number"))
			return
		}
	}
	if amount.Minor != 0 {
		q.Question = l.say("ask-amount", l.say("action-"+name), l.money(amount), order.Number)
		q.Hint = ""
		if name == "capture" {
			q.Hint = l.say("given-up")
		}
	}
	if name == "void" && order.Payment != nil {
		q.Hint = l.say("void-authorization")
		if order.Payment.CapturedAmount.Minor > 0 {
			q.Hint = l.say("void-capture")
		}
	}
	last := a.last && r.FormValue("last") != ""
	if last {
		q.Hint = l.say("last-shipment") + "."
	}
	back := o.pages.url("orders", strconv.FormatInt(order.Number, 10))
	q.Yes, q.Back, q.Target = l.say("action-"+name), back, o.pages.url("orders", r.PathValue("number"), name)
	q.Once = v.ask(r.URL.Path, func() (string, error) {
		ctx, cancel := context.WithTimeout(context.Background(), deedTimeout)
		defer cancel()
		op, err := a.do(ctx, o.m.Store, o.m.Now(), order.ID, amount.Minor, last)
		o.auditDeed(v, name, op, err, "order", order.Number, "minor", amount.Minor)
		return back, err
	})
	o.ask(w, r, v, q)
}

func (o *Office) ask(w http.ResponseWriter, r *http.Request, v *visit, q question) {
	page := o.view(v)
	page.Title, page.Data = q.Yes, q
	o.pages.show(w, r, http.StatusOK, "confirm", page)
}

func (o *Office) auditDeed(v *visit, did string, op *merchant.Operation, err error, args ...any) {
	if err != nil {
		args = append(args, "outcome", "refused", "reason", err.Error())
	} else {
		args = append(args, "outcome", "begun", "operation", op.ID)
	}
	o.audit(v.operator, did, args...)
}

// confirm does what an operator was asked about, once: a second click leads where the first one did.
func (o *Office) confirm(w http.ResponseWriter, r *http.Request, v *visit) {
	back := []string{"batch"}
	if number := r.PathValue("number"); number != "" {
		back = []string{"orders", number}
	}
	d, ok := v.confirmed(r.URL.Path, r.PostFormValue("once"))
	if !ok {
		o.pages.tell(w, r, http.StatusConflict, "form-old", o.view(v), "", back...)
		return
	}
	result, err := d.done()
	refusal, refused := errors.AsType[*merchant.OrderError](err)
	switch {
	case refused:
		o.pages.tell(w, r, http.StatusConflict, "not-done", o.view(v), refusal.Reason, back...)
	case errors.Is(err, merchant.ErrRequestsUnderWay):
		page, l := o.view(v), languageOf(r)
		page.Title, page.Data = l.say("not-done"), message{l.say("batch-refused"), err.Error(), o.pages.url(back...)}
		o.pages.show(w, r, http.StatusConflict, "message", page)
	case err != nil:
		o.pages.unavailable(w, r, o.view(v), err)
	default:
		http.Redirect(w, r, result, http.StatusSeeOther)
	}
}

// batchActions are what the back office does with batches. Purging is left to the command.
var batchActions = []merchant.BatchOperation{merchant.BatchShow, merchant.BatchOpen, merchant.BatchClose}

func (o *Office) showBatches(w http.ResponseWriter, r *http.Request, v *visit) {
	l := languageOf(r)
	type action struct {
		Name, Title, Hint string
		Required          bool
	}
	var data []action
	for _, op := range batchActions {
		data = append(data, action{string(op), "batch-" + string(op), l.say("hint-batch-" + string(op)), op == merchant.BatchClose})
	}
	page := o.view(v)
	page.Title, page.Here, page.Data = l.say("batches"), "batch", data
	o.pages.show(w, r, http.StatusOK, "batches", page)
}

func (o *Office) askBatch(w http.ResponseWriter, r *http.Request, v *visit) {
	l, op := languageOf(r), merchant.BatchOperation(r.PathValue("action"))
	if !slices.Contains(batchActions, op) {
		o.pages.tell(w, r, http.StatusNotFound, "not-found", o.view(v), "", "batch")
		return
	}
	title := l.say("action-batch-" + string(op))
	query := merchant.BatchQuery{Operation: op}
	q := question{
		Question: l.say("ask-no-batch", title), Hint: l.say("hint-batch-" + string(op)), Yes: title,
		Target: o.pages.url("batch", string(op)), Back: o.pages.url("batch"),
	}
	if text := strings.TrimSpace(r.FormValue("batch")); text != "" || op == merchant.BatchClose {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n < 0 {
			page := o.view(v)
			page.Title, page.Data = l.say("bad-form"), message{l.say("batch-number-bad"), "", o.pages.url("batch")}
			o.pages.show(w, r, http.StatusUnprocessableEntity, "message", page)
			return
		}
		query.Batch = &n
		q.Question = l.say("ask-batch", title, n)
	}
	q.Once = v.ask(r.URL.Path, func() (string, error) {
		ctx, cancel := context.WithTimeout(context.Background(), deedTimeout)
		defer cancel()
		asked, err := o.m.Store.AskBatch(ctx, o.m.Now(), query)
		args := []any{}
		if query.Batch != nil {
			args = append(args, "batch", *query.Batch)
		}
		o.auditDeed(v, "batch "+string(op), asked, err, args...)
		if err != nil {
			return "", err
		}
		return o.pages.url("batch", "report", asked.ID), nil
	})
	o.ask(w, r, v, q)
}

// showReport shows what a gateway said of a batch.
func (o *Office) showReport(w http.ResponseWriter, r *http.Request, v *visit) {
	op, err := o.m.Store.Operation(r.Context(), r.PathValue("id"))
	switch {
	case errors.Is(err, merchant.ErrNoOperation) || err == nil && op.Kind != merchant.KindBatch:
		o.pages.tell(w, r, http.StatusNotFound, "not-found", o.view(v), "", "batch")
		return
	case err != nil:
		o.pages.unavailable(w, r, o.view(v), err)
		return
	case op.Next != "":
		http.Redirect(w, r, o.pages.url("batch", "report", op.Next), http.StatusSeeOther)
		return
	}
	page := o.view(v)
	if op.State == merchant.OperationPending {
		page.Refresh = refreshSeconds
	}
	page.Title, page.Here, page.Data = languageOf(r).say("batches"), "batch", op
	o.pages.show(w, r, http.StatusOK, "report", page)
}
