package hsm_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/setkit/setkit/hsm"
	"github.com/setkit/setkit/hsm/hsmtest"
)

func TestInitPIN(t *testing.T) {
	t.Parallel()
	tk := hsmtest.New(t)
	uri, err := hsm.ParseURI(tk.URI)
	if err != nil {
		t.Fatal(err)
	}
	opens := func(pin string) error {
		tok, err := hsm.Open(t.Context(), uri, func(context.Context, string, string) ([]byte, error) { return []byte(pin), nil })
		if err == nil {
			err = tok.Close()
		}
		return err
	}
	for name, tt := range map[string]struct{ officer, user, want string }{
		"short user PIN":      {tk.SOPIN, "123", "a PIN of 3 bytes: the token takes 4 to 255"},
		"no user PIN":         {tk.SOPIN, "", "a PIN of 0 bytes"},
		"no officer's PIN":    {"", "246810", "the security officer's PIN: a PIN of 0 bytes"},
		"wrong officer's PIN": {"00000000", "246810", "CKR_PIN_INCORRECT"},
	} {
		if _, err := hsm.InitPIN(t.Context(), uri, []byte(tt.officer), []byte(tt.user)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
	_, err = hsm.InitPIN(t.Context(), uri, []byte("00000000"), []byte("246810"))
	if refused, ok := errors.AsType[*hsm.PINError](err); !ok || refused.Tries != hsm.TriesReduced {
		t.Errorf("wrong officer's PIN: %v, want a *hsm.PINError with the count reduced", err)
	}
	if err := opens(tk.PIN); err != nil {
		t.Errorf("the PIN that was not replaced: %v", err)
	}
	fresh := []byte("246810")
	info, err := hsm.InitPIN(t.Context(), uri, []byte(tk.SOPIN), fresh)
	if err != nil || info.Label != tk.Label || !info.UserPIN || info.SOPINLow {
		t.Fatalf("got %+v, %v; want the token, with a user PIN", info, err)
	}
	if string(fresh) != "246810" {
		t.Error("the caller's PIN was cleared")
	}
	if err := opens(tk.PIN); err == nil {
		t.Error("the PIN that was replaced opens the token")
	}
	if err := opens("246810"); err != nil {
		t.Errorf("the new PIN: %v", err)
	}
}

// A user's login is not disturbed by an officer who comes in between.
func TestInitPINWhileOpen(t *testing.T) {
	t.Parallel()
	tk := hsmtest.New(t)
	tok := tk.Open(t)
	uri, err := hsm.ParseURI(tk.URI)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := hsm.InitPIN(t.Context(), uri, []byte(tk.SOPIN), []byte("246810")); err == nil {
		t.Error("the officer has logged in beside the user")
	} else if _, ok := errors.AsType[*hsm.PINError](err); ok {
		t.Errorf("got %v, want an error that does not blame the PIN", err)
	}
	if _, err := tok.Keys(t.Context()); err != nil {
		t.Errorf("the token that was open: %v", err)
	}
}
