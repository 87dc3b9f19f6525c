package set_test

import (
	"bytes"
	"reflect"
	"testing"

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
