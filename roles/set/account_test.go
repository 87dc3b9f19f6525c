package set_test

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/der"
)

// series gives the octets from, from+1, ...
func series[T ~[20]byte](from byte) (v T) {
	var a [20]byte
	for i := range a {
		a[i] = from + byte(i)
	}
	return T(a)
}

func vectorAccount() set.PANData {
	return set.PANData{
		PAN: set.PAN("4111111111111111"), CardExpiry: set.CardExpiry("199912"),
		PANSecret: series[set.Secret](0), ExNonce: series[set.Nonce](100),
	}
}

const packedVector = "34313131313131313131313131313131ffffff" + "313939393132" +
	"000102030405060708090a0b0c0d0e0f10111213" + "6465666768696a6b6c6d6e6f7071727374757677"

// The vectors of the message reference that do not depend on a digest algorithm.
func TestVectors(t *testing.T) {
	t.Parallel()
	p := vectorAccount()
	for want, v := range map[string]any{
		"304612103431313131313131313131313131313112063139393931320414000102030405060708090a0b0c0d0e0f10111213" +
			"04146465666768696a6b6c6d6e6f7071727374757677": p,
		"301a1210343131313131313131313131313131311206313939393132": struct {
			PAN        set.PAN
			CardExpiry set.CardExpiry
		}{p.PAN, p.CardExpiry},
		"0414a0a1a2a3a4a5a6a7a8a9aaabacadaeafb0b1b2b3": series[set.XID](0xa0),
		"0604672a0034": set.ContentAuthReqTBE,
		"0604672a002a": set.ContentCardCInitResTBS,
	} {
		got, err := der.Marshal(v)
		if err != nil || hex.EncodeToString(got) != want {
			t.Errorf("Marshal = %x, %v, want %s", got, err, want)
		}
	}
	if got := hex.EncodeToString(p.Pack()); got != packedVector {
		t.Errorf("packed %s, want %s", got, packedVector)
	}
}

// The digest of an account is over its DER, also after a way through the packed form.
func TestPackedKeepsDigest(t *testing.T) {
	t.Parallel()
	p := vectorAccount()
	dd, err := cms.DD(set.ContentPANData, p)
	if err != nil {
		t.Fatal(err)
	}
	again, err := set.UnpackPANData(p.Pack())
	if err != nil {
		t.Fatal(err)
	}
	if err := dd.Check(set.ContentPANData, again); err != nil {
		t.Error(err)
	}
}

func TestPack(t *testing.T) {
	t.Parallel()
	acct, err := set.NewAcctIdentification("merchant 4711")
	if err != nil {
		t.Fatal(err)
	}
	secret, nonce := series[set.Secret](1), series[set.Nonce](2)
	for _, pan := range []string{"4", "411111111111", "4111111111111111111"} {
		pan, expiry := set.PAN(pan), set.CardExpiry("203001")
		roundTrip(t, set.PANData{PAN: pan, CardExpiry: expiry, PANSecret: secret, ExNonce: nonce}, 65, set.UnpackPANData)
		roundTrip(t, set.PANData0{PAN: pan, CardExpiry: expiry, CardSecret: secret, ExNonce: nonce}, 65, set.UnpackPANData0)
		roundTrip(t, set.PANToken{PAN: pan, CardExpiry: expiry, ExNonce: nonce}, 45, set.UnpackPANToken)
		roundTrip(t, set.PANOnly{PAN: pan, ExNonce: nonce}, 39, set.UnpackPANOnly)
	}
	roundTrip(t, set.AcctData{AcctIdentification: acct, ExNonce: nonce}, 94, set.UnpackAcctData)
	if got := acct.Text(); got != "merchant 4711" {
		t.Errorf("account identification without padding is %q", got)
	}
}

func roundTrip[T interface{ Pack() []byte }](t *testing.T, want T, size int, unpack func([]byte) (T, error)) {
	t.Helper()
	b := want.Pack()
	got, err := unpack(b)
	// The masked form of a difference would say nothing, so compare the encodings.
	if err != nil || len(b) != size || !bytes.Equal(mustMarshal(t, got), mustMarshal(t, want)) {
		t.Errorf("%T packs into %d octets, want %d, and unpacks otherwise: %v", want, len(b), size, err)
	}
	clear(b)
	if !bytes.Equal(mustMarshal(t, got), mustMarshal(t, want)) {
		t.Errorf("%T: unpacked value changes with the packed one", want)
	}
	for _, wrong := range [][]byte{nil, b[:size-1], append(b, 0)} {
		if _, err := unpack(wrong); err == nil {
			t.Errorf("%T unpacks from %d octets", want, len(wrong))
		}
	}
}

