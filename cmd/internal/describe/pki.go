package describe

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"
	"strings"
	"time"

	"github.com/setkit/setkit/roles/set/der"
	"github.com/setkit/setkit/roles/set/pki"
)

// roles are the words for who holds a certificate.
var roles = []struct {
	typ  pki.Type
	word string
}{
	{pki.Card, "cardholder"}, {pki.Mer, "merchant"}, {pki.Pgwy, "payment gateway"}, {pki.CCA, "cardholder CA"},
	{pki.MCA, "merchant CA"}, {pki.PCA, "payment gateway CA"}, {pki.GCA, "geopolitical CA"}, {pki.BCA, "brand CA"}, {pki.RCA, "root CA"},
}

// roleOf says in words who holds a certificate.
func roleOf(c *x509.Certificate) string {
	s, err := pki.ParseCertificate(c.Raw)
	if err != nil {
		return "somebody whose certificate is none of SET's"
	}
	text := ""
	for _, r := range roles {
		if s.Type.Has(r.typ) {
			if text != "" {
				text += " and "
			}
			text += r.word
		}
	}
	return text
}

func serialOf(n *big.Int) string {
	if n.Sign() == 0 {
		return "0"
	}
	return fmt.Sprintf("%x", n.Bytes())
}

// nameText gives a DER Name on one line.
func nameText(raw []byte) (string, bool) {
	var rdn pkix.RDNSequence
	if rest, err := asn1.Unmarshal(raw, &rdn); err != nil || len(rest) > 0 {
		return "", false
	}
	if len(rdn) == 0 {
		return "nobody", true
	}
	return rdn.String(), true
}

func keyText(pub crypto.PublicKey) string {
	switch k := pub.(type) {
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA, %d bits", k.N.BitLen())
	case *ecdsa.PublicKey:
		return "ECDSA on " + k.Params().Name
	}
	return fmt.Sprintf("%T", pub)
}

func span(from, until time.Time) string {
	const form = "2006-01-02 15:04:05"
	return from.UTC().Format(form) + " to " + until.UTC().Format(form) + " UTC"
}

// certificate describes a certificate, in short or whole. One that cannot be read becomes a Fault.
func (w *walker) certificate(name string, raw []byte, whole bool) *Node {
	x, err := x509.ParseCertificate(raw)
	if err != nil {
		return fault(-1, err.Error())
	}
	w.know(x)
	n := &Node{Name: name, Kind: Certificate, Type: "Certificate", Value: roleOf(x)}
	s, err := pki.ParseCertificate(raw)
	if err == nil {
		n.Value += ", " + s.Use.String()
	} else {
		n.add(value("Profile", "not SET's: %v", err))
	}
	subject, _ := nameText(x.RawSubject)
	issuer, _ := nameText(x.RawIssuer)
	n.add(value("Subject", "%s", subject), value("Issuer", "%s", issuer), value("SerialNumber", "%s", serialOf(x.SerialNumber)),
		value("Validity", "%s", span(x.NotBefore, x.NotAfter)))
	if whole {
		n.add(value("Version", "%d", x.Version), value("PublicKey", "%s", keyText(x.PublicKey)),
			value("SignatureAlgorithm", "%v", x.SignatureAlgorithm))
		n.add(extensions(x.Extensions))
		sum := sha256.Sum256(x.RawTBSCertificate)
		n.add(&Node{Name: "Signature", Kind: Octets, Octets: x.Signature},
			&Node{Name: "Thumbprint", Kind: Octets, Octets: sum[:], Meaning: "SHA-256 of the signed part, as messages name the certificate"})
		if s != nil && s.Merchant != nil {
			n.add(merchant(s.Merchant))
		}
	}
	for _, f := range n.Fields {
		w.explained(f)
	}
	return n
}

func merchant(m *pki.MerchantData) *Node {
	n := &Node{Name: "merchantData", Kind: Structure, Meaning: "as the extension says"}
	n.add(value("MerchantID", "%s", m.MerchantID), value("AcquirerBIN", "%s", m.AcquirerBIN), value("Country", "%03d", m.Country),
		value("AuthFlag", "%s", yes(m.AuthFlag)))
	for _, name := range m.Names {
		n.add(value("Name", "%s, %s, %s (%s)", name.Name, name.City, name.CountryName, name.Language))
	}
	return n
}

// extensions describes those of a certificate or list, each by what its octets are.
func extensions(list []pkix.Extension) *Node {
	n := &Node{Name: "Extensions", Kind: List, Value: count(len(list))}
	for _, x := range list {
		e := elements(orDotted(x.Id), x.Value, 0)
		if x.Critical {
			e.Meaning = "critical"
		}
		if text, ok := extensionText(x); ok {
			e.Kind, e.Value, e.Octets, e.Fields = Value, text, nil, nil
		}
		n.add(e)
	}
	return n
}

