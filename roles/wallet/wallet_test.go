package wallet_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/settest"
	"github.com/setkit/setkit/roles/sethttp"
	"github.com/setkit/setkit/roles/wallet"
	"github.com/setkit/setkit/roles/wallet/wallettest"
)

const (
	testPAN    = "4111111111111111"
	testExpiry = "209911" // no time of day or date has these digits
	testSecret = "correct horse"
)

// softCard is a smart card in software.
type softCard struct {
	serial    string
	signer    crypto.Signer
	decrypter crypto.Decrypter
	signed    int
	failing   error // of both keys
}

func newSoftCard(t *testing.T, serial string) *softCard {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &softCard{serial: serial, signer: key, decrypter: settest.RSAKey(t)}
}

func (c *softCard) Serial() string              { return c.serial }
func (c *softCard) Signer() crypto.Signer       { return softSigner{c} }
func (c *softCard) Decrypter() crypto.Decrypter { return softDecrypter{c} }
func (c *softCard) Hold(f func() error) error   { return f() }

type softSigner struct{ c *softCard }

func (s softSigner) Public() crypto.PublicKey { return s.c.signer.Public() }
func (s softSigner) Sign(r io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if s.c.failing != nil {
		return nil, s.c.failing
	}
	s.c.signed++
	return s.c.signer.Sign(r, digest, opts)
}

type softDecrypter struct{ c *softCard }

func (d softDecrypter) Public() crypto.PublicKey { return d.c.decrypter.Public() }
func (d softDecrypter) Decrypt(r io.Reader, msg []byte, opts crypto.DecrypterOpts) ([]byte, error) {
	if d.c.failing != nil {
		return nil, d.c.failing
	}
	return d.c.decrypter.Decrypt(r, msg, opts)
}

// person answers everything that a wallet asks.
type person struct {
	card      *softCard
	refuses   bool
	policy    string
	fields    []wallet.Field
	offer     *wallet.Offer
	chosen    int
	approved  int
	answers   map[string]string
	approving func()
}

func (p *person) AcceptPolicy(_ context.Context, policy string) (bool, error) {
	p.policy = policy
	return !p.refuses, nil
}

func (p *person) Answers(_ context.Context, fields []wallet.Field) ([]string, error) {
	p.fields = fields
	var answers []string
	for _, f := range fields {
		answers = append(answers, p.answers[f.Name])
	}
	return answers, nil
}

func (p *person) Choose(_ context.Context, cards []*wallet.EnrolledCard) (*wallet.EnrolledCard, wallet.Card, error) {
	p.chosen++
	return cards[0], p.card, nil
}

func (p *person) Approve(_ context.Context, o *wallet.Offer) (bool, error) {
	p.approved++
	if p.approving != nil {
		p.approving()
	}
	p.offer = o
	return !p.refuses, nil
}

// scene is a wallet with its peers.
type scene struct {
	world  *settest.World
	ca     *wallettest.CA
	shop   *wallettest.Shop
	dir    string
	now    time.Time // zero is the real time
	wallet *wallet.Wallet
	person *person
	wire   [][]byte
}

func newScene(t *testing.T) *scene {
	t.Helper()
	w := settest.NewWorld(t)
	s := &scene{
		world: w, ca: wallettest.NewCA(t, w), shop: wallettest.NewShop(t, w), dir: filepath.Join(t.TempDir(), "wallet"),
		person: &person{card: newSoftCard(t, "1001"), answers: map[string]string{
			wallettest.FieldName: "Ada Lovelace", wallettest.FieldSecret: testSecret,
		}},
	}
	s.open(t)
	return s
}

// open opens the wallet, again if it was open.
func (s *scene) open(t *testing.T) {
	t.Helper()
	if s.wallet != nil {
		s.wallet.Close()
	}
	var err error
	s.wallet, err = wallet.Open(t.Context(), s.dir, wallet.Config{
		Client: &sethttp.Client{Tries: 1, Record: func(_ string, req, res []byte) { s.wire = append(s.wire, req, res) }},
		Now: func() time.Time {
			if s.now.IsZero() {
				return time.Now()
			}
			return s.now
		},
		Software: "setkit test", InquiryPause: time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.wallet.Close() })
}

