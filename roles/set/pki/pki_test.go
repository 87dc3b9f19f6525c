package pki_test

import (
	"crypto/sha256"
	"encoding/asn1"
	"encoding/hex"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/setkit/setkit/roles/set/der"
	"github.com/setkit/setkit/roles/set/pki"
)

func TestIssueEveryHolder(t *testing.T) {
	t.Parallel()
	for name, key := range map[string]newKey{"P-256": p256, "P-384": p384, "RSA": rsa2048} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, key, name == "P-384")
			v, err := pki.NewVerifier([]*pki.Certificate{w.root.cert}, pki.Options{})
			if err != nil {
				t.Fatal(err)
			}
			for what, p := range w.all {
				again, err := pki.ParseCertificate(p.cert.X509.Raw)
				if err != nil {
					t.Fatalf("%s: %v", what, err)
				}
				if again.String() != p.cert.String() || again.Thumbprint() != sha256.Sum256(p.cert.X509.RawTBSCertificate) {
					t.Errorf("%s: came back as %v", what, again)
				}
				chain, err := v.Verify(p.cert, w.intermediates(), now, p.cert.Type)
				if err != nil {
					t.Errorf("%s: %v", what, err)
					continue
				}
				if chain[0] != p.cert || chain[len(chain)-1] != w.root.cert {
					t.Errorf("%s: chain %v", what, chain)
				}
			}
		})
	}
}

func TestCertificateFields(t *testing.T) {
	t.Parallel()
	w := newWorld(t, p256, false)
	mer := w.all["mer exchange"].cert
	if diff := cmp.Diff(merchant(), mer.Merchant); diff != "" {
		t.Errorf("merchant data (-want +got):\n%s", diff)
	}
	want := pki.Name{Country: "DK", Brand: "Acme:Gold", Unit: "Bank A/S", CommonName: "Kaffebønnen"}
	if diff := cmp.Diff(want, mer.Subject); diff != "" {
		t.Errorf("name (-want +got):\n%s", diff)
	}
	gateway := w.all["pgwy exchange"].cert
	tunneling := &pki.Tunneling{Supported: true, Algorithms: []asn1.ObjectIdentifier{oidAES256GCM}}
	if diff := cmp.Diff(tunneling, gateway.Tunneling); diff != "" || !gateway.CardCertRequired || gateway.PrivateKeyUsage != nil {
		t.Errorf("gateway: cardCertRequired %t, period %v, tunneling (-want +got):\n%s", gateway.CardCertRequired, gateway.PrivateKeyUsage, diff)
	}
	if diff := cmp.Diff([]asn1.ObjectIdentifier{{2, 23, 42, 1, 8}}, gateway.SETExtensions); diff != "" {
		t.Errorf("setExtensions (-want +got):\n%s", diff)
	}
	if n := mer.X509.SerialNumber; n.Sign() <= 0 || n.BitLen() < 64 || n.BitLen() > 128 {
		t.Errorf("serial number %x is not 16 random octets", n)
	}
}

// TestExtensionOctets holds the encodings of SET §6.3 against octets written down by hand.
func TestExtensionOctets(t *testing.T) {
	t.Parallel()
	w := newWorld(t, p256, true)
	const (
		certificateType = "2.23.42.7.1"
		keyUsage        = "2.5.29.15"
		basic           = "2.5.29.19"
		policies        = "2.5.29.32"
	)
	for _, c := range []struct {
		who, oid, want string
		critical       bool
	}{
		{"card", certificateType, "03020780", true},
		{"mer signature", certificateType, "03020640", true},
		{"pgwy exchange", certificateType, "03020520", true},
		{"cca", certificateType, "03020410", true},
		{"mca signature", certificateType, "03020308", true},
		{"pca exchange", certificateType, "03020204", true},
		{"gca", certificateType, "03020102", true},
		{"bca", certificateType, "03020001", true},
		{"root", certificateType, "0303070080", true},
		{"card", keyUsage, "03020780", true},
		{"mer exchange", keyUsage, "03020430", true},
		{"cca", keyUsage, "03020204", true},
		{"pca", keyUsage, "03020106", true},
		{"card", basic, "3000", true},
		{"cca", basic, "30060101ff020100", true},
		{"gca", basic, "30060101ff020101", true},
		{"bca", basic, "30060101ff020102", true},
		{"root", basic, "30030101ff", true},
		{"card", policies, "300830060604672a0500", true},
		{"pgwy exchange", "2.23.42.7.3", "0101ff", false},
		{"pgwy exchange", "2.23.42.7.4", "300d300b060960864801650304012e", false},
		{"pgwy exchange", "2.23.42.7.5", "30060604672a0108", false},
	} {
		got, critical := extensionOf(t, w.all[c.who].cert, c.oid)
		if hex.EncodeToString(got) != c.want || critical != c.critical {
			t.Errorf("%s %s = %x, critical %t, want %s, %t", c.who, c.oid, got, critical, c.want, c.critical)
		}
	}
}

