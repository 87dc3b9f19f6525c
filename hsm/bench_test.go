package hsm_test

import (
	"crypto"
	"crypto/sha256"
	"testing"
	"time"

	"github.com/setkit/setkit/hsm"
	"github.com/setkit/setkit/hsm/hsmtest"
)

// BenchmarkSign times a signature through this package, which includes its verification, and reports
// its time divided by that of C_Sign alone on the same key, measured in turns.
func BenchmarkSign(b *testing.B) {
	for _, bb := range []struct {
		typ       hsm.KeyType
		mechanism uint
	}{{hsm.ECP256, hsm.MechanismECDSA}, {hsm.RSA2048, hsm.MechanismRSA}} {
		b.Run(string(bb.typ), func(b *testing.B) {
			tok := hsmtest.New(b).Open(b)
			generate(b, tok, "k", hsm.PurposeSign, bb.typ)
			key, err := tok.Signer(b.Context(), "k")
			if err != nil {
				b.Fatal(err)
			}
			raw, done, err := hsm.RawSigner(key, bb.mechanism)
			if err != nil {
				b.Fatal(err)
			}
			defer done()
			digest := sha256.Sum256([]byte("m"))
			var whole, alone time.Duration
			for b.Loop() {
				start := time.Now()
				if _, err := key.Sign(nil, digest[:], crypto.SHA256); err != nil {
					b.Fatal(err)
				}
				middle := time.Now()
				if err := raw(digest[:]); err != nil {
					b.Fatal(err)
				}
				whole, alone = whole+middle.Sub(start), alone+time.Since(middle)
			}
			b.ReportMetric(float64(whole.Nanoseconds())/float64(b.N), "ns/sign")
			b.ReportMetric(float64(alone.Nanoseconds())/float64(b.N), "ns/C_Sign")
			b.ReportMetric(float64(whole)/float64(alone), "x-C_Sign")
		})
	}
}
