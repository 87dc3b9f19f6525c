package ceremony_test

import (
	"os"
	"strings"
	"testing"

	"github.com/setkit/setkit/roles/ca/ceremony"
)

// What is wrong with a reviewed file is told with its line.
func TestParseRefuses(t *testing.T) {
	t.Parallel()
	const (
		gen   = "  - {generate: brand-ca/mac, type: hmac-sha256, purpose: mac}"
		brand = "issuer: root.pem, validity: 12y, signing-period: 6y}"
	)
	for want, edit := range map[string][2]string{
		"line 1: the file has no field \"output\"":                  {"ceremony: short", "output: x\nceremony: short"},
		"line 1: the file needs the field \"officers\"":             {"officers: {required: 0}\n", ""},
		"line 3: officers has no field \"requird\"":                 {"{required: 0}", "{requird: 0}"},
		"line 3: officers: 2 required, and no names":                {"{required: 0}", "{required: 2}"},
		"officers: 0 of 2 required":                                 {"{required: 0}", "{names: [A, B], required: 0}"},
		"officers: 3 of 2 required":                                 {"{required: 0}", "{names: [A, B], required: 3}"},
		`officers: name "A  B": want words with single spaces`:      {"{required: 0}", "{names: [A B, A  B], required: 1}"},
		`officers: name "": want words`:                             {"{required: 0}", "{names: [A, ''], required: 1}"},
		"line 1: the character U+202E cannot be seen":               {"ceremony: short", "ceremony: short # \u202e"},
		"line 1: the character U+000D cannot be seen":               {"ceremony: short", "ceremony: x\rceremony: short"},
		"line 5: the character U+001B cannot be seen":               {"country: DK}", "country: DK} # \x1b[2J"},
		`line 5: the value "\x1b[2J" has characters`:                {"root-ca: {holder", `"\e[2J": {holder`},
		`line 14: the value "brand\u202e.pem" has char`:             {"certificate: brand.pem", `certificate: "brand\u202E.pem"`},
		"line 17: step \"crl brand.crl\": number: number 010: want": {"brand.pem, number: 1, validity: 90d, revoked", "brand.pem, number: 010, validity: 90d, revoked"},
		"line 3: officers: required: number 0x1: want":              {"{required: 0}", "{names: [A], required: 0x1}"},
		"line 5: tags are not allowed":                              {"country: DK}", "country: !!binary REs=}"},
		"officers: a twice":                                         {"{required: 0}", "{names: [A, a], required: 1}"},
		"line 5: subject root-ca has no field \"organization\"":     {"root-ca, country: DK}", "root-ca, country: DK, organization: X}"},
		"line 5: subject root-ca: holder \"king\"":                  {"holder: root-ca", "holder: king"},
		"line 5: subject root-ca: a root has no unit":               {"root-ca, country: DK}", "root-ca, country: DK, unit: Root}"},
		"line 8: no step makes anything for this subject":           {"steps:\n", "  mca: {holder: merchant-ca, country: DK, unit: M}\nsteps:\n"},
		"brand: want the name of the brand":                         {"brand: Meridian", "brand: Meridian:Gold"},
		"brand: needed if":                                          {"brand: Meridian\n", ""},
		"line 12: a step cannot begin with \"make\"":                {gen, strings.Replace(gen, "generate", "make", 1)},
		"line 12: step \"generate brand-ca/mac\" has no field \"us": {gen, strings.Replace(gen, "purpose", "use", 1)},
		"line 12: step \"generate brand-ca/mac\" needs the field":   {gen, strings.Replace(gen, ", purpose: mac", "", 1)},
		"has the field \"type\" twice":                              {gen, strings.Replace(gen, "purpose: mac", "purpose: mac, type: x", 1)},
		"line 12: key brand-ca/mac: type \"aes-256\"":               {gen, strings.Replace(gen, "hmac-sha256", "aes-256", 1)},
		"line 12: key brand-ca/mac: purpose \"sealing\"":            {gen, strings.Replace(gen, "purpose: mac", "purpose: sealing", 1)},
		"line 12: key brand-ca/cert-sign twice":                     {gen, strings.Replace(gen, "brand-ca/mac", "brand-ca/cert-sign", 1)},
		"the labels of keys for cert-sign, and of no others":        {gen, strings.Replace(gen, "brand-ca/mac", "brand-ca/cert-sign-mac", 1)},
		"line 12: key \"mac\": want TOKEN/LABEL":                    {gen, strings.Replace(gen, "brand-ca/mac", "mac", 1)},
		"line 12: anchors and aliases":                              {gen, strings.Replace(gen, "{", "&a {", 1)},
		"line 13: root root.pem: no step before generates":          {"next-key: root-ca/cert-sign-next", "next-key: root-ca/cert-sign-3"},
		"line 13: root root.pem: the next key must be another":      {"next-key: root-ca/cert-sign-next", "next-key: root-ca/cert-sign"},
		"line 13: root root.pem: key brand-ca/mac is for mac":       {"key: root-ca/cert-sign,", "key: brand-ca/mac,"},
		"line 13: root root.pem: subject brand-ca is not a root":    {"subject: root-ca", "subject: brand-ca"},
		"line 14: certificate brand.pem: signing-period 6y is long": {"validity: 12y", "validity: 5y"},
		"line 14: certificate brand.pem: signing-period belongs":    {brand, "issuer: root.pem, validity: 12y}"},
		"line 14: certificate brand.pem: certificate \"roots.pem\"": {brand, "issuer: roots.pem, validity: 12y, signing-period: 6y}"},
		"line 14: certificate brand.pem: want one of key and csr":   {"subject: brand-ca, key: brand-ca/cert-sign, ", "subject: brand-ca, "},
		"line 14: certificate brand.pem: the purpose is that":       {"key: brand-ca/cert-sign, issuer", "purpose: sign, key: brand-ca/cert-sign, issuer"},
		"line 14: certificate brand.pem: a key for mac has no":      {"key: brand-ca/cert-sign, issuer", "key: brand-ca/mac, issuer"},
		"line 14: certificate brand.pem: no subject \"bank\"":       {"subject: brand-ca", "subject: bank"},
		"line 14: file name root.pem twice":                         {"certificate: brand.pem", "certificate: root.pem"},
		"line 14: file name transcript.sig is the ceremony's own":   {"certificate: brand.pem", "certificate: transcript.sig"},
		"line 14: file name \"../brand.pem\"":                       {"certificate: brand.pem", "certificate: ../brand.pem"},
		"line 16: csr geo.csr: a key for mac cannot sign":           {"subject: geo-ca, key: geo-ca/cert-sign", "subject: geo-ca, key: brand-ca/mac"},
		"line 17: crl brand.crl: number 0":                          {"crl: brand.crl, issuer: brand.pem, number: 1", "crl: brand.crl, issuer: brand.pem, number: 0"},
		"line 17: crl brand.crl: serial number \"0A0B\"":            {"0a0b", "0A0B"},
		"line 17: crl brand.crl: date \"2026-01-01\"":               {"2026-01-01T00:00:00Z", "2026-01-01"},
		"line 17: an entry of revoked has no field \"reason\"":      {"{serial: 0a0b, ", "{reason: lost, serial: 0a0b, "},
		"line 17: crl brand.crl: geo.csr is not a certificate":      {"crl: brand.crl, issuer: brand.pem", "crl: brand.crl, issuer: geo.csr"},
		"line 18: bci brand.bci: brand.pem is neither":              {"crls: [brand.crl]", "crls: [brand.pem]"},
		"line 18: length of time \"90w\"":                           {"validity: 90d, crls", "validity: 90w, crls"},
		"line 19: input x.pem: want the file's SHA-256":             {"crls: [brand.crl]}\n", "crls: [brand.crl]}\ninputs: {x.pem: abc}\n"},
		"line 19: no step needs the key geo-ca/sign":                {"crls: [brand.crl]}\n", "crls: [brand.crl]}\n  - {use: geo-ca/sign, type: ec-p256, purpose: sign}\n"},
		"a second document":                                         {"crls: [brand.crl]}\n", "crls: [brand.crl]}\n---\nceremony: x\n"},
		"cannot unmarshal":                                          {"number: 1, validity: 90d, crls", "number: one, validity: 90d, crls"},
	} {
		t.Run(want, func(t *testing.T) {
			t.Parallel()
			if !strings.Contains(short, edit[0]) {
				t.Fatalf("the file has no %q to replace", edit[0])
			}
			_, err := ceremony.Parse([]byte(strings.Replace(short, edit[0], edit[1], 1)))
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// What only the profile knows comes to light in the rehearsal, before any token is touched.
func TestRehearsalRefuses(t *testing.T) {
	t.Parallel()
	for want, edit := range map[string][2]string{
		"line 14: certificate brand.pem: issue bca authority": {"brand-ca, country: DK", "brand-ca, country: Denmark"},
		"line 14: certificate brand.pem: issue gca authority": {"holder: brand-ca", "holder: geopolitical-ca"},
		"exceeds that of rca": {"validity: 12y", "validity: 21y"},
		"line 16: csr geo.csr: lint: nobody could certify it": {"unit: Meridian Nordic", "common-name: Meridian Nordic"},
		"is revoked in the future":                            {"2026-01-01T", "2036-01-01T"},
		"due after the issuer's certificate expired":          {"number: 1, validity: 90d, revoked", "number: 1, validity: 20y, revoked"},
	} {
		t.Run(want, func(t *testing.T) {
			t.Parallel()
			r := newRoom(t, strings.Replace(short, edit[0], edit[1], 1))
			if _, err := ceremony.Rehearse(r.plan, nil, now); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("rehearsal: %v", err)
			}
			if _, err := r.run(t); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("run: %v", err)
			}
			if _, err := os.Stat(r.out); err == nil {
				t.Error("something was written")
			}
		})
	}
}

func TestSpan(t *testing.T) {
	t.Parallel()
	for text, ok := range map[string]bool{
		"1y": true, "50y": true, "90d": true, `""`: false, "y": false, "0d": false, "01y": false, "51y": false, "1w": false, "-1y": false, "1.5y": false, "99999d": false,
	} {
		_, err := ceremony.Parse([]byte(strings.Replace(short, "number: 1, validity: 90d, crls", "number: 1, validity: "+text+", crls", 1)))
		if (err == nil) != ok {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(short))
	f.Add([]byte(attended))
	f.Add([]byte("ceremony: x\nofficers: {required: 0}\ninputs: {a: b}\nsteps: [{use: a/cert-sign, type: ec-p256, purpose: cert-sign}]\n"))
	f.Fuzz(func(t *testing.T, source []byte) {
		p, err := ceremony.Parse(source)
		if err != nil {
			return
		}
		if p.Name() == "" || len(p.Tokens()) == 0 {
			t.Errorf("a plan without name or tokens: %q", source)
		}
	})
}

func FuzzReadTranscript(f *testing.F) {
	const first = `{"seq":1,"time":"2026-06-15T12:00:00Z","previous_sha256":"0000000000000000000000000000000000000000000000000000000000000000",` +
		`"begin":{"format":1,"ceremony":"x","at":"2026-06-15T12:00:00Z","plan_sha256":"","software":"","officers":[],"required":0,"typed":""}}` + "\n"
	f.Add([]byte(first))
	f.Add([]byte(first + first))
	f.Add([]byte("\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		lines, err := ceremony.ReadTranscript(raw)
		if err == nil && lines == 0 {
			t.Error("a transcript without lines")
		}
	})
}