func extensionOf(t testing.TB, c *pki.Certificate, oid string) ([]byte, bool) {
	t.Helper()
	for _, e := range c.X509.Extensions {
		if e.Id.String() == oid {
			return e.Value, e.Critical
		}
	}
	t.Fatalf("%v has no extension %s", c, oid)
	return nil, false
}

func TestMerchantDataOctets(t *testing.T) {
	t.Parallel()
	w := newWorld(t, p256, false)
	tmpl := leafTemplate(pki.Mer, pki.Signature, pki.Name{Country: "DK", Brand: "Acme", Unit: "Bank", CommonName: "Shop"})
	tmpl.Merchant = &pki.MerchantData{
		MerchantID: "M1", AcquirerBIN: "400000", Country: 208,
		Names: []pki.MerchantNames{{Language: "en", Name: "Ab", City: "Cd", StateProvince: "Ef", PostalCode: "12", CountryName: "\u00d8"}},
	}
	const names = "3024" + "3022" + "8002656e" + "a1041a024162" + "a2041a024364" + "a3041a024566" + "a4041a023132" + "a5041e0200d8"
	for _, c := range []struct {
		auth bool
		want string
	}{
		{false, "3039" + "1a024d31" + "1206343030303030" + names + "020200d0" + "010100"},
		{true, "3036" + "1a024d31" + "1206343030303030" + names + "020200d0"},
	} {
		tmpl.Merchant.AuthFlag = c.auth
		p := issue(t, tmpl, p256(t), w.mca)
		got, critical := extensionOf(t, p.cert, "2.23.42.7.2")
		if hex.EncodeToString(got) != c.want || critical {
			t.Errorf("merAuthFlag %t: %x, critical %t, want %s", c.auth, got, critical, c.want)
		}
		if p.cert.Merchant.AuthFlag != c.auth {
			t.Errorf("merAuthFlag %t came back as %t", c.auth, p.cert.Merchant.AuthFlag)
		}
	}
}

func TestTypeOctets(t *testing.T) {
	t.Parallel()
	for typ, want := range map[pki.Type]string{
		pki.Card: "03020780", pki.Mer: "03020640", pki.Pgwy: "03020520", pki.CCA: "03020410", pki.MCA: "03020308",
		pki.PCA: "03020204", pki.GCA: "03020102", pki.BCA: "03020001", pki.RCA: "0303070080", pki.Acq: "0303060040",
		pki.MCA | pki.PCA: "0302020c",
	} {
		got, err := der.Marshal(typ)
		if err != nil || hex.EncodeToString(got) != want {
			t.Errorf("%v = %x, %v, want %s", typ, got, err, want)
		}
		var back pki.Type
		if err := der.Unmarshal(got, &back); err != nil || back != typ {
			t.Errorf("%v came back as %v, %v", typ, back, err)
		}
	}
}

func TestUniqueCardholderID(t *testing.T) {
	t.Parallel()
	secret := make([]byte, 20)
	for i := range secret {
		secret[i] = byte(i)
	}
	// printf '\x30\x1a\x12\x104111111111111111\x12\x06199912' |
	//   openssl dgst -sha256 -mac HMAC -macopt hexkey:000102030405060708090a0b0c0d0e0f10111213 -binary | base64
	const want = "fUtcT8b/TNFmX4wvTVVhz2mAq5x4P5xcRuPn6bwOhSk="
	got, err := pki.UniqueCardholderID(secret, []byte("4111111111111111"), []byte("199912"))
	if err != nil || got != want {
		t.Errorf("got %s, %v, want %s", got, err, want)
	}
	for _, c := range [][3]string{
		{"short", "4111111111111111", "199912"},
		{string(secret), "4111 1111", "199912"},
		{string(secret), "41111111111111111111", "199912"},
		{string(secret), "4111111111111111", "1999"},
	} {
		if got, err := pki.UniqueCardholderID([]byte(c[0]), []byte(c[1]), []byte(c[2])); err == nil {
			t.Errorf("%q, %q, %q gave %s, want an error", c[0], c[1], c[2], got)
		}
	}
}
