package hsm_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/setkit/setkit/hsm"
	"github.com/setkit/setkit/hsm/hsmtest"
	"github.com/setkit/setkit/hsm/hsmtest/faults"
)

// TestConformance puts the token of SETKIT_PKCS11_URI through the conformance suite, with the PIN that
// its pin-source, file: or env:, names; or else SoftHSM, NSS, and SoftHSM behind p11-kit's server, which
// lets through a part of what SoftHSM can do.
func TestConformance(t *testing.T) {
	t.Parallel()
	if uri := os.Getenv("SETKIT_PKCS11_URI"); uri != "" {
		hsmtest.Conformance(t, func(t testing.TB) *hsm.Token { return openURI(t, uri) })
		return
	}
	for name, create := range map[string]func(testing.TB) *hsmtest.Token{
		"SoftHSM": hsmtest.New, "NSS": hsmtest.NewNSS,
		"p11-kit": func(t testing.TB) *hsmtest.Token { return faults.Serve(t).Module.Token },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hsmtest.Conformance(t, func(t testing.TB) *hsm.Token { return create(t).Open(t) })
		})
	}
}

func openURI(t testing.TB, uri string) *hsm.Token {
	t.Helper()
	tok, err := hsm.Open(t.Context(), parse(t, uri), readPIN)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tok.Close(); err != nil {
			t.Error(err)
		}
	})
	return tok
}

func readPIN(_ context.Context, source, _ string) ([]byte, error) {
	scheme, name, _ := strings.Cut(source, ":")
	switch scheme {
	case "file":
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		line, _, _ := strings.Cut(string(text), "\n")
		return []byte(line), nil
	case "env":
		pin, ok := os.LookupEnv(name)
		if !ok {
			return nil, fmt.Errorf("environment variable %s is not set", name)
		}
		return []byte(pin), nil
	}
	return nil, errors.New("the pin-source is neither file: nor env:")
}

// NSS's two tokens have the same serial number, and are two nevertheless.
func TestTokensWithOneSerialNumber(t *testing.T) {
	t.Parallel()
	tk := hsmtest.NewNSS(t)
	list, err := hsm.Tokens(t.Context(), tk.ModulePath)
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != 2 || list[0].Serial != list[1].Serial || list[0].Label == list[1].Label {
		t.Fatalf("tokens %+v: want two with the same serial number and other labels", list)
	}
	for _, info := range list {
		uri := parse(t, tk.URI)
		uri.Token, uri.Serial = info.Label, info.Serial
		tok, err := hsm.Open(t.Context(), uri, func(context.Context, string, string) ([]byte, error) { return []byte(tk.PIN), nil })
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := tok.Close(); err != nil {
				t.Error(err)
			}
		})
		if got := tok.Info().Label; got != info.Label {
			t.Errorf("opened %q, want %q", got, info.Label)
		}
	}
	uri := parse(t, tk.URI)
	uri.Token, uri.Serial = "", list[0].Serial
	if _, err := hsm.Open(t.Context(), uri, tk.GetPIN); err == nil || !strings.Contains(err.Error(), "2 tokens") {
		t.Errorf("a serial number that two tokens have: %v, want a refusal", err)
	}
}
