package hsm_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/setkit/setkit/hsm"
)

func TestParseURI(t *testing.T) {
	t.Parallel()
	tests := []struct {
		in   string
		want hsm.URI
	}{
		{"pkcs11:", hsm.URI{}},
		{
			"pkcs11:token=gateway;object=key-exchange?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=env:SET_GATEWAY_PIN",
			hsm.URI{Token: "gateway", Object: "key-exchange", ModulePath: "/usr/lib/softhsm/libsofthsm2.so", PINSource: "env:SET_GATEWAY_PIN"},
		},
		{
			"pkcs11:serial=DECC0401648;manufacturer=Snake%20Oil,%20Inc.;model=1.0;type=private;id=%69%95%3e%00",
			hsm.URI{Serial: "DECC0401648", Manufacturer: "Snake Oil, Inc.", Model: "1.0", Type: "private", ID: []byte{0x69, 0x95, 0x3e, 0}},
		},
		{"pkcs11:token=a%3Bb%3Fc%25d&e;object=B%C3%BCro", hsm.URI{Token: "a;b?c%d&e", Object: "Büro"}},
		{"pkcs11:token=a?x-calls-max=16", hsm.URI{Token: "a", CallsMax: 16}},
		{"pkcs11:?pin-source=file:/run/a%26b%20c", hsm.URI{PINSource: "file:/run/a&b c"}},
	}
	for _, tt := range tests {
		got, err := hsm.ParseURI(tt.in)
		if err != nil {
			t.Errorf("%s: %v", tt.in, err)
			continue
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.in, diff)
		}
		again, err := hsm.ParseURI(got.String())
		if err != nil || !cmp.Equal(got, again) {
			t.Errorf("%s became %s, which is %+v, %v", tt.in, got, again, err)
		}
	}
}

func TestParseURIRefuses(t *testing.T) {
	t.Parallel()
	tests := map[string]string{
		"":                                        "not a PKCS#11 URI",
		"http://token=a":                          "not a PKCS#11 URI",
		"PKCS11:token=a":                          "not a PKCS#11 URI",
		"pkcs11:token=a?pin-value=246810":         "a PIN is never in a URI",
		"pkcs11:pin-value=246810":                 "a PIN is never in a URI",
		"pkcs11:slot-id=3":                        "slots change",
		"pkcs11:slot-description=x":               "slots change",
		"pkcs11:token=a;token=b":                  "token twice",
		"pkcs11:token":                            "without =",
		"pkcs11:token=a;":                         "without =",
		"pkcs11:token=":                           "token is empty",
		"pkcs11:library-version=3":                `"library-version", which is not supported`,
		"pkcs11:x-vendor=3":                       `"x-vendor", which is not supported`,
		"pkcs11:module-path=/a":                   `"module-path", which is not supported`,
		"pkcs11:token=a?module-name=softhsm":      `"module-name", which is not supported`,
		"pkcs11:token=a?":                         "without =",
		"pkcs11:token=a%2":                        "incomplete percent-encoding",
		"pkcs11:token=a%zz":                       "bad percent-encoding",
		"pkcs11:token=a b":                        "must be percent-encoded",
		"pkcs11:token=a/b":                        "must be percent-encoded",
		"pkcs11:token=%ff":                        "not printable text",
		"pkcs11:token=a%0Ab":                      "not printable text",
		"pkcs11:?x-calls-max=0":                   "x-calls-max is not a number from 1 to 256",
		"pkcs11:?x-calls-max=257":                 "x-calls-max is not a number from 1 to 256",
		"pkcs11:?x-calls-max=x":                   "x-calls-max is not a number from 1 to 256",
		"pkcs11:type=key":                         "type is not",
		"pkcs11:token=" + strings.Repeat("x", 33): "longer than 32 bytes",
		"pkcs11:" + strings.Repeat("x", 5000):     "longer than 4096 bytes",
	}
	for in, want := range tests {
		_, err := hsm.ParseURI(in)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60s: error %v, want %q", in, err, want)
		} else if strings.Contains(err.Error(), "246810") {
			t.Errorf("error %q shows a PIN", err)
		}
	}
}

func FuzzParseURI(f *testing.F) {
	f.Add("pkcs11:token=gateway;object=key?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=env:PIN")
	f.Add("pkcs11:serial=01;id=%00%ff;type=private")
	f.Add("pkcs11:token=a%3Bb&c?pin-source=file:/a|b?c")
	f.Fuzz(func(t *testing.T, s string) {
		u, err := hsm.ParseURI(s)
		if err != nil {
			return
		}
		again, err := hsm.ParseURI(u.String())
		if err != nil {
			t.Fatalf("%q: its String %q does not parse: %v", s, u.String(), err)
		}
		if diff := cmp.Diff(u, again); diff != "" {
			t.Fatalf("%q does not survive String (-first +second):\n%s", s, diff)
		}
	})
}
