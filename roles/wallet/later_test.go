package wallet_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/pki"
	"github.com/setkit/setkit/roles/wallet"
)

// A request that the CA keeps waiting is asked about later, by another process with the same smart card.
func TestContinue(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	if _, err := s.wallet.Continue(t.Context(), s.person.card); !errors.Is(err, wallet.ErrNothingPending) {
		t.Errorf("before anything: %v", err)
	}
	s.ca.Pend(true)
	waits := func(err error) bool {
		var status *set.CertStatusError
		return errors.As(err, &status) && status.Pending() && status.Message == "Later."
	}
	if _, err := s.wallet.Enrol(t.Context(), s.enrolment(), s.person.card, s.person); !waits(err) {
		t.Fatalf("got %v", err)
	}
	s.open(t)
	list, err := s.wallet.Waiting(t.Context())
	if err != nil || len(list) != 1 || list[0].Serial != s.person.card.Serial() || time.Since(list[0].Sent) > time.Hour {
		t.Errorf("waiting: %+v, %v", list, err)
	}
	if _, err := s.wallet.Continue(t.Context(), s.person.card); !waits(err) {
		t.Errorf("still waiting: %v", err)
	}
	if _, err := s.wallet.Continue(t.Context(), newSoftCard(t, "2002")); !errors.Is(err, wallet.ErrNothingPending) {
		t.Errorf("another smart card: %v", err)
	}
	other := newSoftCard(t, "1001")
	if _, err := s.wallet.Continue(t.Context(), other); err == nil {
		t.Error("another smart card with the serial number opened what was kept")
	}
	// What is kept is closed to all others.
	for _, name := range []string{"wallet.db", "wallet.db-wal"} {
		b, err := os.ReadFile(filepath.Join(s.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(b, []byte(testPAN)) || bytes.Contains(b, []byte(testExpiry)) {
			t.Errorf("card number or expiry in %s", name)
		}
	}
	s.ca.Pend(false)
	c, err := s.wallet.Continue(t.Context(), s.person.card)
	if err != nil || c.Masked() != "**** 1111" || c.Message != "Welcome." {
		t.Fatalf("got %+v, %v", c, err)
	}
	if _, err := s.wallet.Continue(t.Context(), s.person.card); !errors.Is(err, wallet.ErrNothingPending) {
		t.Errorf("afterwards: %v", err)
	}
	if list, err := s.wallet.Waiting(t.Context()); err != nil || len(list) > 0 {
		t.Errorf("waiting afterwards: %+v, %v", list, err)
	}
	s.wantOutcome(t, wallet.Approved, "approved")
}

// The answer to the request is lost: no new key is needed.
func TestAnswerLost(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.ca.LoseAnswers(true)
	if _, err := s.wallet.Enrol(t.Context(), s.enrolment(), s.person.card, s.person); err == nil || !strings.Contains(err.Error(), "ask what became of the request") {
		t.Fatalf("got %v", err)
	}
	s.ca.LoseAnswers(false)
	if _, err := s.wallet.Continue(t.Context(), s.person.card); err != nil {
		t.Fatal(err)
	}
	s.wantOutcome(t, wallet.Approved, "approved")
}

// A request that is refused after all, or that the CA does not know, is over.
func TestContinueRefused(t *testing.T) {
	t.Parallel()
	for name, refuse := range map[string]func(*scene){
		"rejected":  func(s *scene) { s.ca.Refuse(&set.CertStatusError{Code: set.RejectedByCA, Message: "No."}) },
		"forgotten": func(s *scene) { s.ca.Forget() },
	} {
		s := newScene(t)
		s.ca.Pend(true)
		if _, err := s.wallet.Enrol(t.Context(), s.enrolment(), s.person.card, s.person); err == nil {
			t.Fatal("enrolled")
		}
		refuse(s)
		if _, err := s.wallet.Continue(t.Context(), s.person.card); err == nil || errors.Is(err, wallet.ErrNothingPending) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := s.wallet.Continue(t.Context(), s.person.card); !errors.Is(err, wallet.ErrNothingPending) {
			t.Errorf("%s, asked again: %v", name, err)
		}
	}
}

// The old smart card confirms the new one.
func TestRenew(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	c := s.enrol(t)
	old, next := s.person.card, newSoftCard(t, "2002")
	if _, err := s.wallet.Renew(t.Context(), c, next, nil, next, s.person); err == nil {
		t.Error("renewed by a smart card that is not the enrolled one")
	}
	s.now = time.Now().Add(time.Minute) // the newer card is chosen first
	renewed, err := s.wallet.Renew(t.Context(), c, old, nil, next, s.person)
	if err != nil {
		t.Fatal(err)
	}
	if renewed.Serial != "2002" || renewed.Masked() != c.Masked() || !s.ca.Renewed().X509.Equal(c.Certificate.X509) {
		t.Errorf("renewed %+v, which replaces %v", renewed, s.ca.Renewed())
	}
	s.person.card = next
	s.wantOutcome(t, wallet.Approved, "approved")
}

// A gateway that is revoked is paid no more, once the day's lists tell it; and what the wallet has learnt it
// does not forget.
func TestRevokedGateway(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.enrol(t)
	s.wantOutcome(t, wallet.Approved, "approved")
	gateway := s.person.offer.GatewayCert
	pca, _ := s.world.Authority(pki.PCA)
	s.ca.Trust(s.world.Revoke(t, 1, gateway), pca)
	s.shop.NewOrder()
	s.wantOutcome(t, wallet.Approved, "approved") // the CA was asked today
	cards, err := s.wallet.Cards(t.Context())
	if err != nil || len(cards) != 1 {
		t.Fatal(err)
	}
	if err := s.wallet.Refresh(t.Context(), cards[0]); err != nil {
		t.Fatal(err)
	}
	s.open(t)
	s.shop.NewOrder()
	var refused *set.ProtocolError
	if _, err := s.pay(t); !errors.As(err, &refused) || refused.Code != set.RevokedCertificate {
		t.Errorf("got %v, want revokedCertificate", err)
	}
}

// Lists of more than a day are asked for before a payment.
func TestListsAreRefreshed(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.enrol(t)
	asked := func() (n int) {
		for _, b := range s.wire {
			if m, err := set.Decode(b); err == nil && m.Message.CardCInitReq != nil {
				n++
			}
		}
		return n
	}
	s.wantOutcome(t, wallet.Approved, "approved")
	if n := asked(); n != 1 {
		t.Errorf("asked %d times within a day, want once, for the enrolment", n)
	}
	s.now = time.Now().Add(25 * time.Hour) // which the peers' clocks do not agree with
	s.shop.NewOrder()
	if _, err := s.pay(t); err == nil {
		t.Error("paid tomorrow")
	}
	if n := asked(); n != 2 {
		t.Errorf("asked %d times until the next day, want twice", n)
	}
	s.now = time.Time{}
	s.wantOutcome(t, wallet.Approved, "approved") // that the CA was asked in vain is no reason not to pay
}

// Certificates that a merchant has sent are not sent again, by another one or after a restart, as long as they are good.
func TestCertificatesAreSentOnce(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.enrol(t)
	offered := func() []byte {
		t.Helper()
		s.wantOutcome(t, wallet.Approved, "approved")
		s.shop.NewOrder()
		for i := len(s.wire) - 1; ; i-- {
			if m, err := set.Decode(s.wire[i]); err == nil && m.Message.PInitRes != nil {
				return s.wire[i]
			}
		}
	}
	first := offered()
	gateway := s.person.offer.GatewayCert.X509.Raw
	if !bytes.Contains(first, gateway) {
		t.Fatal("the first offer brings no certificate of the gateway")
	}
	s.open(t)
	second := offered()
	if bytes.Contains(second, gateway) || bytes.Contains(second, s.world.Chain(pki.PCA)[0].X509.Raw) {
		t.Error("the certificate of the gateway, or of the CA above it, is sent again")
	}
	if !bytes.Equal(s.person.offer.GatewayCert.X509.Raw, gateway) {
		t.Error("the second payment is for another gateway")
	}
}

// What a merchant learns of revocation between its offer and its answer, the wallet learns from the answer, and does
// not forget.
func TestListsFromAnswers(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.enrol(t)
	before := s.world.Endpoint(t).Verifier
	s.person.approving = func() { s.shop.Trust(s.world.Revoke(t, 1, s.gateway(t))) }
	s.wantOutcome(t, wallet.Approved, "approved")
	s.person.approving = nil
	s.open(t)
	s.shop.Trust(before)
	s.wantRevoked(t)
}

// A shop that offers a gateway, and knows that it is revoked, is told from its own words.
func TestOfferOfTheRevoked(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.enrol(t)
	s.wantOutcome(t, wallet.Approved, "approved")
	s.shop.Trust(s.world.Revoke(t, 1, s.gateway(t)))
	s.wantRevoked(t)
}

// wantRevoked wants the next order not to be paid.
func (s *scene) wantRevoked(t *testing.T) {
	t.Helper()
	s.shop.NewOrder()
	var refused *set.ProtocolError
	if _, err := s.pay(t); !errors.As(err, &refused) || refused.Code != set.RevokedCertificate {
		t.Errorf("got %v, want revokedCertificate", err)
	}
}

// gateway is the certificate that the shop offered last.
func (s *scene) gateway(t *testing.T) *pki.Certificate {
	t.Helper()
	for _, b := range slices.Backward(s.wire) {
		m, err := set.Decode(b)
		if err != nil || m.Message.PInitRes == nil {
			continue
		}
		sd, err := cms.ParseSigned(cms.ContentInfo(*m.Message.PInitRes), set.ContentPInitResData)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range sd.Certificates {
			if cert, err := pki.ParseCertificate(c.Raw); err == nil && cert.Type == pki.Pgwy {
				return cert
			}
		}
	}
	t.Fatal("no gateway was offered")
	return nil
}
