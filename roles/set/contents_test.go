package set_test

import (
	"encoding/asn1"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/der"
)

// capRevOrCred begins the names of contents that have one structure (SET §5.10).
var capRevOrCred = regexp.MustCompile(`^(CapRev|CredRev|Cred)`)

// Whatever has a content type and a structure is decoded by the one into the other.
func TestContents(t *testing.T) {
	t.Parallel()
	found := make(map[reflect.Type]bool)
	for n := 0; set.OIDName(asn1.ObjectIdentifier{2, 23, 42, 0, n}) != ""; n++ {
		id := asn1.ObjectIdentifier{2, 23, 42, 0, n}
		name := set.OIDName(id)
		into := set.NewContent(id)
		if into == nil {
			continue
		}
		typ := reflect.TypeOf(into).Elem()
		found[typ] = true
		if plain := capRevOrCred.ReplaceAllString(strings.ReplaceAll(name, "-", ""), "CapRevOrCred"); !strings.Contains(typ.Name(), "[") && typ.Name() != plain {
			t.Errorf("%s is decoded into %s", name, typ)
		}
		want := full().value(typ, "v").Interface()
		b, err := der.Marshal(want)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err := set.Unmarshal(b, into); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(want, reflect.ValueOf(into).Elem().Interface(), exact); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	for _, v := range plaintexts {
		typ := reflect.TypeOf(v)
		if typ != reflect.TypeFor[set.PANData0]() && typ != reflect.TypeFor[set.AcctData]() && !found[typ] {
			t.Errorf("no content type gives %s", typ)
		}
	}
}

// What SET §3.4 puts beside the key is expected there, and nowhere else.
func TestBlocks(t *testing.T) {
	t.Parallel()
	extra := map[string][]cms.BlockContents{
		"PIDualSignedTBE": {cms.WithPANData}, "PIUnsignedTBE": {cms.WithHashToken}, "RegFormReqTBE": {cms.WithHashPANOnly},
		"CertReqTBEX": {cms.WithPANData0, cms.WithAcctData}, "AuthTokenTBE": {cms.WithPANToken},
	}
	for n := 0; set.OIDName(asn1.ObjectIdentifier{2, 23, 42, 0, n}) != ""; n++ {
		id := asn1.ObjectIdentifier{2, 23, 42, 0, n}
		want := extra[set.OIDName(id)]
		switch {
		case want != nil:
		case strings.HasSuffix(set.OIDName(id), "TBEX"):
			want = []cms.BlockContents{cms.WithPANToken}
		default:
			want = []cms.BlockContents{cms.Plain}
		}
		if got := set.Blocks(id); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v, want %v", set.OIDName(id), got, want)
		}
	}
}

// The extra data of an RSA block is read into what was packed.
func TestUnpackExtra(t *testing.T) {
	t.Parallel()
	f := full()
	for bc, v := range map[cms.BlockContents]interface{ Pack() []byte }{
		cms.WithPANData:     f.value(reflect.TypeFor[set.PANData](), "v").Interface().(set.PANData),
		cms.WithPANData0:    f.value(reflect.TypeFor[set.PANData0](), "v").Interface().(set.PANData0),
		cms.WithPANToken:    f.value(reflect.TypeFor[set.PANToken](), "v").Interface().(set.PANToken),
		cms.WithHashToken:   f.value(reflect.TypeFor[set.PANToken](), "v").Interface().(set.PANToken),
		cms.WithHashPANOnly: f.value(reflect.TypeFor[set.PANOnly](), "v").Interface().(set.PANOnly),
		cms.WithAcctData:    f.value(reflect.TypeFor[set.AcctData](), "v").Interface().(set.AcctData),
	} {
		got, err := set.UnpackExtra(bc, v.Pack())
		if err != nil || !reflect.DeepEqual(got, v) {
			t.Errorf("%#x: %v, %v", byte(bc), err, reflect.DeepEqual(got, v))
		}
		if _, err := set.UnpackExtra(bc, v.Pack()[1:]); err == nil {
			t.Errorf("%#x: a shorter one is accepted", byte(bc))
		}
	}
	if got, err := set.UnpackExtra(cms.Plain, nil); got != nil || err != nil {
		t.Errorf("a block with the key alone: %v, %v", got, err)
	}
}
