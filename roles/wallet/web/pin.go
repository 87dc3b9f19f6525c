package web

import (
	"context"
	"crypto/sha256"

	"github.com/setkit/setkit/roles/set"
)

// startPIN gives the task of setting a PIN; its kind is "pin", or "puk" to unblock the card.
func (w *Window) startPIN(kind string, language set.Language) *task {
	t := w.taskOf(sha256.Sum256([]byte(kind)), func(t *task) {
		t.kind, t.run = kind, func(ctx context.Context, t *task) {
			for t.finish(ctx, t.setPIN(ctx)) {
			}
		}
	})
	t.start(language)
	return t
}

// setPIN sets the PIN of the card that is there, until what proves the right to is right.
func (t *task) setPIN(ctx context.Context) error {
	for {
		var serial string
		err := t.atReader(ctx, func(Reader) bool { return true }, func(reader string) (err error) {
			serial, err = t.window.cfg.Devices.SetPIN(ctx, reader, t.kind == "puk", t)
			return err
		})
		if err == nil {
			t.show(view{Step: "pinset", Data: cardPIN{Serial: serial}})
			return nil
		}
		switch p := t.window.explain(err); p.Topic {
		case TopicWrongPIN, TopicWrongPUK, TopicPINFormat:
			t.show(view{Step: "working", Problem: &p}) // the next question keeps it
		default:
			return err
		}
	}
}
