package ceremony

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"
	"strings"
	"time"
	"unicode"

	"github.com/setkit/setkit/roles/set/pki"
)

// row is one line of a description. What a terminal would act upon is shown as a question mark.
func row(name, format string, args ...any) string {
	return strings.Map(printable, strings.TrimRight(fmt.Sprintf("%-24s %s", name, fmt.Sprintf(format, args...)), " "))
}

func printable(r rune) rune {
	if unicode.IsPrint(r) {
		return r
	}
	return '?'
}

// nameText is a DER name for people.
func nameText(raw []byte) string {
	var name pkix.RDNSequence
	if rest, err := asn1.Unmarshal(raw, &name); err != nil || len(rest) > 0 {
		return hexOf(raw)
	}
	return name.String()
}

func date(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// describe tells everything that a step signs, for people. It reads the octets and not the plan.
func describe(k kind, raw []byte) ([]string, error) {
	var rows []string
	switch k {
	case root, certificate, cross:
		c, err := pki.ParseCertificate(raw)
		if err != nil {
			return nil, err
		}
		rows = describeCertificate(c)
	case crl:
		l, err := pki.ParseCRL(raw)
		if err != nil {
			return nil, err
		}
		rows = describeCRL(l)
	case bci:
		b, err := pki.ParseBCI(raw)
		if err != nil {
			return nil, err
		}
		rows = describeBCI(b)
	case request:
		r, err := parseRequest(raw)
		if err != nil {
			return nil, err
		}
		rows = []string{
			row("subject", "%v", r.Subject), row("public key", "%s", describeKey(r.RawSubjectPublicKeyInfo)),
			row("signature algorithm", "%v", r.SignatureAlgorithm),
		}
	}
	return rows, nil
}

func describeKey(spki []byte) string {
	pub, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return "unknown"
	}
	return fmt.Sprintf("%s, SHA-256 %s", typeOf(pub), digest(spki))
}

func describeCertificate(c *pki.Certificate) []string {
	x := c.X509
	rows := []string{
		row("subject", "%v", x.Subject), row("issuer", "%v", x.Issuer), row("serial number", "%s", c.Serial()),
		row("type", "%v, for %v", c.Type, c.Use), row("valid from", "%s", date(x.NotBefore)), row("valid until", "%s", date(x.NotAfter)),
	}
	if p := c.PrivateKeyUsage; p != nil {
		rows = append(rows, row("key signs until", "%s", date(p.NotAfter)))
	}
	rows = append(rows, row("public key", "%s", describeKey(x.RawSubjectPublicKeyInfo)),
		row("key identifier", "%x", x.SubjectKeyId), row("issuer's key identifier", "%x", x.AuthorityKeyId),
		row("key usage", "%s", usages(x.KeyUsage)))
	switch {
	case x.IsCA && x.MaxPathLen < 0:
		rows = append(rows, row("path length", "no limit"))
	case x.IsCA:
		rows = append(rows, row("path length", "%d", x.MaxPathLen))
	}
	if c.NextRootKey != nil {
		rows = append(rows, row("next root key", "SHA-256 %x", c.NextRootKey.Content.Digest))
	}
	if c.Tunneling != nil {
		rows = append(rows, row("tunneling", "%t, %v", c.Tunneling.Supported, c.Tunneling.Algorithms))
	}
	for _, e := range x.Extensions {
		critical := ""
		if e.Critical {
			critical = ", critical"
		}
		rows = append(rows, row("extension", "%v %s%s: %x", e.Id, extensionNames[e.Id.String()], critical, e.Value))
	}
	return append(rows, row("signature algorithm", "%v", x.SignatureAlgorithm))
}

// extensionNames are those of the profile.
var extensionNames = map[string]string{
	"2.5.29.14": "subjectKeyIdentifier", "2.5.29.35": "authorityKeyIdentifier", "2.5.29.15": "keyUsage",
	"2.5.29.16": "privateKeyUsagePeriod", "2.5.29.32": "certificatePolicies", "2.5.29.19": "basicConstraints",
	"2.23.42.7.0": "hashedRootKey", "2.23.42.7.1": "certificateType", "2.23.42.7.4": "tunneling",
}

func usages(u x509.KeyUsage) string {
	var names []string
	for _, known := range []struct {
		bit  x509.KeyUsage
		name string
	}{
		{x509.KeyUsageDigitalSignature, "digitalSignature"}, {x509.KeyUsageKeyEncipherment, "keyEncipherment"},
		{x509.KeyUsageDataEncipherment, "dataEncipherment"}, {x509.KeyUsageCertSign, "keyCertSign"}, {x509.KeyUsageCRLSign, "cRLSign"},
	} {
		if u&known.bit != 0 {
			names = append(names, known.name)
		}
	}
	return strings.Join(names, ", ")
}

