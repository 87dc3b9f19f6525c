package describe

import (
	"bytes"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/setkit/setkit/roles/set"
)

// element is the beginning of an ASN.1 element. It is read leniently: what is malformed is to be shown.
type element struct {
	class       byte
	constructed bool
	number      int
	tag, header int // octets of the identifier, and before the contents
	length      int // octets of the contents, which may be more than there are
}

const (
	universal = 0
	context   = 2

	// depthMax is how deep elements are looked into. Messages have no more.
	depthMax = 40
)

var errElement = errors.New("no ASN.1 element with a definite length")

func readElement(b []byte) (e element, err error) {
	if len(b) < 2 {
		return e, errElement
	}
	e = element{class: b[0] >> 6, constructed: b[0]&0x20 != 0, number: int(b[0] & 0x1f), header: 1}
	if e.number == 0x1f {
		e.number = 0
		for more := true; more; e.header++ {
			if e.header >= len(b) || e.header > 4 {
				return e, errElement
			}
			e.number = e.number<<7 | int(b[e.header]&0x7f)
			more = b[e.header]&0x80 != 0
		}
	}
	if e.tag = e.header; e.header >= len(b) {
		return e, errElement
	}
	e.length = int(b[e.header])
	e.header++
	if e.length < 0x80 {
		return e, nil
	}
	size := e.length & 0x7f
	if size == 0 || size > 4 || e.header+size > len(b) {
		return e, errElement
	}
	e.length = 0
	for range size {
		e.length = e.length<<8 | int(b[e.header])
		e.header++
	}
	return e, nil
}

// is tells whether the element is of the universal class and has one of the tag numbers.
func (e element) is(numbers ...int) bool {
	for _, n := range numbers {
		if e.class == universal && e.number == n {
			return true
		}
	}
	return false
}

// contents gives the contents as far as they are there.
func (e element) contents(b []byte) []byte { return b[e.header:min(len(b), e.header+e.length)] }

// children reads the elements in the contents of a constructed element, up to the first that is none.
func children(b []byte) (all [][]byte) {
	for len(b) > 0 {
		e, err := readElement(b)
		if err != nil {
			return all
		}
		end := min(len(b), e.header+e.length)
		all, b = append(all, b[:end]), b[end:]
	}
	return all
}

// mended makes whole what is cut off at its end: elements that are not all there lose what is missing of
// them, and so every one around them. It gives what is left, and how many octets were missing.
func mended(b []byte) (whole []byte, missing int) {
	e, err := readElement(b)
	if err != nil || e.header+e.length <= len(b) {
		return b, 0
	}
	return mend(b, 0), e.header + e.length - len(b)
}

func mend(b []byte, depth int) []byte {
	e, err := readElement(b)
	switch {
	case err != nil:
		return nil
	case e.header+e.length <= len(b):
		return b
	case !e.constructed || depth == depthMax:
		return nil
	}
	var kept []byte
	for _, child := range children(e.contents(b)) {
		kept = append(kept, mend(child, depth+1)...)
	}
	return append(appendLength(bytes.Clone(b[:e.tag]), len(kept)), kept...)
}

func appendLength(b []byte, n int) []byte {
	if n < 0x80 {
		return append(b, byte(n))
	}
	octets := big.NewInt(int64(n)).Bytes()
	return append(append(b, 0x80|byte(len(octets))), octets...)
}

var universalNames = map[int]string{
	1: "BOOLEAN", 2: "INTEGER", 3: "BIT STRING", 4: "OCTET STRING", 5: "NULL", 6: "OBJECT IDENTIFIER", 9: "REAL",
	10: "ENUMERATED", 12: "UTF8String", 16: "SEQUENCE", 17: "SET", 18: "NumericString", 19: "PrintableString",
	20: "T61String", 22: "IA5String", 23: "UTCTime", 24: "GeneralizedTime", 26: "VisibleString", 30: "BMPString",
}

func (e element) typeName() string {
	if name, ok := universalNames[e.number]; ok && e.class == universal {
		return name
	}
	return fmt.Sprintf("%s[%d]", [...]string{"UNIVERSAL ", "APPLICATION ", "", "PRIVATE "}[e.class], e.number)
}

