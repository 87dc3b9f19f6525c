package web

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"slices"
	"sync"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/wallet"
)

// state is how far a task is.
type state int

const (
	waiting state = iota // nobody has looked at it yet
	running
	over
)

// task is something that takes its time and asks questions: a payment, an inquiry, an enrolment.
type task struct {
	window  *Window
	id      string
	key     [sha256.Size]byte // what it was made for
	run     func(context.Context, *task)
	kind    string // "pay", "inquire", "enrol", "renew", "install", "pin" or, for a PIN with the PUK, "puk"
	shop    *set.Initiation
	xid     set.XID // of an inquiry; of a payment, once it was sent
	resumed bool    // the order was paid before
	reader  string  // where the card is that a run of the task works with

	language set.Language // of who looked first
	ctx      context.Context
	cancel   context.CancelCauseFunc

	mu      sync.Mutex
	at      state
	view    view
	nonce   string    // of the question on the page
	answers chan form // to it; nil when there is none
	lost    *Problem  // a card that is waited for
	pin     []byte    // typed, and not used yet
	lastTry bool      // may be used
}

// view is what the page of a task shows.
type view struct {
	Step    string // which template
	Stage   int    // of a payment, from 0
	Data    any
	Problem *Problem // of the attempt before
	Cancel  bool     // it can be cancelled
}

// newTask makes a task that is not started. The window's lock is held.
func (w *Window) newTask(kind string, key [sha256.Size]byte) *task {
	if len(w.tasks) >= taskMax {
		if i := slices.IndexFunc(w.tasks, func(t *task) bool { return t.state() != running }); i >= 0 {
			w.tasks = slices.Delete(w.tasks, i, i+1)
		}
	}
	ctx, cancel := context.WithCancelCause(w.ctx)
	t := &task{window: w, id: rand.Text(), key: key, kind: kind, ctx: ctx, cancel: cancel, view: view{Step: "working"}}
	w.tasks = append(w.tasks, t)
	return t
}

// taskOf gives the task that was made for something and is not over, or lets a new one be set up.
func (w *Window) taskOf(key [sha256.Size]byte, setUp func(*task)) *task {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, t := range w.tasks {
		if t.key == key && t.state() != over {
			return t
		}
	}
	t := w.newTask("", key)
	setUp(t)
	return t
}

func (w *Window) task(id string) *task {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, t := range w.tasks {
		if t.id == id {
			return t
		}
	}
	return nil
}

func (t *task) state() state {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.at
}

// busy says if the task does something, or has to see to something.
func (t *task) busy() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.at == running && !t.view.Cancel
}

// start starts the task, once.
func (t *task) start(language set.Language) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.at != waiting || t.window.ctx.Err() != nil {
		return
	}
	t.at, t.language = running, language
	run := t.run
	t.window.work.Go(func() {
		run(t.ctx, t)
		t.cancel(nil)
		t.mu.Lock()
		t.at, t.answers, t.lost, t.run = over, nil, nil, nil
		t.dropPIN()
		t.mu.Unlock()
		t.window.bump()
	})
}

func (t *task) wallet() *wallet.Wallet { return t.window.cfg.Wallets[t.language] }

// show puts something on the page that asks nothing.
func (t *task) show(v view) {
	t.mu.Lock()
	t.view, t.nonce, t.answers = v, rand.Text(), nil
	t.mu.Unlock()
	t.window.bump()
}

