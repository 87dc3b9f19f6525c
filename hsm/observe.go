package hsm

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/miekg/pkcs11"
)

// Call is one call of a token, as an [Observer] sees it. A call that is repeated, or that goes to
// another token of its [Group], is seen every time.
type Call struct {
	Token     string // label
	Key       string // label; empty where there is no key
	KeyID     string // CKA_ID in hexadecimal
	Shared    bool   // the key is that of a [Group]
	Purpose   Purpose
	Operation string        // sign, decrypt, mac, seal, open, ecdh ...; empty for administration
	Code      string        // of PKCS#11, such as CKR_DEVICE_ERROR; empty for none
	Err       error         // nil if the call succeeded
	Queued    time.Duration // waiting for its turn
	Took      time.Duration // inside the library
}

// Observer is told what happens on all tokens of the process. Its functions are called by many
// goroutines at once, and must be quick; each may be nil.
type Observer struct {
	Call func(Call)
	Lost func(token string, err error)            // a device was lost; calls wait
	Back func(token string, outage time.Duration) // it is back
}

var observer atomic.Pointer[Observer]

// Observe makes o the process's observer, in place of the one before.
func Observe(o Observer) { observer.Store(&o) }

func (t *token) report(c call, err error, queued, took time.Duration) {
	o := observer.Load()
	if o == nil || o.Call == nil {
		return
	}
	seen := Call{Token: t.info.Label, Operation: c.operation, Err: err, Queued: queued, Took: took}
	if c.key != nil {
		seen.Key, seen.KeyID, seen.Purpose, seen.Shared = c.key.Label, c.key.ID, c.key.Purpose, c.shared
	}
	if code := codeOf(err); err != nil && code != pkcs11.CKR_OK {
		seen.Code = codeName(code)
	}
	o.Call(seen)
}

func observeLost(token string, err error) {
	if o := observer.Load(); o != nil && o.Lost != nil {
		o.Lost(token, err)
	}
}

func observeBack(token string, outage time.Duration) {
	if o := observer.Load(); o != nil && o.Back != nil {
		o.Back(token, outage)
	}
}

// Ready returns nil if the token can be used, and otherwise an error that says why not. It asks the
// token.
func (t *Token) Ready(ctx context.Context) error {
	_, err := t.call(ctx, call{operation: "ready", tries: triesMax}, func(lib *pkcs11.Ctx, sh pkcs11.SessionHandle) error {
		if !t.loggedIn(sh) {
			return &lostError{err: errors.New("the login is lost"), giveUp: true}
		}
		info, err := lib.GetTokenInfo(t.slot)
		if err == nil && (info.SerialNumber != t.info.Serial || info.Label != t.info.Label) {
			err = &lostError{err: errors.New("another token is in the slot"), giveUp: true}
		}
		return named("C_GetTokenInfo", err)
	})
	if err != nil {
		return t.fail("not ready", err)
	}
	return nil
}