func (s *scene) enrolment() wallet.Enrolment {
	return wallet.Enrolment{
		CAURL: s.ca.URL, Root: s.world.Root, Brand: settest.Brand, PAN: set.PAN(testPAN), Expiry: set.CardExpiry(testExpiry),
	}
}

func (s *scene) enrol(t *testing.T) *wallet.EnrolledCard {
	t.Helper()
	c, err := s.wallet.Enrol(t.Context(), s.enrolment(), s.person.card, s.person)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (s *scene) pay(t *testing.T) (*wallet.Purchase, error) {
	t.Helper()
	return s.wallet.Pay(t.Context(), s.shop.Initiation(), s.person)
}

// wantOutcome is pay for a certain outcome.
func (s *scene) wantOutcome(t *testing.T, want wallet.Outcome, authCode string) *wallet.Purchase {
	t.Helper()
	p, err := s.pay(t)
	if err != nil {
		t.Fatal(err)
	}
	if p.Outcome != want || p.AuthCode != authCode {
		t.Fatalf("outcome %s %s %s, want %s %s", p.Outcome, p.CompletionCode, p.AuthCode, want, authCode)
	}
	return p
}

func TestEnrolAndPay(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	c := s.enrol(t)
	if c.Message != "Welcome." || c.Masked() != "**** 1111" || c.Serial != "1001" || c.Brand != settest.Brand || c.BIN != "411111" {
		t.Errorf("enrolled %+v", c)
	}
	if want := "Use it [1mwell[0m."; s.person.policy != want {
		t.Errorf("policy shown as %q, want %q", s.person.policy, want)
	}
	wantFields := []wallet.Field{
		{Name: wallettest.FieldName, MaxChars: 40, Required: true},
		{Name: wallettest.FieldSecret, MaxChars: 20, Required: true, Secret: true},
		{Name: "Remark", MaxChars: 20},
	}
	if diff := cmp.Diff(wantFields, s.person.fields); diff != "" {
		t.Error(diff)
	}

	s.open(t) // what is stored is enough
	signed := s.person.card.signed
	p := s.wantOutcome(t, wallet.Approved, "approved")
	if got := s.person.card.signed - signed; got != 1 {
		t.Errorf("%d signatures for a purchase, want 1", got)
	}
	o := s.person.offer
	if o.Merchant != "Book Shop M-0001" || o.Place != "Bern, Switzerland" || o.Amount.String() != "42.50 CHF" ||
		o.Order != "1 x The Elements of Programming\n2 x Pencil [31m2B" || o.Card.Masked() != "**** 1111" || o.GatewayCert.Subject.CommonName != "G-0001" {
		t.Errorf("shown %+v", o)
	}
	if p.CompletionCode != "authorizationPerformed" || p.Merchant != o.Merchant || p.Answered.IsZero() || p.Resumed {
		t.Errorf("purchase %+v", p)
	}
	list, err := s.wallet.Purchases(t.Context(), 10)
	if err != nil || len(list) != 1 || list[0].XID != p.XID || list[0].Outcome != wallet.Approved {
		t.Errorf("history %v, %v", list, err)
	}

	// The same order is not paid twice.
	again := s.wantOutcome(t, wallet.Approved, "approved")
	if !again.Resumed || again.XID != p.XID || s.shop.Count(set.PReqType) != 1 || s.person.approved != 1 {
		t.Errorf("paid again: %+v, %d payments", again, s.shop.Count(set.PReqType))
	}
	s.checkSecrecy(t)
}

// checkSecrecy searches messages and files for what must not be in them.
func (s *scene) checkSecrecy(t *testing.T) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(s.dir, "*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("wallet's files: %v, %v", files, err)
	}
	where := make(map[string][]byte)
	for _, f := range files {
		if where[filepath.Base(f)], err = os.ReadFile(f); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(f); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v", f, info.Mode(), err)
		}
	}
	for i, m := range s.wire {
		where[fmt.Sprintf("message %d", i)] = m
	}
	for name, b := range where {
		for what, secret := range map[string]string{"PAN": testPAN, "expiry": testExpiry, "registration secret": testSecret} {
			if bytes.Contains(b, []byte(secret)) {
				t.Errorf("%s shows the %s", name, what)
			}
		}
	}
	if !bytes.Contains(where["wallet.db"], []byte("age-encryption.org/v1")) && !bytes.Contains(where["wallet.db-wal"], []byte("age-encryption.org/v1")) {
		t.Error("no vault in the wallet's files: the search looked in the wrong place")
	}
}

