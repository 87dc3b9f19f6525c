package issuer_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/setkit/setkit/roles/set/bundle"
	"github.com/setkit/setkit/roles/set/settest"
	"github.com/setkit/setkit/roles/sqldb/sqldbtest"
)

// failing is a key whose HSM is gone.
type failing struct {
	crypto.Signer
	err error
}

func (f failing) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) { return nil, f.err }

const bundleLife = 30 * 24 * time.Hour

func bundleKey(t *testing.T) crypto.Signer {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func bankBundle() bundle.Bundle {
	return bundle.Bundle{
		Bank:     bundle.Bank{Name: "Nordhavn Bank"},
		Brands:   []bundle.Brand{{ID: settest.Brand, CA: "http://ca.example/cca"}},
		Policies: []bundle.Policy{{Language: "en", Text: "Use it with care."}},
	}
}

// The newest bundle is what is served, with a sequence number that grows by one.
func TestMakeBundle(t *testing.T) {
	t.Parallel()
	sqldbtest.Each(t, func(t *testing.T, url string) {
		b, w := newBank(t, url), settest.NewWorld(t)
		b.clock.now = w.Now
		get := func(header ...string) *httptest.ResponseRecorder {
			t.Helper()
			r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/wallet-bundle", nil)
			for i := 0; i < len(header); i += 2 {
				r.Header.Set(header[i], header[i+1])
			}
			res := httptest.NewRecorder()
			b.Handler().ServeHTTP(res, r)
			return res
		}
		if res := get(); res.Code != http.StatusNotFound {
			t.Errorf("before any was made: status %d", res.Code)
		}
		key, next := bundleKey(t), bundleKey(t)
		first, err := b.MakeBundle(t.Context(), bankBundle(), bundleLife, w.Root, key, nil)
		if err != nil {
			t.Fatal(err)
		}
		if first.Sequence != 1 || !first.NotBefore.Equal(w.Now) || !first.NotAfter.Equal(w.Now.Add(bundleLife)) {
			t.Errorf("first bundle %+v", first.Bundle)
		}
		res := get()
		if res.Code != http.StatusOK || !bytes.Equal(res.Body.Bytes(), first.Raw) {
			t.Errorf("status %d and %d octets, want 200 and the bundle's %d", res.Code, res.Body.Len(), len(first.Raw))
		}
		for name, want := range map[string]string{
			"Content-Type": "application/cms", "Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff",
			"Content-Disposition": `attachment; filename="bank.setwallet"`,
		} {
			if got := res.Header().Get(name); got != want {
				t.Errorf("%s is %q, want %q", name, got, want)
			}
		}
		tag := res.Header().Get("ETag")
		if res := get("If-None-Match", tag); res.Code != http.StatusNotModified || res.Body.Len() > 0 {
			t.Errorf("with its ETag: status %d, %d octets", res.Code, res.Body.Len())
		}
		second, err := b.MakeBundle(t.Context(), bankBundle(), bundleLife, w.Root, next, key)
		if err != nil || second.Sequence != 2 || second.Endorser == nil {
			t.Fatalf("second bundle %+v, %v", second, err)
		}
		if res := get("If-None-Match", tag); res.Code != http.StatusOK || !bytes.Equal(res.Body.Bytes(), second.Raw) {
			t.Errorf("with the ETag of the one before: status %d, %d octets", res.Code, res.Body.Len())
		}
		b.Close()
		if res := get(); res.Code != http.StatusServiceUnavailable || res.Header().Get("Retry-After") == "" {
			t.Errorf("without a database: status %d", res.Code)
		}
	})
}

// Of bundles that are made at the same time none has the number of another.
func TestMakeBundlesAtOnce(t *testing.T) {
	t.Parallel()
	b, w := newBank(t, sqldbtest.SQLite(t)), settest.NewWorld(t)
	b.clock.now = w.Now
	key := bundleKey(t)
	var mu sync.Mutex
	seen := map[int64]bool{}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			s, err := b.MakeBundle(context.Background(), bankBundle(), bundleLife, w.Root, key, nil)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil && !strings.Contains(err.Error(), "start again"):
				t.Error(err)
			case err == nil && seen[int64(s.Sequence)]:
				t.Errorf("two bundles %d", s.Sequence)
			case err == nil:
				seen[int64(s.Sequence)] = true
			}
		})
	}
	wg.Wait()
	for n := range int64(len(seen)) {
		if !seen[n+1] {
			t.Errorf("no bundle %d among %v", n+1, seen)
		}
	}
	if len(seen) == 0 {
		t.Error("no bundle was made")
	}
}

func TestMakeBundleRefuses(t *testing.T) {
	t.Parallel()
	b, w := newBank(t, sqldbtest.SQLite(t)), settest.NewWorld(t)
	b.clock.now = w.Now
	if _, err := b.MakeBundle(t.Context(), bankBundle(), 366*24*time.Hour, w.Root, bundleKey(t), nil); err == nil || !strings.Contains(err.Error(), "root ends") {
		t.Errorf("longer than the root: %v", err)
	}
	nameless := bankBundle()
	nameless.Bank.Name = ""
	if _, err := b.MakeBundle(t.Context(), nameless, bundleLife, w.Root, bundleKey(t), nil); err == nil {
		t.Error("a bank without a name")
	}
	broken := errors.New("HSM gone")
	if _, err := b.MakeBundle(t.Context(), bankBundle(), bundleLife, w.Root, failing{bundleKey(t), broken}, nil); !errors.Is(err, broken) {
		t.Errorf("got %v, want the key's error", err)
	}
	// None of them took a number.
	if s, err := b.MakeBundle(t.Context(), bankBundle(), bundleLife, w.Root, bundleKey(t), nil); err != nil || s.Sequence != 1 {
		t.Errorf("then: %+v, %v", s, err)
	}
}