// elements shows octets of which only ASN.1 is known.
func elements(name string, b []byte, depth int) *Node {
	e, err := readElement(b)
	if err != nil || depth == depthMax {
		return &Node{Name: name, Kind: Octets, Octets: bytes.Clone(b)}
	}
	n := &Node{Name: name, Type: e.typeName()}
	contents := e.contents(b)
	if e.constructed {
		n.Kind = Structure
		at := 0
		for i, child := range children(contents) {
			n.add(elements(fmt.Sprint(i+1), child, depth+1))
			at += len(child)
		}
		if at < len(contents) {
			n.add(fault(-1, fmt.Sprintf("%d octets that are no ASN.1", len(contents)-at)))
		}
	} else {
		n.primitive(e, contents)
	}
	if missing := e.header + e.length - len(b); missing > 0 {
		n.add(fault(-1, fmt.Sprintf("ends %d octets too early", missing)))
	}
	return n
}

// primitive shows the contents of a primitive element: in words if its type is one that has some.
func (n *Node) primitive(e element, contents []byte) {
	n.Kind = Value
	switch {
	case e.is(1) && len(contents) == 1:
		n.Value = yes(contents[0] != 0)
	case e.is(2, 10) && len(contents) > 0:
		n.Value = integer(contents)
	case e.is(5) && len(contents) == 0:
		n.Value = "null"
	case e.is(6):
		var id asn1.ObjectIdentifier
		whole := append(appendLength([]byte{asn1.TagOID}, len(contents)), contents...)
		if _, err := asn1.Unmarshal(whole, &id); err == nil {
			n.Value = oidText(id)
			return
		}
		n.Kind, n.Octets = Octets, bytes.Clone(contents)
	case e.is(12, 18, 19, 20, 22, 23, 24, 26) && utf8.Valid(contents):
		n.Value = string(contents)
	case e.is(30) && len(contents)%2 == 0:
		n.Value = bmpText(contents)
	default:
		n.Kind, n.Octets = Octets, bytes.Clone(contents)
	}
}

func integer(contents []byte) string {
	n := new(big.Int).SetBytes(contents)
	if contents[0] >= 0x80 {
		n.Sub(n, new(big.Int).Lsh(big.NewInt(1), uint(8*len(contents))))
	}
	return n.String()
}

func bmpText(b []byte) string {
	units := make([]uint16, len(b)/2)
	for i := range units {
		units[i] = uint16(b[2*i])<<8 | uint16(b[2*i+1])
	}
	return string(utf16.Decode(units))
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// otherOIDs are the names of identifiers that are not SET's own.
var otherOIDs = map[string]string{
	"1.2.840.113549.1.7.1": "data", "1.2.840.113549.1.7.2": "signedData", "1.2.840.113549.1.7.5": "digestedData",
	"1.2.840.113549.1.9.16.1.23": "authEnvelopedData", "1.2.840.113549.1.9.3": "contentType",
	"1.2.840.113549.1.9.4": "messageDigest", "1.2.840.113549.1.1.1": "rsaEncryption",
	"1.2.840.113549.1.1.7": "RSAES-OAEP", "1.2.840.113549.1.1.8": "MGF1", "1.2.840.113549.1.1.11": "SHA-256 with RSA",
	"1.2.840.113549.1.1.12": "SHA-384 with RSA", "1.2.840.10045.2.1": "EC public key", "1.2.840.10045.3.1.7": "P-256",
	"1.3.132.0.34": "P-384", "1.2.840.10045.4.3.2": "ECDSA with SHA-256", "1.2.840.10045.4.3.3": "ECDSA with SHA-384",
	"2.16.840.1.101.3.4.2.1": "SHA-256", "2.16.840.1.101.3.4.2.2": "SHA-384", "2.16.840.1.101.3.4.1.45": "AES-256 key wrap",
	"2.16.840.1.101.3.4.1.46": "AES-256-GCM", "2.5.29.14": "subjectKeyIdentifier", "2.5.29.15": "keyUsage",
	"2.5.29.16": "privateKeyUsagePeriod", "2.5.29.19": "basicConstraints", "2.5.29.20": "cRLNumber",
	"2.5.29.32": "certificatePolicies", "2.5.29.35": "authorityKeyIdentifier", "2.5.4.3": "commonName",
	"2.5.4.6": "countryName", "2.5.4.10": "organizationName", "2.5.4.11": "organizationalUnitName",
}

func oidName(id asn1.ObjectIdentifier) string {
	if name := set.OIDName(id); name != "" {
		return name
	}
	return otherOIDs[id.String()]
}

func oidText(id asn1.ObjectIdentifier) string {
	return strings.TrimSpace(oidName(id) + " (" + id.String() + ")")
}