// extensionText gives an extension in words, if it is one that has some.
func extensionText(x pkix.Extension) (string, bool) {
	switch orDotted(x.Id) {
	case "certificateType":
		var t pki.Type
		err := der.Unmarshal(x.Value, &t)
		return t.String(), err == nil
	case "privateKeyUsagePeriod":
		var p pki.Period
		err := der.Unmarshal(x.Value, &p)
		return span(p.NotBefore, p.NotAfter), err == nil
	case "basicConstraints":
		var b struct {
			CA      bool   `der:"default=false"`
			PathLen *int64 `der:"opt"`
		}
		err := der.Unmarshal(x.Value, &b)
		switch {
		case !b.CA:
			return "no CA", err == nil
		case b.PathLen == nil:
			return "a CA, with any number of CAs below", err == nil
		}
		return fmt.Sprintf("a CA, with at most %d CAs below", *b.PathLen), err == nil
	case "subjectKeyIdentifier":
		var id []byte
		err := der.Unmarshal(x.Value, &id)
		return fmt.Sprintf("key %x", id), err == nil
	case "authorityKeyIdentifier":
		var id struct {
			KeyID []byte `der:"[0]"`
		}
		err := der.Unmarshal(x.Value, &id)
		return fmt.Sprintf("key %x", id.KeyID), err == nil
	case "keyUsage":
		var bits asn1.BitString
		_, err := asn1.Unmarshal(x.Value, &bits)
		var words []string
		for i, word := range keyUsages {
			if bits.At(i) == 1 {
				words = append(words, word)
			}
		}
		return strings.Join(words, ", "), err == nil
	}
	return "", false
}

// keyUsages are the named bits of keyUsage (RFC 5280 §4.2.1.3).
var keyUsages = []string{
	"digitalSignature", "nonRepudiation", "keyEncipherment", "dataEncipherment", "keyAgreement", "keyCertSign", "cRLSign",
	"encipherOnly", "decipherOnly",
}

// crl describes a certificate revocation list. One that cannot be read becomes a Fault.
func (w *walker) crl(name string, raw []byte) *Node {
	x, err := x509.ParseRevocationList(raw)
	if err != nil {
		return fault(-1, err.Error())
	}
	n := &Node{Name: name, Kind: Structure, Type: "CRL", Value: "of " + x.Issuer.String()}
	if _, err := pki.ParseCRL(raw); err != nil {
		n.add(value("Profile", "not SET's: %v", err))
	}
	n.add(value("Issuer", "%s", x.Issuer), value("Number", "%v", x.Number), value("ThisUpdate", "%s", x.ThisUpdate.UTC().Format(time.DateTime+" UTC")),
		value("NextUpdate", "%s", x.NextUpdate.UTC().Format(time.DateTime+" UTC")), value("SignatureAlgorithm", "%v", x.SignatureAlgorithm))
	revoked := &Node{Name: "RevokedCertificates", Kind: List, Value: count(len(x.RevokedCertificateEntries))}
	for _, e := range x.RevokedCertificateEntries {
		revoked.add(value(serialOf(e.SerialNumber), "revoked %s", e.RevocationTime.UTC().Format(time.DateTime+" UTC")))
	}
	sum := sha256.Sum256(x.RawTBSRevocationList)
	n.add(revoked, extensions(x.Extensions), &Node{Name: "Signature", Kind: Octets, Octets: x.Signature},
		&Node{Name: "Thumbprint", Kind: Octets, Octets: sum[:]})
	for _, f := range n.Fields {
		w.explained(f)
	}
	return n
}

// bci describes a BrandCRLIdentifier. One that cannot be read becomes a Fault.
func (w *walker) bci(name string, raw []byte) *Node {
	b, err := pki.ParseBCI(raw)
	if err != nil {
		return fault(-1, err.Error())
	}
	n := &Node{Name: name, Kind: Structure, Type: "BrandCRLIdentifier", Value: "of brand " + b.Brand}
	n.add(value("Sequence", "%d", b.Sequence), value("Brand", "%s", b.Brand), value("Validity", "%s", span(b.Validity.NotBefore, b.Validity.NotAfter)))
	crls := &Node{Name: "CRLs", Kind: List, Value: count(len(b.CRLs))}
	for _, c := range b.CRLs {
		issuer, _ := nameText(c.RawIssuer)
		crls.add(value(fmt.Sprintf("number %d", c.Number), "of %s", issuer))
	}
	sum := b.Thumbprint()
	n.add(crls, &Node{Name: "Thumbprint", Kind: Octets, Octets: sum[:]})
	for _, f := range n.Fields {
		w.explained(f)
	}
	return n
}
