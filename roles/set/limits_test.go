package set_test

import (
	"bytes"
	"crypto/rsa"
	"errors"
	"math/big"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/der"
)

// A message is taken up to its limit, and not beyond.
func TestMessageSize(t *testing.T) {
	t.Parallel()
	w := full().value(reflect.TypeFor[set.MessageWrapper](), "w").Interface().(set.MessageWrapper)
	w.MWExtensions = w.MWExtensions[:1]
	sized := func(size int) ([]byte, error) {
		w.MWExtensions[0].Value = must[[]byte](t)(der.Marshal(make([]byte, 900_000)))
		b := must[[]byte](t)(der.Marshal(w))
		w.MWExtensions[0].Value = must[[]byte](t)(der.Marshal(make([]byte, 900_000+size-len(b))))
		if b = must[[]byte](t)(der.Marshal(w)); len(b) != size {
			t.Fatalf("made %d octets, want %d", len(b), size)
		}
		return set.Encode(w)
	}
	for size, ok := range map[int]bool{set.MessageOctetsMax - 1: true, set.MessageOctetsMax: true, set.MessageOctetsMax + 1: false} {
		b, err := sized(size)
		if (err == nil) != ok {
			t.Errorf("%d octets: %v, want encoded %t", size, err, ok)
		}
		if !ok {
			b = bytes.Repeat([]byte{0x30}, size)
		}
		if _, err := set.Decode(b); (err == nil) != ok || !ok && code(err) != set.MessageTooBig {
			t.Errorf("%d octets: %v, want decoded %t", size, err, ok)
		}
	}
}

// Sequences without a bound of SET's own have ours, and those with a least number have that.
func TestCounts(t *testing.T) {
	t.Parallel()
	f := &filler{present: nothing, pick: first}
	item := func(v any) any { return f.value(reflect.TypeOf(v), "").Interface() }
	capItem := item(set.CapItem{}).(set.CapItem)
	tags := item(set.RRTags{}).(set.RRTags)
	brand := set.BrandAndBIN{BrandID: "B"}
	for name, sequence := range map[string]func(n int) (v, into any){
		"captures": func(n int) (any, any) {
			return set.CapReqData{CapRRTags: tags, CapItemSeq: repeat(capItem, n)}, new(set.CapReqData)
		},
		"brands": func(n int) (any, any) {
			return set.PCertReqData{PCertTags: tags, BrandAndBINSeq: repeat(brand, n)}, new(set.PCertReqData)
		},
		"items to adjust": func(n int) (any, any) {
			return set.CapRevOrCredReqData{CapRevOrCredRRTags: tags, CapRevOrCredReqItemSeq: repeat(item(set.CapRevOrCredReqItem{}).(set.CapRevOrCredReqItem), n)},
				new(set.CapRevOrCredReqData)
		},
		"items of a batch": func(n int) (any, any) {
			return set.TransDetails{TransactionDetailSeq: repeat(item(set.TransactionDetail{}).(set.TransactionDetail), n)}, new(set.TransDetails)
		},
	} {
		for n, ok := range map[int]bool{0: false, 1: true, der.ElementsMax: true, der.ElementsMax + 1: false} {
			v, into := sequence(n)
			b, err := der.Marshal(v)
			if (err == nil) != ok {
				t.Errorf("%d %s: %v, want encoded %t", n, name, err, ok)
			}
			if err == nil && set.Unmarshal(b, into) != nil {
				t.Errorf("%d %s: not decoded", n, name)
			}
		}
	}
}

// An initiation message is read up to its limits of octets and lines, and what it says up to those of the terms.
func TestInitiationLimits(t *testing.T) {
	t.Parallel()
	head := func(terms string, lines int) []byte {
		m := initiation()
		m.InstallRecur, m.Order = nil, nil
		fields := strings.TrimSuffix(string(must[[]byte](t)(m.Encode())), "\r\n\r\n")
		if terms != "" {
			fields += "\r\nSET-InstallRecur: " + terms
		}
		if more := lines - strings.Count(fields, "\r\n") - 2; more > 0 {
			fields += strings.Repeat("\r\nX-More: x", more)
		}
		return []byte(fields + "\r\n\r\n")
	}
	for octets, ok := range map[int]bool{64<<10 - 1: true, 64 << 10: true, 64<<10 + 1: false} {
		b := head("", 0)
		if _, err := set.ParseInitiation(append(b, make([]byte, octets-len(b))...)); (err == nil) != ok {
			t.Errorf("%d octets: %v, want accepted %t", octets, err, ok)
		}
	}
	for lines, ok := range map[int]bool{199: true, 200: true, 201: false} {
		b := head("", lines)
		if n := bytes.Count(b, []byte("\r\n")); n != lines {
			t.Fatalf("made %d lines, want %d", n, lines)
		}
		if _, err := set.ParseInitiation(b); (err == nil) != ok {
			t.Errorf("%d lines: %v, want accepted %t", lines, err, ok)
		}
	}
	for terms, ok := range map[string]bool{
		"install 1": false, "install 2": true, "install 3": true, "install 999": true, "install 1000": true, "install 1001": false,
		"recur 0 20311231": false, "recur 1 20311231": true, "recur 299 20311231": true, "recur 300 20311231": true, "recur 301 20311231": false,
	} {
		if _, err := set.ParseInitiation(head(terms, 0)); (err == nil) != ok {
			t.Errorf("%s: %v, want accepted %t", terms, err, ok)
		}
	}
}

