package bundle_test

import (
	"bytes"
	"crypto/elliptic"
	"testing"

	"github.com/setkit/setkit/roles/set/bundle"
	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/der"
	"github.com/setkit/setkit/roles/set/settest"
)

// small is full with little to decode in its logos.
func small(f *testing.F, w *settest.World) bundle.Bundle {
	b := full(f, w)
	b.Brands[0].Logo = logo(f, 2, 3)
	return b
}

// FuzzOpen opens files that nobody signed.
func FuzzOpen(f *testing.F) {
	w := settest.NewWorld(f)
	f.Add(sign(f, least(w), w.Root, ecKey(f, elliptic.P256()), nil).Raw)
	f.Add(sign(f, small(f, w), w.Root, ecKey(f, elliptic.P256()), ecKey(f, elliptic.P384())).Raw)
	f.Fuzz(func(t *testing.T, raw []byte) {
		s, err := bundle.Open(raw)
		if err != nil {
			return
		}
		if !bytes.Equal(s.Raw, raw) || s.RootCert == nil || s.Cert == nil {
			t.Errorf("opened %+v", s)
		}
	})
}

// FuzzContent opens contents that a hostile bank signed: what is behind the signature is decoded as
// strictly as what is before it.
func FuzzContent(f *testing.F) {
	w := settest.NewWorld(f)
	key := ecKey(f, elliptic.P256())
	var signer cms.Signer
	for _, b := range []bundle.Bundle{small(f, w), least(w)} {
		s := sign(f, b, w.Root, key, nil)
		content, err := der.Marshal(s.Bundle)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(content)
		signer = cms.Signer{Key: key, Certificate: s.Cert}
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		raw, err := forge(t, der.Raw(content), signer)
		if err != nil {
			return
		}
		s, err := bundle.Open(raw)
		if err != nil {
			return
		}
		again, err := der.Marshal(s.Bundle)
		if err != nil || !bytes.Equal(again, content) {
			t.Errorf("opened %+v, which encodes differently (%v)", s.Bundle, err)
		}
	})
}