func mustMarshal(t *testing.T, v any) []byte {
	t.Helper()
	b, err := der.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestUnpackRefuses(t *testing.T) {
	t.Parallel()
	good := vectorAccount().Pack()
	for name, change := range map[string]func(b []byte){
		"no digit":                   func(b []byte) { copy(b, bytes.Repeat([]byte{0xff}, 19)) },
		"padding at the left":        func(b []byte) { b[0] = 0xff },
		"digit behind padding":       func(b []byte) { b[18] = '1' },
		"padding of another octet":   func(b []byte) { b[18] = 0xfe },
		"zero padding":               func(b []byte) { b[16], b[17], b[18] = 0, 0, 0 },
		"letter":                     func(b []byte) { b[3] = 'A' },
		"expiry with padding":        func(b []byte) { b[24] = 0xff },
		"expiry with a letter":       func(b []byte) { b[19] = 'Y' },
		"multi-octet digit in UTF-8": func(b []byte) { b[14], b[15] = 0xd9, 0xa1 },
	} {
		b := bytes.Clone(good)
		change(b)
		p, err := set.UnpackPANData(b)
		if err == nil || p.PAN != nil {
			t.Errorf("%s: accepted", name)
		} else if s := err.Error(); strings.Contains(s, "4111") || strings.Contains(s, "1999") {
			t.Errorf("%s: error quotes the account: %s", name, s)
		}
	}
	acct := bytes.Repeat([]byte{' '}, 94)
	acct[5] = 7
	if _, err := set.UnpackAcctData(acct); err == nil {
		t.Error("account data with a control character accepted")
	}
}

func TestPackRefuses(t *testing.T) {
	t.Parallel()
	expiry := set.CardExpiry("203001")
	for name, v := range map[string]interface{ Pack() []byte }{
		"no PAN":               set.PANData{CardExpiry: expiry},
		"PAN of 20 digits":     set.PANToken{PAN: set.PAN("41111111111111111111"), CardExpiry: expiry},
		"PAN with a letter":    set.PANOnly{PAN: set.PAN("4111A")},
		"short expiry":         set.PANData0{PAN: set.PAN("4111"), CardExpiry: expiry[:5]},
		"unpadded account":     set.AcctData{AcctIdentification: "x"},
		"account not in ASCII": set.AcctData{AcctIdentification: set.AcctIdentification(strings.Repeat("ü", 37))},
	} {
		if b := v.Pack(); b != nil {
			t.Errorf("%s: packed into %d octets", name, len(b))
		}
		if _, err := der.Marshal(v); err == nil {
			t.Errorf("%s: DER carries it, so it should pack", name)
		}
	}
	for _, text := range []string{strings.Repeat("x", 75), "tab\t", "ü"} {
		if a, err := set.NewAcctIdentification(text); err == nil {
			t.Errorf("account identification %q accepted", a.Text())
		}
	}
}

func TestClear(t *testing.T) {
	t.Parallel()
	p, zero := vectorAccount(), make([]byte, 16)
	pan, expiry := p.PAN, p.CardExpiry
	p.Clear()
	if !bytes.Equal(pan, zero) || !bytes.Equal(expiry, zero[:6]) || p.PAN != nil || p.PANSecret != (set.Secret{}) {
		t.Error("the account is still there")
	}
	token := set.PANToken{PAN: set.PAN("4111"), CardExpiry: set.CardExpiry("203001")}
	only := set.PANOnly{PAN: set.PAN("4111")}
	zeroed := set.PANData0{PAN: set.PAN("4111"), CardExpiry: set.CardExpiry("203001")}
	pans := []set.PAN{token.PAN, only.PAN, zeroed.PAN}
	token.Clear()
	only.Clear()
	zeroed.Clear()
	for i, pan := range pans {
		if !bytes.Equal(pan, zero[:4]) {
			t.Errorf("PAN %d is still there", i)
		}
	}
	if diff := cmp.Diff(0, len(token.PAN)+len(only.PAN)+len(zeroed.PAN)); diff != "" {
		t.Error(diff)
	}
}

func FuzzUnpack(f *testing.F) {
	p := vectorAccount()
	f.Add(p.Pack())
	f.Add(set.PANToken{PAN: p.PAN, CardExpiry: p.CardExpiry}.Pack())
	f.Add(set.PANOnly{PAN: p.PAN}.Pack())
	f.Add(bytes.Repeat([]byte{' '}, 94))
	f.Fuzz(func(t *testing.T, b []byte) {
		var again []byte
		switch len(b) {
		case 65:
			if p, err := set.UnpackPANData(b); err == nil {
				again = p.Pack()
			}
		case 45:
			if p, err := set.UnpackPANToken(b); err == nil {
				again = p.Pack()
			}
		case 39:
			if p, err := set.UnpackPANOnly(b); err == nil {
				again = p.Pack()
			}
		case 94:
			if p, err := set.UnpackAcctData(b); err == nil {
				again = p.Pack()
			}
		}
		if again != nil && !bytes.Equal(again, b) {
			t.Errorf("%x unpacks, but packs as %x", b, again)
		}
	})
}
