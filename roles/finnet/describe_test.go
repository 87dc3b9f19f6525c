package finnet

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/moov-io/iso8583"

	"github.com/setkit/setkit/roles/set"
)

func TestDescribeMasks(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	xid := set.NewXID()
	trace := NewTrace("411111", now)
	pan, expiry := set.PAN("4111111111111111"), set.CardExpiry("203512")
	for name, c := range map[string]struct {
		request interface {
			encode() (*iso8583.Message, error)
		}
		want []string
	}{
		"authorization": {&Authorization{
			Trace: trace, PAN: pan, Expiry: expiry, Amount: set.CurrencyAmount{Currency: 840, Amount: 3650, AmtExp10: -2},
			Merchant: Merchant{ID: "M-0001", Name: "Harbour Books"}, XID: xid,
		}, []string{"0100", "000000003650", "Harbour Books", "**** 1111", xid.String()}},
		"account check": {&AccountCheck{
			Trace: trace, PAN: pan, Expiry: expiry, Holder: "Alice Andersen", Secret: []byte("tulip-harbour-41"),
		}, []string{"0100", "**** 1111"}},
	} {
		m, err := c.request.encode()
		if err != nil {
			t.Fatal(err)
		}
		octets, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		d, err := Describe(octets)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if d.Name != name || d.Match == "" {
			t.Errorf("%s is called %q, match %q", name, d.Name, d.Match)
		}
		shown := fmt.Sprint(d)
		for _, want := range c.want {
			if !strings.Contains(shown, want) {
				t.Errorf("%s does not show %q:\n%s", name, want, shown)
			}
		}
		for _, secret := range []string{"4111111111111111", "3512", "Alice", "tulip"} {
			if strings.Contains(shown, secret) || strings.Contains(shown, hex.EncodeToString([]byte(secret))) {
				t.Errorf("%s shows %q:\n%s", name, secret, shown)
			}
		}
		if d, err := Describe(octets[:len(octets)-1]); err == nil {
			t.Errorf("%s: cut off, it is described: %v", name, d)
		}
	}
}

// Whatever is described has no field in clear that is not on the list.
func FuzzDescribe(f *testing.F) {
	a := &Authorization{
		Trace: NewTrace("411111", time.Unix(0, 0)), PAN: set.PAN("4111111111111111"), Expiry: set.CardExpiry("203512"),
		Amount: set.CurrencyAmount{Currency: 840, Amount: 1, AmtExp10: -2}, Merchant: Merchant{ID: "M"}, XID: set.NewXID(),
	}
	m, err := a.encode()
	if err != nil {
		f.Fatal(err)
	}
	octets, err := m.Pack()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(octets)
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := Describe(b)
		if err != nil {
			return
		}
		for _, field := range d.Fields {
			if field.Number == "2" && !field.Masked || field.Number == "14" && field.Value != maskedField {
				t.Errorf("field %s is %q", field.Number, field.Value)
			}
		}
		if !bytes.Contains(b, []byte(d.MTI)) {
			t.Errorf("type %q is not in the message", d.MTI)
		}
	})
}
