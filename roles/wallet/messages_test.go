package wallet_test

import (
	"bytes"
	"database/sql"
	"errors"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	_ "modernc.org/sqlite"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/wallet"
	"github.com/setkit/setkit/roles/wallet/wallettest"
)

// kept gives the types of the messages that the wallet has of its latest purchase. The octets of each are
// those that passed, and their times do not go back.
func (s *scene) kept(t *testing.T) (types []string) {
	t.Helper()
	list, err := s.wallet.Purchases(t.Context(), 1)
	if err != nil || len(list) != 1 {
		t.Fatalf("history %v, %v", list, err)
	}
	messages, err := s.wallet.Messages(t.Context(), list[0].XID)
	if err != nil {
		t.Fatal(err)
	}
	last := messages[0].At
	for _, m := range messages {
		if m.At.Before(last) {
			t.Errorf("message of %v after one of %v", m.At, last)
		}
		last = m.At
		if i, err := set.ParseInitiation(m.Octets); err == nil {
			if diff := cmp.Diff(s.shop.Initiation(), i); diff != "" || m.Sent {
				t.Errorf("initiation message, sent %v (-want +got):\n%s", m.Sent, diff)
			}
			types = append(types, "initiation")
			continue
		}
		w, err := set.Decode(m.Octets)
		if err != nil {
			t.Fatal(err)
		}
		typ := w.Message.Type()
		types = append(types, typ.String())
		if sent := typ == set.PInitReqType || typ == set.PReqType || typ == set.InqReqType; m.Sent != sent {
			t.Errorf("%v: sent %v", typ, m.Sent)
		}
		passed := append(s.shop.Payments(), s.wire...) // only answered ones are on the wire's record
		if !slices.ContainsFunc(passed, func(b []byte) bool { return bytes.Equal(b, m.Octets) }) {
			t.Errorf("%v is not what was on the wire", typ)
		}
	}
	return types
}

func TestMessages(t *testing.T) {
	t.Parallel()
	begun := []string{"initiation", "PInitReq", "PInitRes"}
	for name, c := range map[string]struct {
		behaviour wallettest.Behaviour
		card      error
		want      []string
	}{
		"answered at once":    {want: []string{"PReq", "PRes"}},
		"decided later":       {behaviour: wallettest.Behaviour{Pending: 3}, want: []string{"PReq", "PRes", "InqReq", "InqRes"}},
		"never answered":      {behaviour: wallettest.Behaviour{Silent: true}, want: []string{"PReq"}},
		"answered by garbage": {behaviour: wallettest.Behaviour{Garbage: true}, want: []string{"PReq", "InqReq", "InqRes"}},
		"never sent":          {card: wallet.ErrSignatureLost},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t)
			s.enrol(t)
			s.shop.Behave(c.behaviour)
			s.person.card.failing = c.card
			s.pay(t) // however it ends
			if diff := cmp.Diff(append(slices.Clone(begun), c.want...), s.kept(t)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			s.checkSecrecy(t)
		})
	}
}

// Of many inquiries the last one is kept.
func TestMessagesOfLastInquiry(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.enrol(t)
	p := s.wantOutcome(t, wallet.Approved, "approved")
	for range 3 {
		if _, err := s.wallet.Inquire(t.Context(), p.XID, s.person); err != nil {
			t.Fatal(err)
		}
	}
	messages, err := s.wallet.Messages(t.Context(), p.XID)
	if err != nil || len(messages) != 7 {
		t.Fatalf("%d messages, %v", len(messages), err)
	}
	if got := messages[5:]; !bytes.Equal(got[0].Octets, s.wire[len(s.wire)-2]) || !bytes.Equal(got[1].Octets, s.wire[len(s.wire)-1]) {
		t.Error("the inquiry that is kept is not the last one")
	}
	if _, err := s.wallet.Messages(t.Context(), set.XID{1}); !errors.Is(err, wallet.ErrUnknownPurchase) {
		t.Errorf("of no purchase: %v", err)
	}
}

// What a wallet of the time before had of a purchase, payment and last answer, it still has; a payment that
// was not answered then is sent now.
func TestMessagesOfEarlierVersion(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.enrol(t)
	p := s.wantOutcome(t, wallet.Approved, "approved")
	answer := s.wire[len(s.wire)-1]
	s.shop.NewOrder()
	s.shop.Behave(wallettest.Behaviour{Deaf: true})
	unsettled, _ := s.pay(t)
	s.wallet.Close()
	db, err := sql.Open("sqlite", filepath.Join(s.dir, "wallet.db"))
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range []string{
		`ALTER TABLE purchase ADD COLUMN preq BYTEA NOT NULL DEFAULT x''`, `ALTER TABLE purchase ADD COLUMN result BYTEA NOT NULL DEFAULT x''`,
		`UPDATE purchase SET preq = (SELECT octets FROM message m WHERE m.xid = purchase.xid AND place = 4)`,
		`UPDATE purchase SET result = COALESCE((SELECT octets FROM message m WHERE m.xid = purchase.xid AND place = 5), x'')`,
		`DROP TABLE message`, `DROP TABLE certificate`, `DELETE FROM schema_version WHERE version_id >= 5`,
	} {
		if _, err := db.Exec(q); err != nil {
			t.Fatalf("%s: %v", q, err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	s.open(t)
	messages, err := s.wallet.Messages(t.Context(), p.XID)
	if err != nil || len(messages) != 2 || !messages[0].Sent || !bytes.Equal(messages[0].Octets, s.shop.Payments()[0]) || !bytes.Equal(messages[1].Octets, answer) {
		t.Errorf("%d messages, %v", len(messages), err)
	}
	s.shop.Behave(wallettest.Behaviour{})
	settled, err := s.wallet.Inquire(t.Context(), unsettled.XID, s.person)
	if err != nil || settled.Outcome != wallet.Approved || len(s.shop.Payments()) != 2 {
		t.Errorf("%+v, %v, %d payments", settled, err, len(s.shop.Payments()))
	}
}