// A page of a batch has no more items than a message should, whatever is asked for.
func TestPageLimit(t *testing.T) {
	t.Parallel()
	for items, want := range map[int]int{999: 999, 1000: 1000, 1001: 1000} {
		b := new(set.Batch)
		for i := range items {
			b.Items = append(b.Items, set.TransactionDetail{BatchSequenceNum: set.Positive(i + 1)})
		}
		page := b.Page(set.ReturnTransactionDetail{MaximumItems: 5000})
		if n := len(page.TransactionDetailSeq); n != want || (page.NextStartingPoint == 1001) != (items > want) {
			t.Errorf("%d of %d items, the next page from %d", n, items, page.NextStartingPoint)
		}
	}
}

// An Error shows what could not be decoded, up to its limit.
func TestBadWrapperLimit(t *testing.T) {
	t.Parallel()
	e := &set.Endpoint{Software: "test"}
	for octets, want := range map[int]int{
		set.BadWrapperOctetsMax - 1: set.BadWrapperOctetsMax - 1, set.BadWrapperOctetsMax: set.BadWrapperOctetsMax, set.BadWrapperOctetsMax + 1: set.BadWrapperOctetsMax,
	} {
		b := must[[]byte](t)(e.ErrorResponse(time.Now(), bytes.Repeat([]byte{7}, octets), nil, &set.ProtocolError{Code: set.DecodingFailure}))
		shown := *must[*set.MessageWrapper](t)(set.Decode(b)).Message.Error.UnsignedError.ErrorMsg.BadWrapper
		if len(shown) != want {
			t.Errorf("%d of %d octets are shown, want %d", len(shown), octets, want)
		}
	}
}

// Amounts are scaled against each other up to the digits that an amount can have, and divided up to exponents
// that a ratio can have.
func TestAmountLimits(t *testing.T) {
	t.Parallel()
	for exp, ok := range map[int64]bool{17: true, 18: true, 19: false} {
		if _, got := usd(1, exp).Plus(usd(1, 0)); got != ok {
			t.Errorf("1e%d + 1: %t, want %t", exp, got, ok)
		}
		if _, got := usd(1, exp).Minus(usd(1, 0)); got != ok {
			t.Errorf("1e%d - 1: %t, want %t", exp, got, ok)
		}
	}
	for exp, ok := range map[int64]bool{299: true, 300: true, 301: false} {
		if _, got := set.Ratio(usd(1, exp), usd(1, 0)); got != ok {
			t.Errorf("1e%d / 1: %t, want %t", exp, got, ok)
		}
		if _, got := set.Ratio(usd(1, 0), usd(1, exp)); got != ok {
			t.Errorf("1 / 1e%d: %t, want %t", exp, got, ok)
		}
	}
	for exp, want := range map[int64]string{18: "1" + strings.Repeat("0", 18) + " USD", 19: "1" + strings.Repeat("0", 19) + " USD", 20: "1e20 USD"} {
		if got := usd(1, exp).String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// RSA keys are certified within their limits.
func TestKeySizes(t *testing.T) {
	t.Parallel()
	m := newMeAq(t, set.MerInitialBoth, shop)
	m.toForm(t, nil)
	for bits, ok := range map[int]bool{2047: false, 2048: true, 2049: true, 8191: true, 8192: true, 8193: false} {
		n := new(big.Int).SetBit(big.NewInt(1), bits-1, 1)
		b := must[[]byte](t)(m.state.CertReq(m.self, m.Now, answers, m.sign, &rsa.PublicKey{N: n, E: 65537}))
		w := must[*set.MessageWrapper](t)(m.ca.Receive(m.Now, b, set.CertReqType))
		_, err := m.ca.OpenCertReq(m.Now, w)
		var refusal *set.CertStatusError
		if (err == nil) != ok || !ok && (!errors.As(err, &refusal) || refusal.Code != set.RejectedByCA) {
			t.Errorf("%d bits: %v, want accepted %t", bits, err, ok)
		}
	}
}