func TestOutcomes(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		behaviour wallettest.Behaviour
		want      wallet.Outcome
		code      string
		inquiries int
	}{
		"declined":             {wallettest.Behaviour{Code: set.AuthDeclined}, wallet.Declined, "declined", 0},
		"issuer does not know": {wallettest.Behaviour{Code: set.AuthNoReply}, wallet.Declined, "noReply", 0},
		"rejected":             {wallettest.Behaviour{Rejected: true}, wallet.Rejected, "", 0},
		"approved later":       {wallettest.Behaviour{Pending: 3}, wallet.Approved, "approved", 3},
		"declined later":       {wallettest.Behaviour{Pending: 1, Code: set.AuthDeclined}, wallet.Declined, "declined", 1},
		"answered by garbage":  {wallettest.Behaviour{Garbage: true}, wallet.Approved, "approved", 1},
		"never decided":        {wallettest.Behaviour{Pending: 100}, wallet.Unknown, "", 5},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t)
			s.enrol(t)
			s.shop.Behave(c.behaviour)
			p := s.wantOutcome(t, c.want, c.code)
			if got := s.shop.Count(set.InqReqType); got != c.inquiries {
				t.Errorf("%d inquiries, want %d", got, c.inquiries)
			}
			if stored, err := s.wallet.Purchase(t.Context(), p.XID); err != nil || stored.Outcome != c.want {
				t.Errorf("stored %+v, %v", stored, err)
			}
		})
	}
}

// An answer that was lost: the same octets go out again, and nothing is signed again.
func TestResume(t *testing.T) {
	t.Parallel()
	for name, resume := range map[string]func(t *testing.T, s *scene, xid set.XID) (*wallet.Purchase, error){
		"by paying again": func(t *testing.T, s *scene, _ set.XID) (*wallet.Purchase, error) { return s.pay(t) },
		"by inquiry": func(t *testing.T, s *scene, xid set.XID) (*wallet.Purchase, error) {
			return s.wallet.Inquire(t.Context(), xid, s.person)
		},
	} {
		for lost, behaviour := range map[string]wallettest.Behaviour{"answer": {Silent: true}, "request": {Deaf: true}} {
			t.Run(name+" after a lost "+lost, func(t *testing.T) {
				t.Parallel()
				s := newScene(t)
				s.enrol(t)
				s.shop.Behave(behaviour)
				p, err := s.pay(t)
				var away *sethttp.UnreachableError
				if p == nil || p.Outcome != wallet.Unknown || !errors.As(err, &away) {
					t.Fatalf("got %+v, %v", p, err)
				}
				s.shop.Behave(wallettest.Behaviour{})
				s.open(t)
				signed, chosen := s.person.card.signed, s.person.chosen
				again, err := resume(t, s, p.XID)
				if err != nil || again.Outcome != wallet.Approved || again.XID != p.XID {
					t.Fatalf("got %+v, %v", again, err)
				}
				if s.person.card.signed != signed || s.person.chosen != chosen || s.person.approved != 1 {
					t.Error("the smart card was used again")
				}
				if n := len(s.shop.Payments()); n != 1 {
					t.Errorf("%d different payments, want 1", n)
				}
			})
		}
	}
}

// A payment that is too old to be sent again is asked about.
func TestInquireLate(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.enrol(t)
	s.now = time.Now().Add(-9 * time.Minute)
	s.shop.Behave(wallettest.Behaviour{Silent: true})
	p, err := s.pay(t)
	if p == nil || err == nil {
		t.Fatalf("got %+v, %v", p, err)
	}
	s.shop.Behave(wallettest.Behaviour{})
	s.now = time.Now().Add(2 * time.Minute)
	sent := s.shop.Count(set.PReqType)
	got, err := s.wallet.Inquire(t.Context(), p.XID, s.person)
	if err != nil || got.Outcome != wallet.Approved {
		t.Errorf("got %+v, %v", got, err)
	}
	if s.shop.Count(set.PReqType) != sent {
		t.Error("the old payment was sent again")
	}
	// Another smart card cannot ask.
	s.person.card = newSoftCard(t, "2002")
	if _, err := s.wallet.Inquire(t.Context(), p.XID, s.person); err == nil || !strings.Contains(err.Error(), "2002") {
		t.Errorf("with another card: %v", err)
	}
}

