package pki_test

import (
	"bytes"
	"encoding/asn1"
	"testing"

	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/der"
	"github.com/setkit/setkit/roles/set/pki"
)

func FuzzParseCertificate(f *testing.F) {
	w := newWorld(f, p256, false)
	for _, who := range []string{"root", "bca", "card", "mer signature", "pgwy exchange"} {
		f.Add(w.all[who].cert.X509.Raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := pki.ParseCertificate(raw)
		if err != nil {
			return
		}
		if !bytes.Equal(c.X509.Raw, raw) || c.Type == 0 || c.Use == 0 || c.Brand() == "" {
			t.Errorf("accepted as %v of brand %q", c, c.Brand())
		}
	})
}

func FuzzParseCRL(f *testing.F) {
	w := newWorld(f, p256, false)
	f.Add(crl(f, w.pca, 1).X509.Raw)
	f.Add(crl(f, w.root, 1<<40, w.bca.cert, w.cca.cert).X509.Raw)
	f.Fuzz(func(t *testing.T, raw []byte) {
		l, err := pki.ParseCRL(raw)
		if err != nil {
			return
		}
		if !bytes.Equal(l.X509.Raw, raw) || l.Number < 0 {
			t.Errorf("accepted as CRL %d of %v", l.Number, l.Issuer)
		}
		for _, e := range l.X509.RevokedCertificateEntries {
			if !l.Revokes(e.SerialNumber) {
				t.Errorf("entry %x is not revoked", e.SerialNumber)
			}
		}
	})
}

func FuzzParseBCI(f *testing.F) {
	w := newWorld(f, p256, false)
	f.Add(bci(f, w.bca, 0).Raw)
	f.Add(bci(f, w.bca, 7, crl(f, w.pca, 1), crl(f, w.bca, 2)).Raw)
	f.Fuzz(func(t *testing.T, raw []byte) {
		b, err := pki.ParseBCI(raw)
		if err != nil {
			return
		}
		if !bytes.Equal(b.Raw, raw) || b.Brand == "" || b.Sequence < 0 || b.Validity.NotAfter.Before(b.Validity.NotBefore) {
			t.Errorf("accepted as BCI %d of %q, %v", b.Sequence, b.Brand, b.Validity)
		}
	})
}

// FuzzExtensions puts any value into any extension of a certificate that has it. What is accepted must
// give the same value when it is encoded again.
func FuzzExtensions(f *testing.F) {
	w := newWorld(f, p256, false)
	hosts := []string{"root", "cca", "mer signature", "pgwy exchange"}
	for i, host := range hosts {
		for j, e := range w.all[host].cert.X509.Extensions {
			f.Add(byte(i), byte(j), e.Value)
		}
	}
	f.Fuzz(func(t *testing.T, host, which byte, value []byte) {
		c := w.all[hosts[int(host)%len(hosts)]].cert
		e := c.X509.Extensions[int(which)%len(c.X509.Extensions)]
		got, err := pki.ParseCertificate(withExtension(t, c, e.Id, value))
		if err != nil {
			return
		}
		var again any
		switch {
		case e.Id.Equal(oidCertificateType):
			again = got.Type
		case e.Id.Equal(oidPrivateKeyPeriod):
			again = *got.PrivateKeyUsage
		case e.Id.Equal(oidHashedRootKey):
			again = struct{ D cms.DetachedDigest }{*got.NextRootKey}
		case e.Id.Equal(oidCardCertRequired):
			again = got.CardCertRequired
		case e.Id.Equal(oidTunneling):
			again = *got.Tunneling
		case e.Id.Equal(oidSETExtensions):
			again = got.SETExtensions
		case e.Id.Equal(oidMerchantData):
			tmpl := leafTemplate(pki.Mer, pki.Signature, got.Subject)
			tmpl.Merchant = got.Merchant
			p := issue(t, tmpl, w.root.key, w.mca)
			value2, _ := extensionOf(t, p.cert, e.Id.String())
			again = der.Raw(value2)
		default:
			return
		}
		if b := mustDER(t, again); !bytes.Equal(b, value) {
			t.Errorf("extension %v accepted %x, which is %x", e.Id, value, b)
		}
	})
}

// withExtension replaces the value of an extension in a certificate, whose signature then is wrong.
func withExtension(t testing.TB, c *pki.Certificate, id asn1.ObjectIdentifier, value []byte) []byte {
	t.Helper()
	type wire struct {
		ID       asn1.ObjectIdentifier
		Critical bool `asn1:"optional"`
		Value    []byte
	}
	var list []wire
	for _, e := range c.X509.Extensions {
		if e.Id.Equal(id) {
			e.Value = value
		}
		list = append(list, wire{e.Id, e.Critical, e.Value})
	}
	tbs := tbsOf(t, c.X509.Raw)
	tbs[len(tbs)-1] = asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 3, IsCompound: true, Bytes: mustASN1(t, list)}
	return withTBS(t, c.X509.Raw, tbs)
}
