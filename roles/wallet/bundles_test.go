package wallet_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/bundle"
	"github.com/setkit/setkit/roles/set/pki"
	"github.com/setkit/setkit/roles/set/settest"
	"github.com/setkit/setkit/roles/wallet"
)

func bundleKey(t *testing.T) crypto.Signer {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// bundle signs a bundle of a bank.
func (s *scene) bundle(t *testing.T, sequence set.Positive, key, previous crypto.Signer, edits ...func(*bundle.Bundle)) *bundle.Signed {
	t.Helper()
	b := bundle.Bundle{
		Sequence: sequence, NotBefore: s.world.Now.Add(-time.Hour), NotAfter: s.world.Now.Add(30 * 24 * time.Hour),
		Bank:     bundle.Bank{Name: "Nordhavn Bank"},
		Brands:   []bundle.Brand{{ID: settest.Brand, CA: set.URL(s.ca.URL)}},
		Policies: []bundle.Policy{{Language: "da", Text: "Pas godt på."}},
	}
	for _, edit := range edits {
		edit(&b)
	}
	signed, err := bundle.Sign(b, s.world.Root, key, previous)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

// confirmation answers whether a signer is trusted, and counts how often it is asked.
type confirmation struct {
	answer bool
	err    error
	asked  int
}

func (c *confirmation) confirm(context.Context, *bundle.Signed) (bool, error) {
	c.asked++
	return c.answer, c.err
}

// install installs without a fingerprint, for a certain end.
func (s *scene) install(t *testing.T, b *bundle.Signed, want wallet.Installed) {
	t.Helper()
	c := confirmation{answer: want == wallet.NewBank}
	got, end, err := s.wallet.Install(t.Context(), b.Raw, nil, c.confirm)
	if err != nil || end != want || !got.Same(b) {
		t.Fatalf("bundle %d: got %+v, end %d, %v; want end %d", b.Sequence, got, end, err, want)
	}
	if wantAsked := map[bool]int{true: 1}[want == wallet.NewBank]; c.asked != wantAsked {
		t.Errorf("bundle %d: asked %d times, want %d", b.Sequence, c.asked, wantAsked)
	}
}

// refuse wants a bundle refused, without a question whether to trust it.
func (s *scene) refuse(t *testing.T, file []byte, fingerprint *pki.Digest, kind error, want string) {
	t.Helper()
	c := confirmation{answer: true}
	before := s.bundles(t)
	if _, _, err := s.wallet.Install(t.Context(), file, fingerprint, c.confirm); !errors.Is(err, kind) || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %q, %v", err, want, kind)
	}
	if c.asked > 0 {
		t.Errorf("%s: asked whether to trust it", want)
	}
	if after := s.bundles(t); after != before {
		t.Errorf("%s: installed %q, before %q", want, after, before)
	}
}

// bundles are the installed bundles, in words.
func (s *scene) bundles(t *testing.T) string {
	t.Helper()
	list, err := s.wallet.Bundles(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var words []string
	for _, b := range list {
		words = append(words, string(b.Bank.Name)+" "+string(rune('0'+b.Sequence)))
	}
	return strings.Join(words, ", ")
}

// A life of bundles: trusted once, updated, never turned back, handed over to another key.
func TestInstall(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	key, next, foreign := bundleKey(t), bundleKey(t), bundleKey(t)
	first := s.bundle(t, 3, key, nil)

	c := confirmation{}
	if _, _, err := s.wallet.Install(t.Context(), first.Raw, nil, c.confirm); !errors.Is(err, wallet.ErrNotTrusted) || c.asked != 1 {
		t.Errorf("not confirmed: %v, asked %d times", err, c.asked)
	}
	gone := errors.New("terminal gone")
	if _, _, err := s.wallet.Install(t.Context(), first.Raw, nil, (&confirmation{answer: true, err: gone}).confirm); !errors.Is(err, gone) {
		t.Errorf("got %v, want what the question came to", err)
	}
	if got := s.bundles(t); got != "" {
		t.Fatalf("installed %s", got)
	}
	s.install(t, first, wallet.NewBank)
	s.open(t) // what is stored is enough
	s.install(t, first, wallet.Unchanged)
	s.install(t, s.bundle(t, 5, key, nil), wallet.Updated)

	s.refuse(t, first.Raw, nil, wallet.ErrBundleOlder, "is older than the one that is installed, 5")
	fp := first.Signer
	s.refuse(t, first.Raw, &fp, wallet.ErrBundleOlder, "is older")
	s.refuse(t, s.bundle(t, 5, key, nil, func(b *bundle.Bundle) { b.Brands[0].CA = "http://elsewhere.example/" }).Raw, nil, wallet.ErrBundleOlder, "is not the one that is installed")
	s.refuse(t, s.bundle(t, 6, foreign, nil).Raw, nil, wallet.ErrBundleSigner, "signed by another key")
	s.refuse(t, s.bundle(t, 6, foreign, next).Raw, nil, wallet.ErrBundleSigner, "signed by another key")
	s.refuse(t, s.bundle(t, 6, foreign, nil, func(b *bundle.Bundle) { b.Bank.Name = "NORDHAVN BANK" }).Raw, nil, wallet.ErrBundleSigner, "signed by another key")

	s.install(t, s.bundle(t, 7, next, key), wallet.Updated)
	s.install(t, s.bundle(t, 8, next, nil), wallet.Updated)
	s.refuse(t, s.bundle(t, 9, key, nil).Raw, nil, wallet.ErrBundleSigner, "signed by another key") // it has handed over
	s.install(t, s.bundle(t, 9, next, nil, func(b *bundle.Bundle) { b.Bank.Name = "NORDHAVN BANK" }), wallet.Updated)
	if got := s.bundles(t); got != "NORDHAVN BANK 9" {
		t.Errorf("installed %s", got)
	}
	s.install(t, s.bundle(t, 1, foreign, nil, func(b *bundle.Bundle) { b.Bank.Name = "Sundby Bank" }), wallet.NewBank)
	if got := s.bundles(t); got != "NORDHAVN BANK 9, Sundby Bank 1" {
		t.Errorf("installed %s", got)
	}
}

// The fingerprint from the bank's letter stands for the question, and for the key that was known.
func TestInstallByFingerprint(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	key, next := bundleKey(t), bundleKey(t)
	first, second := s.bundle(t, 1, key, nil), s.bundle(t, 2, next, nil)
	s.refuse(t, first.Raw, &second.Signer, wallet.ErrBundleSigner, "fingerprint")
	for _, step := range []struct {
		b    *bundle.Signed
		want wallet.Installed
	}{{first, wallet.NewBank}, {first, wallet.Unchanged}, {second, wallet.Updated}} {
		var c confirmation
		if _, end, err := s.wallet.Install(t.Context(), step.b.Raw, &step.b.Signer, c.confirm); err != nil || end != step.want || c.asked > 0 {
			t.Errorf("bundle %d: end %d, %v, asked %d times; want end %d", step.b.Sequence, end, err, c.asked, step.want)
		}
	}
	s.refuse(t, s.bundle(t, 3, next, nil).Raw, &first.Signer, wallet.ErrBundleSigner, "fingerprint") // even under the key that is known
	// Endorsed by the key of the letter is not signed by it.
	s.refuse(t, s.bundle(t, 3, bundleKey(t), next).Raw, &second.Signer, wallet.ErrBundleSigner, "fingerprint")
}

func TestInstallRefused(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	b := s.bundle(t, 1, bundleKey(t), nil)
	changed := append([]byte(nil), b.Raw...)
	changed[len(changed)-1] ^= 1
	s.refuse(t, changed, nil, wallet.ErrBundleForm, "wallet bundle")
	s.refuse(t, nil, nil, wallet.ErrBundleForm, "malformed")
	s.refuse(t, make([]byte, bundle.SizeMax+1), nil, wallet.ErrBundleForm, "over")
	s.now = b.NotAfter.Add(time.Second)
	s.refuse(t, b.Raw, nil, wallet.ErrBundleTime, "has expired")
	s.now = b.NotBefore.Add(-time.Second)
	s.refuse(t, b.Raw, nil, wallet.ErrBundleTime, "is valid from")
	s.now = time.Time{}
	s.install(t, b, wallet.NewBank)
	s.now = b.NotAfter.Add(time.Second)
	s.refuse(t, b.Raw, nil, wallet.ErrBundleTime, "has expired")
}

// Two windows install the first bundle of a bank from different signers: one is trusted.
func TestInstallTwiceAtOnce(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	one, other := s.bundle(t, 1, bundleKey(t), nil), s.bundle(t, 2, bundleKey(t), nil)
	_, _, err := s.wallet.Install(t.Context(), other.Raw, nil, func(ctx context.Context, _ *bundle.Signed) (bool, error) {
		s.install(t, one, wallet.NewBank)
		return true, nil
	})
	if err == nil || !strings.Contains(err.Error(), "at the same time") || s.bundles(t) != "Nordhavn Bank 1" {
		t.Errorf("got %v, installed %s", err, s.bundles(t))
	}
}

// A card is enrolled with what the bundle says.
func TestEnrolmentFor(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	for _, c := range []struct {
		bank  string
		brand set.BrandID
		want  string // bank and brand, or a part of the error
		first func()
	}{
		{"", "", "wallet bundle is installed", nil},
		{"", "", "Nordhavn Bank Campus", func() { s.install(t, s.bundle(t, 1, bundleKey(t), nil), wallet.NewBank) }},
		{"", "campus", "Nordhavn Bank Campus", nil},
		{"", "Other", "Campus of Nordhavn Bank", nil},
		{"nordhavn bank", "", "Nordhavn Bank Campus", nil},
		{"Sundby Bank", "", "Campus of Nordhavn Bank", nil},
		{"", "", "name one brand", func() {
			s.install(t, s.bundle(t, 1, bundleKey(t), nil, func(b *bundle.Bundle) {
				b.Bank.Name, b.Brands = "Sundby Bank", append(b.Brands, bundle.Brand{ID: "Meridian", CA: "http://ca.example/"})
			}), wallet.NewBank)
		}},
		{"", settest.Brand, "name one brand", nil},
		{"Sundby Bank", settest.Brand, "Sundby Bank Campus", nil},
		{"", "Meridian", "Sundby Bank Meridian", nil},
		{"", "Meridian", "has expired", func() { s.now = s.world.Now.Add(31 * 24 * time.Hour) }},
	} {
		if c.first != nil {
			c.first()
		}
		got, err := s.wallet.EnrolmentFor(t.Context(), c.bank, c.brand)
		text := got.Bank + " " + string(got.Brand)
		if err != nil {
			text = err.Error()
		} else if got.Root.Thumbprint() != s.world.Root.Thumbprint() || got.Language != "da" || got.CAURL == "" {
			t.Errorf("%q, %q: %+v", c.bank, c.brand, got)
		}
		if !strings.Contains(text, c.want) || (err == nil) != (text == c.want) {
			t.Errorf("%q, %q: got %q, %v; want %q", c.bank, c.brand, text, err, c.want)
		}
	}
	s.now = time.Time{}
	r, err := s.wallet.EnrolmentFor(t.Context(), "Nordhavn Bank", "")
	if err != nil {
		t.Fatal(err)
	}
	r.PAN, r.Expiry = set.PAN(testPAN), set.CardExpiry(testExpiry)
	if _, err := s.wallet.Enrol(t.Context(), r, s.person.card, s.person); err != nil {
		t.Fatal(err)
	}
	s.open(t)
	cards, err := s.wallet.Cards(t.Context())
	if err != nil || len(cards) != 1 || cards[0].Bank != "Nordhavn Bank" {
		t.Errorf("cards %v, %v", cards, err)
	}
	s.wantOutcome(t, wallet.Approved, "approved")
}
