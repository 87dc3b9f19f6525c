package set_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/der"
)

func initiation() *set.Initiation {
	return &set.Initiation{
		Kind: set.PaymentInitiation, SETURL: "http://shop.example/set", QueryURL: "http://shop.example/help",
		SuccessURL: "http://shop.example/ok", FailureURL: "http://shop.example/failed", CancelURL: "http://shop.example/cancelled",
		ServiceURL: "https://shop.example/service", Versions: []string{"1.0"}, LIDM: set.LocalID{1, 2, 3}, PurchAmt: &price, InstallRecur: set.Instalments(5),
		Brands: []set.BrandID{"Campus:Gold", "Campus"}, OrderType: "text/plain", Languages: []string{"en", "fr"}, Echo: "a=b",
		Extensions: set.MsgExtensions{{ID: set.ExtPEThumb, Critical: true, Value: der.Raw{5, 0}}},
		Order:      []byte("2 x Pencil\r\n\r\n1 x Étui\n"),
	}
}

func TestInitiationRoundTrip(t *testing.T) {
	want := initiation()
	b, err := want.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := set.ParseInitiation(b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestInitiationOfRepeatedPayment(t *testing.T) {
	for name, c := range map[string]struct {
		terms *set.InstallRecurData
		ok    bool
	}{
		"instalments":      {set.Instalments(5), true},
		"recurring":        {set.RecurringPayments(28, time.Date(2031, 12, 31, 10, 0, 0, 0, time.UTC)), true},
		"one instalment":   {set.Instalments(1), false},
		"every 301 days":   {set.RecurringPayments(301, time.Date(2031, 12, 31, 0, 0, 0, 0, time.UTC)), false},
		"an hour of a day": {&set.InstallRecurData{InstallRecurInd: set.InstallRecurInd{Recurring: &set.Recurring{RecurringFrequency: 1, RecurringExpiry: time.Unix(0, 0)}}}, false},
		"of either kind":   {&set.InstallRecurData{}, false},
	} {
		m := initiation()
		m.InstallRecur = c.terms
		b, err := m.Encode()
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil {
			continue
		}
		if got := must[*set.Initiation](t)(set.ParseInitiation(b)); !cmp.Equal(got.InstallRecur, c.terms) {
			t.Errorf("%s: read as %+v", name, got.InstallRecur)
		}
		// The cardholder is asked before it is agreed.
		p := must[*set.Purchase](t)(set.NewPurchase(m, m.Brands[0], "411111", "en"))
		if p.InstallRecurData != nil {
			t.Errorf("%s: agreed without a word", name)
		}
	}
}

func TestInitiationUnknownFieldsAndCase(t *testing.T) {
	b, err := initiation().Encode()
	if err != nil {
		t.Fatal(err)
	}
	b = bytes.Replace(b, []byte("SET-Echo"), []byte("SET-Future: 1\r\nset-ECHO "), 1)
	if m, err := set.ParseInitiation(b); err != nil || m.Echo != "a=b" {
		t.Errorf("got %+v, %v", m, err)
	}
}

func TestInitiationRefused(t *testing.T) {
	b, err := initiation().Encode()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ old, new string }{
		"no end of fields":         {"\r\n\r\n", "\r\n"},
		"script address":           {"http://shop.example/ok", "javascript:alert(1)"},
		"file address":             {"http://shop.example/set", "file:///etc/passwd"},
		"address with a password":  {"http://shop.example/set", "http://u:p@shop.example/set"},
		"no address":               {"SET-Cancel-URL", "SET-Other"},
		"no amount":                {"SET-PurchAmt", "SET-Other"},
		"no brand":                 {"SET-Brand", "SET-Other"},
		"negative amount":          {"840 4250 -2", "840 -4250 -2"},
		"currency 0":               {"840 4250 -2", "0 4250 -2"},
		"amount in words":          {"840 4250 -2", "USD 42.50"},
		"LID-M too long":           {"010203", strings.Repeat("00", 21)},
		"LID-M not in hex":         {"010203", "xyz"},
		"unknown kind":             {"Payment-Initiation", "Gift"},
		"one instalment":           {"install 5", "install 1"},
		"too many instalments":     {"install 5", "install 1001"},
		"recurring without end":    {"install 5", "recur 28"},
		"recurring to no day":      {"install 5", "recur 28 20271301"},
		"recurring too seldom":     {"install 5", "recur 301 20271231"},
		"version 2.0":              {"SET-Version: 1.0", "SET-Version: 2.0"},
		"control character":        {"a=b", "a\x1bb"},
		"line without colon":       {"SET-Echo: a=b", "SET-Echo"},
		"extension not in base64":  {"BQA=", "!"},
		"mandatory neither or not": {"TRUE", "YES"},
	} {
		bad := bytes.ReplaceAll(b, []byte(c.old), []byte(c.new))
		if bytes.Equal(bad, b) {
			t.Fatalf("%s: %q does not occur", name, c.old)
		}
		if name == "no end of fields" {
			bad = bytes.Split(bad, []byte("2 x"))[0]
		}
		if m, err := set.ParseInitiation(bad); err == nil {
			t.Errorf("%s: accepted as %+v", name, m)
		}
	}
	if _, err := set.ParseInitiation(append(b, make([]byte, 64<<10)...)); err == nil {
		t.Error("64 KiB accepted")
	}
}

// A value that would break out of its line cannot be written.
func TestInitiationInjection(t *testing.T) {
	for _, evil := range []string{"x\r\nSET-Brand: Evil", "x\r\nSET-LID-M: 00", "x\r\n\r\norder"} {
		m := initiation()
		m.Echo = evil
		if b, err := m.Encode(); err == nil {
			t.Errorf("written:\n%s", b)
		}
	}
}

func FuzzParseInitiation(f *testing.F) {
	b, err := initiation().Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := set.ParseInitiation(b)
		if err != nil {
			return
		}
		if !strings.HasPrefix(m.SETURL, "http") || m.Kind == "" {
			t.Errorf("incomplete message accepted: %+v", m)
		}
	})
}