// ask puts a question on the page and waits for the answer, which the caller clears.
func (t *task) ask(ctx context.Context, v view) (form, error) {
	answers := make(chan form, 1)
	t.mu.Lock()
	t.view, t.nonce, t.answers = v, rand.Text(), answers
	t.mu.Unlock()
	t.window.bump()
	select {
	case f := <-answers:
		return f, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// await shows something until a channel is closed.
func (t *task) await(ctx context.Context, v view, until <-chan struct{}) error {
	t.show(v)
	select {
	case <-until:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// answer takes what a page of the task sent. What answers another question than the one that is asked
// now changes nothing.
func (t *task) answer(f form) {
	t.mu.Lock()
	defer t.mu.Unlock()
	stale := t.at != running || !equal(t.nonce, f.text("nonce"))
	switch {
	case stale:
	case f.text("do") == "cancel" && (t.view.Cancel || t.lost != nil):
		t.cancel(wallet.ErrCancelled)
	case f.text("do") == "go" && t.answers != nil:
		t.answers <- f
		t.view = view{Step: "working", Stage: t.view.Stage}
		t.answers, t.nonce = nil, rand.Text()
		return
	}
	f.clear()
}

// snapshot is what a page shows of the task.
type snapshot struct {
	view
	ID, Kind, Nonce string
	State           state
	Lost            *Problem
	Shop            *set.Initiation
	XID             set.XID
	Resumed         bool
}

// Pays says if the task is about a payment.
func (s snapshot) Pays() bool { return s.Kind == "pay" || s.Kind == "inquire" }

// CardIsOut says if the card that is waited for has to be put back, and nothing else is in the way.
func (s snapshot) CardIsOut() bool {
	return !slices.Contains([]Topic{TopicNoService, TopicDenied, TopicNoReader, TopicInUse}, s.Lost.Topic)
}

// AtCards says if the page of the cards has what helps.
func (s snapshot) AtCards() bool {
	return s.Problem != nil && slices.Contains([]Topic{TopicBlocked, TopicNoBank, TopicNotEnrolled, TopicKeyReplaced, TopicVault, TopicNoRequest}, s.Problem.Topic)
}

func (t *task) snapshot() snapshot {
	t.mu.Lock()
	defer t.mu.Unlock()
	return snapshot{t.view, t.id, t.kind, t.nonce, t.at, t.lost, t.shop, t.xid, t.resumed}
}

// Person, for the devices.

var _ Person = (*task)(nil)

// PIN gives the PIN that came with the consent, or asks for it.
func (t *task) PIN(ctx context.Context, serial string, triesLeft int) ([]byte, error) {
	t.mu.Lock()
	pin, v := t.pin, t.view
	t.pin = nil
	t.mu.Unlock()
	if pin != nil {
		return pin, nil
	}
	f, err := t.ask(ctx, view{Step: "pin", Stage: v.Stage, Data: cardPIN{serial, triesLeft}, Problem: t.takeNotice(), Cancel: true})
	if err != nil {
		return nil, err
	}
	defer f.clear()
	return f.take("pin"), nil
}

// cardPIN is what a question for a PIN shows.
type cardPIN struct {
	Serial string
	Tries  int
}

// newPIN is what a question for a new PIN shows.
type newPIN struct {
	cardPIN
	Differ bool // the new PIN was not the same twice
}

// NewPIN asks until the new PIN is the same twice.
func (t *task) NewPIN(ctx context.Context, serial string, triesLeft int) (proof, pin []byte, err error) {
	v := view{Step: "newpin", Problem: t.takeNotice(), Cancel: true}
	for data := (newPIN{cardPIN: cardPIN{serial, triesLeft}}); ; data.Differ = true {
		v.Data = data
		f, err := t.ask(ctx, v)
		if err != nil {
			return nil, nil, err
		}
		if bytes.Equal(f["new"], f["again"]) {
			defer f.clear()
			return f.take("pin"), f.take("new"), nil
		}
		f.clear()
		v.Problem = nil
	}
}

// takeNotice gives the problem that the page shows, to be kept on the next one.
func (t *task) takeNotice() *Problem {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.view.Problem
}

// Pad says where the PIN is to be entered.
func (t *task) Pad(serial string) {
	t.mu.Lock()
	stage, problem := t.view.Stage, t.view.Problem
	t.mu.Unlock()
	t.show(view{Step: "pad", Stage: stage, Data: cardPIN{Serial: serial, Tries: -1}, Problem: problem})
}

// LastTry asks once.
func (t *task) LastTry(ctx context.Context, serial string) error {
	t.mu.Lock()
	known, stage := t.lastTry, t.view.Stage
	t.mu.Unlock()
	if known {
		return nil
	}
	f, err := t.ask(ctx, view{Step: "lasttry", Stage: stage, Data: cardPIN{serial, 1}, Cancel: true})
	if err != nil {
		return err
	}
	f.clear()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lastTry = true
	return nil
}

// Lost shows that a card is waited for, whatever else the page shows.
func (t *task) Lost(p *Problem) {
	t.mu.Lock()
	t.lost = p
	t.mu.Unlock()
	t.window.bump()
}

// Notice shows a problem with what the page shows.
func (t *task) Notice(p Problem) {
	t.mu.Lock()
	t.view.Problem = &p
	t.mu.Unlock()
	t.window.bump()
}

func (t *task) keepPIN(pin []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.dropPIN()
	t.pin = pin
}

func (t *task) dropPIN() {
	clear(t.pin)
	t.pin = nil
}

// stage shows how far a payment is, while nothing is asked.
func (t *task) stage(n int) { t.show(view{Step: "working", Stage: n}) }