// The merchant says that it never got the payment. Only when it no longer can is that an outcome.
func TestNotReceived(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.enrol(t)
	start := time.Now()
	s.now = start
	s.person.approving = func() { s.now = start.Add(-11 * time.Minute) } // a slow message, not a slow person
	s.shop.Behave(wallettest.Behaviour{Deaf: true})
	p, err := s.pay(t)
	if p == nil || err == nil {
		t.Fatalf("got %+v, %v", p, err)
	}
	s.shop.Behave(wallettest.Behaviour{})
	s.now = start.Add(5 * time.Minute)
	got, err := s.wallet.Inquire(t.Context(), p.XID, s.person)
	if err != nil || got.Outcome != wallet.Unknown || got.CompletionCode != "orderNotReceived" {
		t.Errorf("16 minutes after the payment: %+v, %v", got, err)
	}
	s.now = start.Add(9*time.Minute + 30*time.Second)
	if got, err = s.wallet.Inquire(t.Context(), p.XID, s.person); err != nil || got.Outcome != wallet.Rejected {
		t.Errorf("20.5 minutes after the payment: %+v, %v", got, err)
	}
}

func TestNothingSignedWithoutConsent(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.enrol(t)
	signed := s.person.card.signed
	s.person.refuses = true
	if _, err := s.pay(t); !errors.Is(err, wallet.ErrCancelled) {
		t.Errorf("got %v, want ErrCancelled", err)
	}
	s.person.refuses = false
	wrongPIN := errors.New("wrong PIN")
	s.person.card.failing = wrongPIN
	if p, err := s.pay(t); p != nil || !errors.Is(err, wrongPIN) {
		t.Errorf("got %+v, %v, want the card's error", p, err)
	}
	if s.person.card.signed != signed || s.shop.Count(set.PReqType) != 0 {
		t.Error("something was signed or sent")
	}
	if list, err := s.wallet.Purchases(t.Context(), 10); err != nil || len(list) != 0 {
		t.Errorf("history %v, %v", list, err)
	}
	s.person.card.failing = nil
	s.wantOutcome(t, wallet.Approved, "approved")
}

// The card was lost while it signed: that is remembered, nothing was sent, and only the cardholder has it
// signed anew.
func TestSignatureLost(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.enrol(t)
	s.person.card.failing = fmt.Errorf("the card was pulled: %w", wallet.ErrSignatureLost)
	if p, err := s.pay(t); p != nil || !errors.Is(err, wallet.ErrSignatureLost) || !strings.Contains(err.Error(), "nothing was paid") {
		t.Errorf("got %+v, %v", p, err)
	}
	list, err := s.wallet.Purchases(t.Context(), 10)
	if err != nil || len(list) != 1 || list[0].Outcome != wallet.Unsent || list[0].Merchant == "" || list[0].Amount != wallettest.Price {
		t.Fatalf("history %+v, %v", list, err)
	}
	signed, asked := s.person.card.signed, s.shop.Count(set.InqReqType)
	p, err := s.wallet.Inquire(t.Context(), list[0].XID, s.person)
	if err != nil || p.Outcome != wallet.Unsent || s.shop.Count(set.InqReqType) != asked || s.person.card.signed != signed {
		t.Errorf("inquiry %+v, %v", p, err)
	}
	if n := s.shop.Count(set.PReqType); n != 0 {
		t.Errorf("the shop got %d payments", n)
	}
	s.person.card.failing = nil
	approved := s.person.approved
	s.wantOutcome(t, wallet.Approved, "approved")
	if s.person.approved != approved+1 || len(s.shop.Payments()) != 1 {
		t.Errorf("approved %d times, %d payments", s.person.approved-approved, len(s.shop.Payments()))
	}
	if list, err = s.wallet.Purchases(t.Context(), 10); err != nil || len(list) != 2 {
		t.Errorf("history %v, %v", list, err)
	}
}

// Two windows pay one order at the same time: one payment is sent.
func TestPayTwiceAtOnce(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.enrol(t)
	other := *s.person
	s.person.approving = func() {
		if p, err := s.wallet.Pay(t.Context(), s.shop.Initiation(), &other); err != nil || p.Outcome != wallet.Approved {
			t.Errorf("the faster one: %+v, %v", p, err)
		}
	}
	if p, err := s.pay(t); p != nil || err == nil || !strings.Contains(err.Error(), "being paid already") {
		t.Errorf("the slower one: %+v, %v", p, err)
	}
	if n := s.shop.Count(set.PReqType); n != 1 {
		t.Errorf("%d payments, want 1", n)
	}
}

