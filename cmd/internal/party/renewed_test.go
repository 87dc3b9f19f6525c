package party_test

import (
	"bytes"
	"encoding/pem"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/setkit/setkit/cmd/internal/party"
	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/settest"
)

func certificates(all ...*set.Endpoint) (text []byte) {
	for _, e := range all {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: e.SignCert.X509.Raw})...)
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: e.ExchangeCert.X509.Raw})...)
		for _, c := range e.Chain {
			text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.X509.Raw})...)
		}
	}
	return text
}

// A former certificate that was revoked is forgotten for good: the CRLs of a time after it expires do not name it,
// and who stole its key can still make tokens.
func TestRevokedIsForgotten(t *testing.T) {
	t.Parallel()
	w := settest.NewWorld(t)
	now, second, first := w.Gateway(t, "G-0001"), w.Gateway(t, "G-0001"), w.Gateway(t, "G-0001")
	path := filepath.Join(t.TempDir(), "gateway.pem")
	old := path + ".old"
	if err := os.WriteFile(old, certificates(second, first), 0o600); err != nil {
		t.Fatal(err)
	}
	r := &party.Refresher{Endpoint: now, Identity: party.Identity{Certificates: path}, Type: set.PgwyInitialBoth, Log: slog.New(slog.DiscardHandler)}
	for i, step := range []struct {
		revoked *set.Endpoint
		want    []byte // nil: no file
	}{{nil, certificates(second, first)}, {second, certificates(first)}, {first, nil}, {first, nil}} {
		if step.revoked != nil {
			now.Verifier = w.Revoke(t, int64(i), step.revoked.ExchangeCert)
		}
		if err := r.Once(t.Context()); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(old)
		if step.want == nil && !errors.Is(err, fs.ErrNotExist) || !bytes.Equal(got, step.want) {
			t.Errorf("step %d: %d octets are left, want %d (%v)", i, len(got), len(step.want), err)
		}
	}
}

// What is no pair of the holder's certificates is refused, with the name of the file.
func TestFormerMalformed(t *testing.T) {
	t.Parallel()
	w := settest.NewWorld(t)
	g := w.Gateway(t, "G-0001")
	half := *g
	half.ExchangeCert = g.Chain[0]
	for name, text := range map[string][]byte{
		"a merchant's":             certificates(w.Merchant(t, settest.MerchantID)),
		"without key exchange":     certificates(&half),
		"no certificate":           []byte("nothing"),
		"one and a half":           certificates(g, &half),
		"only those of the CAs":    certificates(&set.Endpoint{SignCert: g.Chain[0], ExchangeCert: g.Chain[1]}),
		"two in another order, ok": append(certificates(&set.Endpoint{SignCert: g.ExchangeCert, ExchangeCert: g.SignCert}), certificates(g)...),
	} {
		path := filepath.Join(t.TempDir(), "gateway.pem")
		if err := os.WriteFile(path+".old", text, 0o600); err != nil {
			t.Fatal(err)
		}
		r := &party.Refresher{Endpoint: g, Identity: party.Identity{Certificates: path}, Type: set.PgwyInitialBoth, Log: slog.New(slog.DiscardHandler)}
		err := r.Once(t.Context())
		if good := name == "two in another order, ok"; good != (err == nil) || err != nil && !bytes.Contains([]byte(err.Error()), []byte(path+".old")) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