func describeCRL(l *pki.CRL) []string {
	x := l.X509
	rows := []string{
		row("issuer", "%v", x.Issuer), row("number", "%d", l.Number), row("issuer's key identifier", "%x", x.AuthorityKeyId),
		row("this update", "%s", date(x.ThisUpdate)), row("next update", "%s", date(x.NextUpdate)),
	}
	if len(x.RevokedCertificateEntries) == 0 {
		rows = append(rows, row("revoked", "none"))
	}
	for _, e := range x.RevokedCertificateEntries {
		rows = append(rows, row("revoked", "%s on %s", serialText(e.SerialNumber), date(e.RevocationTime)))
	}
	return append(rows, row("signature algorithm", "%v", x.SignatureAlgorithm))
}

func serialText(n *big.Int) string { return hexOf(n.Bytes()) }

func describeBCI(b *pki.BrandCRLIdentifier) []string {
	rows := []string{
		row("brand", "%s", b.Brand), row("number", "%d", b.Sequence),
		row("valid from", "%s", date(b.Validity.NotBefore)), row("valid until", "%s", date(b.Validity.NotAfter)),
	}
	for _, id := range b.CRLs {
		rows = append(rows, row("current CRL", "%d of %s", id.Number, nameText(id.RawIssuer)))
	}
	return rows
}

// describeOrder tells what a step asks of a token.
func describeOrder(st *step, token TokenInfo) []string {
	rows := []string{
		row("key", "%s", st.label()), row("type", "%s", st.Type), row("purpose", "%s", st.Purpose),
		row("token", "%s, serial number %s", token.Label, token.Serial),
	}
	if st.Certificate != "" {
		rows = append(rows, row("certificate", "%s", st.Certificate))
	}
	return rows
}

// describeKeyInfo tells what a token reports of a key.
func describeKeyInfo(k KeyInfo) []string {
	var has []string
	for _, a := range []struct {
		set  bool
		name string
	}{
		{k.Private, "private"}, {k.Sensitive, "sensitive"}, {k.AlwaysSensitive, "always sensitive"}, {k.Extractable, "EXTRACTABLE"},
		{k.NeverExtractable, "never extractable"}, {k.Local, "generated inside the token"}, {k.Modifiable, "modifiable"},
	} {
		if a.set {
			has = append(has, a.name)
		}
	}
	rows := []string{
		row("label", "%s", k.Label), row("id", "%s", k.ID), row("type", "%s", k.Type), row("purpose", "%s", k.Purpose),
		row("usages", "%s", strings.Join(k.Usages, ", ")), row("attributes", "%s", strings.Join(has, ", ")),
	}
	if len(k.SPKI) > 0 {
		rows = append(rows, row("public key", "SHA-256 %s", digest(k.SPKI)))
	}
	return rows
}

// title names a step in one line.
func (p *Plan) title(st *step) string {
	var what string
	switch st.kind {
	case generate:
		what = fmt.Sprintf("generate the key %s", st.name)
	case use:
		what = fmt.Sprintf("use the key %s", st.name)
	case root:
		what = fmt.Sprintf("sign the root certificate %s with its own key %s", st.name, st.Key)
	case request:
		what = fmt.Sprintf("sign the certificate request %s with its own key %s", st.name, st.Key)
	default:
		names := map[kind]string{certificate: "certificate", cross: "cross certificate", crl: "CRL", bci: "BrandCRLIdentifier"}
		what = fmt.Sprintf("sign the %s %s with %s, as %s", names[st.kind], st.name, p.signer(st), st.Issuer)
	}
	return what
}

// showKey shows a step that makes a key, or uses one that the token reports.
func (p *Plan) showKey(n int, st *step, token TokenInfo, info *KeyInfo) Shown {
	rows := describeOrder(st, token)
	if info != nil {
		rows = append(rows, describeKeyInfo(*info)...)
	}
	return Shown{Step: n, Title: p.title(st), Content: rows, SHA256: digest([]byte(strings.Join(rows, "\n")))}
}

// showDraft shows what a step signs.
func (p *Plan) showDraft(n int, d *draft) (Shown, error) {
	rows, err := describe(d.step.kind, d.raw)
	return Shown{Step: n, Title: p.title(d.step), Content: rows, SHA256: digest(d.tbs)}, err
}