func TestPayRefused(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	if _, err := s.pay(t); !errors.Is(err, wallet.ErrNoCard) {
		t.Errorf("before any enrolment: %v", err)
	}
	s.enrol(t)
	own := s.person.card
	m := s.shop.Initiation()
	m.Brands = []set.BrandID{"Other"}
	if _, err := s.wallet.Pay(t.Context(), m, s.person); !errors.Is(err, wallet.ErrNoCard) {
		t.Errorf("another brand: %v", err)
	}
	m = s.shop.Initiation()
	m.Extensions = set.MsgExtensions{{ID: []int{1, 2, 3}, Critical: true, Value: []byte{5, 0}}}
	if _, err := s.wallet.Pay(t.Context(), m, s.person); err == nil {
		t.Error("a critical extension of the order was ignored")
	}
	s.person.card = newSoftCard(t, "2002")
	if _, err := s.pay(t); err == nil || !strings.Contains(err.Error(), "2002") {
		t.Errorf("another smart card: %v", err)
	}
	s.person.card = newSoftCard(t, "1001")
	if _, err := s.pay(t); err == nil || !strings.Contains(err.Error(), "replaced") {
		t.Errorf("a new key: %v", err)
	}
	// A smart card with the right signature key that cannot open the vault.
	s.person.card.signer = own.signer
	if _, err := s.pay(t); err == nil || !strings.Contains(err.Error(), "vault") {
		t.Errorf("another key for the vault: %v", err)
	}
	// A merchant that the card's root does not know.
	s.person.card = own
	s.shop = wallettest.NewShop(t, settest.NewWorld(t))
	if _, err := s.pay(t); err == nil || s.shop.Count(set.PReqType) != 0 {
		t.Errorf("a merchant of another hierarchy: %v", err)
	}
}

func TestEnrolRefused(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	enrol := func() error {
		_, err := s.wallet.Enrol(t.Context(), s.enrolment(), s.person.card, s.person)
		return err
	}
	s.person.refuses = true
	if err := enrol(); !errors.Is(err, wallet.ErrPolicy) {
		t.Errorf("policy refused: %v", err)
	}
	s.person.refuses = false
	delete(s.person.answers, wallettest.FieldName)
	if err := enrol(); err == nil || !strings.Contains(err.Error(), "field 1") {
		t.Errorf("an answer is missing: %v", err)
	}
	s.person.answers[wallettest.FieldName] = "Ada Lovelace"
	broken := errors.New("card broken")
	s.person.card.failing = broken
	if err := enrol(); !errors.Is(err, broken) {
		t.Errorf("smart card broken: %v", err)
	}
	s.person.card.failing = nil
	if n := s.ca.Requests(); n != 0 {
		t.Errorf("%d certificate requests, want none so far", n)
	}
	s.ca.Refuse(&set.CertStatusError{Code: set.RejectedByIssuer, Message: "see your bank"})
	var status *set.CertStatusError
	if err := enrol(); !errors.As(err, &status) || status.Code != set.RejectedByIssuer || !strings.Contains(err.Error(), "see your bank") {
		t.Errorf("refused by the issuer: %v", err)
	}
	if cards, err := s.wallet.Cards(t.Context()); err != nil || len(cards) != 0 {
		t.Errorf("cards %v, %v", cards, err)
	}
	other := s.enrolment()
	other.Root = settest.NewWorld(t).Root
	if _, err := s.wallet.Enrol(t.Context(), other, s.person.card, s.person); err == nil {
		t.Error("a CA of another hierarchy was accepted")
	}
	other = s.enrolment()
	other.PAN = set.PAN("4111111111111112")
	if _, err := s.wallet.Enrol(t.Context(), other, s.person.card, s.person); err == nil || strings.Contains(err.Error(), "4111") {
		t.Errorf("mistyped card number: %v", err)
	}
}

func TestOpen(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := wallet.Open(t.Context(), dir, wallet.Config{}); err == nil || !strings.Contains(err.Error(), "chmod 700") {
		t.Errorf("directory that others can read: %v", err)
	}
}
