package hsm

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	uriBytesMax    = 4096
	labelBytesMax  = 32 // of a token, fixed by PKCS#11
	serialBytesMax = 16 // fixed by PKCS#11
	objectBytesMax = 128
	callsMaxMax    = 256
)

// URI names a token, or a key in one, as in RFC 7512:
//
//	pkcs11:token=gateway;object=key-exchange?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=env:GATEWAY_PIN
//
// Token and Serial select the token and Object the key; slots are never named, since their numbers
// change. PINSource says where the PIN is; the PIN itself is never part of a URI.
type URI struct {
	Token        string // label of the token
	Serial       string // serial number of the token
	Manufacturer string // of the token
	Model        string // of the token
	Object       string // label of the key
	ID           []byte // CKA_ID of the key
	Type         string // public, private, secret-key, cert or data
	ModulePath   string // PKCS#11 library
	PINSource    string
	// CallsMax is how many calls may run on the token at once, 1 to 256; 0 is the default. It is the
	// vendor attribute x-calls-max. A network HSM may be worth more; p11-kit's client wants 1, because
	// it forgets who waits for an answer when its connection breaks.
	CallsMax int
}

// ParseURI parses s. An attribute that would narrow the choice in a way that this package does not
// know is an error, and so is one given twice. No error quotes s: it may hold what should not be in it.
func ParseURI(s string) (URI, error) {
	var u URI
	if len(s) > uriBytesMax {
		return URI{}, fmt.Errorf("PKCS#11 URI is longer than %d bytes", uriBytesMax)
	}
	rest, ok := strings.CutPrefix(s, "pkcs11:")
	if !ok {
		return URI{}, errors.New("not a PKCS#11 URI: it does not begin with \"pkcs11:\"")
	}
	path, query, hasQuery := strings.Cut(rest, "?")
	if path != "" {
		if err := u.setAll(path, ";", u.pathAttributes()); err != nil {
			return URI{}, err
		}
	}
	if hasQuery {
		if err := u.setAll(query, "&", u.queryAttributes()); err != nil {
			return URI{}, err
		}
	}
	switch u.Type {
	case "", "public", "private", "secret-key", "cert", "data":
	default:
		return URI{}, errors.New("PKCS#11 URI: type is not public, private, secret-key, cert or data")
	}
	return u, nil
}

// uriAttribute is where the decoded value of an attribute goes and how long it may be.
type uriAttribute struct {
	into     *string
	bytesMax int
}

func (u *URI) pathAttributes() map[string]uriAttribute {
	return map[string]uriAttribute{
		"token": {&u.Token, labelBytesMax}, "serial": {&u.Serial, serialBytesMax},
		"manufacturer": {&u.Manufacturer, 32}, "model": {&u.Model, 16},
		"object": {&u.Object, objectBytesMax}, "type": {&u.Type, 16}, "id": {nil, objectBytesMax},
	}
}

func (u *URI) queryAttributes() map[string]uriAttribute {
	return map[string]uriAttribute{
		"module-path": {&u.ModulePath, uriBytesMax}, "pin-source": {&u.PINSource, uriBytesMax},
		"x-calls-max": {nil, 3},
	}
}

func (u *URI) setAll(list, separator string, known map[string]uriAttribute) error {
	seen := map[string]bool{}
	for _, part := range strings.Split(list, separator) {
		name, raw, ok := strings.Cut(part, "=")
		attribute, isKnown := known[name]
		switch {
		case name == "pin-value":
			return errors.New("PKCS#11 URI has pin-value: a PIN is never in a URI: use pin-source")
		case strings.HasPrefix(name, "slot-"):
			return errors.New("PKCS#11 URI names a slot: name the token by token or serial, slots change")
		case !ok:
			return errors.New("PKCS#11 URI has an attribute without =")
		case !isKnown:
			return fmt.Errorf("PKCS#11 URI has the attribute %.32q, which is not supported here", name)
		case seen[name]:
			return fmt.Errorf("PKCS#11 URI has %s twice", name)
		}
		seen[name] = true
		value, err := percentDecode(raw, separator == "&")
		switch {
		case err != nil:
			return fmt.Errorf("PKCS#11 URI: %s: %w", name, err)
		case value == "":
			return fmt.Errorf("PKCS#11 URI: %s is empty", name)
		case len(value) > attribute.bytesMax:
			return fmt.Errorf("PKCS#11 URI: %s is longer than %d bytes", name, attribute.bytesMax)
		case name == "id":
			u.ID = []byte(value)
			continue
		case name == "x-calls-max":
			if u.CallsMax, err = strconv.Atoi(value); err != nil || u.CallsMax < 1 || u.CallsMax > callsMaxMax {
				return fmt.Errorf("PKCS#11 URI: x-calls-max is not a number from 1 to %d", callsMaxMax)
			}
			continue
		case !utf8.ValidString(value) || strings.ContainsFunc(value, unicode.IsControl):
			return fmt.Errorf("PKCS#11 URI: %s is not printable text", name)
		}
		*attribute.into = value
	}
	return nil
}

// percentDecode decodes a value of the path or, where two more characters may stand for themselves,
// of the query part.
func percentDecode(s string, query bool) (string, error) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '%':
			if i+3 > len(s) {
				return "", errors.New("incomplete percent-encoding")
			}
			d, err := hex.DecodeString(s[i+1 : i+3])
			if err != nil {
				return "", errors.New("bad percent-encoding")
			}
			b.Write(d)
			i += 2
		case literal(c) || !query && c == '&' || query && strings.IndexByte("/?|", c) >= 0:
			b.WriteByte(c)
		default:
			return "", errors.New("a character that must be percent-encoded")
		}
	}
	return b.String(), nil
}

// literal reports whether c stands for itself in both parts of the URI (RFC 7512, section 2.3).
func literal(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' ||
		strings.IndexByte("-._~:[]@!$'()*+,=", c) >= 0
}

// String returns the URI in a form that ParseURI reads back to the same value.
func (u URI) String() string {
	var path, query []string
	add := func(list *[]string, name, value string, query bool) {
		if value != "" {
			*list = append(*list, name+"="+percentEncode(value, query))
		}
	}
	add(&path, "token", u.Token, false)
	add(&path, "serial", u.Serial, false)
	add(&path, "manufacturer", u.Manufacturer, false)
	add(&path, "model", u.Model, false)
	add(&path, "object", u.Object, false)
	if len(u.ID) > 0 {
		var id strings.Builder
		for _, c := range u.ID {
			fmt.Fprintf(&id, "%%%02X", c)
		}
		path = append(path, "id="+id.String())
	}
	add(&path, "type", u.Type, false)
	add(&query, "module-path", u.ModulePath, true)
	add(&query, "pin-source", u.PINSource, true)
	if u.CallsMax > 0 {
		add(&query, "x-calls-max", strconv.Itoa(u.CallsMax), true)
	}
	s := "pkcs11:" + strings.Join(path, ";")
	if len(query) > 0 {
		s += "?" + strings.Join(query, "&")
	}
	return s
}

func percentEncode(s string, query bool) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; literal(c) || query && c == '/' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}
