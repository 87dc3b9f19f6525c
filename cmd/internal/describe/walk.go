package describe

import (
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/der"
	"github.com/setkit/setkit/roles/set/pki"
)

var (
	contentInfoType = reflect.TypeFor[cms.ContentInfo]()
	choiceType      = reflect.TypeFor[der.Choice]()
)

// fracture is where decoding ended: the names of the fields that are left on the way to it, and the error.
// A nil one is nowhere.
type fracture struct {
	path []string
	err  *der.Error
}

// into gives the fracture for a field: nil when it is not on the way.
func (b *fracture) into(field string) *fracture {
	if b == nil || len(b.path) == 0 || b.path[0] != field {
		return nil
	}
	return &fracture{b.path[1:], b.err}
}

// here tells whether the thing itself is malformed.
func (b *fracture) here() bool { return b != nil && len(b.path) == 0 }

func (b *fracture) node() *Node { return fault(b.err.Offset, b.err.Msg) }

// fractureAt is the fracture of an error about a value of the named type.
func fractureAt(e *der.Error, typ string) *fracture {
	path := strings.TrimPrefix(strings.TrimPrefix(e.Path, typ), ".")
	if path == "" {
		return &fracture{err: e}
	}
	return &fracture{strings.Split(path, "."), e}
}

// decode decodes octets into what v points to and describes it, up to where it is malformed.
func (w *walker) decode(name string, octets []byte, v any) *Node {
	err := set.Unmarshal(octets, v)
	rv := reflect.ValueOf(v).Elem()
	var broken *fracture
	if e, ok := errors.AsType[*der.Error](err); ok {
		broken = fractureAt(e, rv.Type().Name())
	}
	n := w.value(name, rv, broken)
	if err != nil && broken == nil { // what a type alone does not say
		n.add(fault(-1, err.Error()))
	}
	return n
}

// value describes a value of any type that messages are made of; nil for an optional field that is absent.
func (w *walker) value(name string, v reflect.Value, broken *fracture) *Node {
	if v.Kind() == reflect.Pointer {
		switch {
		case !v.IsNil() && v.Type() == reflect.TypeFor[*big.Int]():
			return w.explained(w.leaf(name, v))
		case !v.IsNil():
			return w.value(name, v.Elem(), broken)
		case broken == nil:
			return nil
		}
		n := w.explained(&Node{Name: name, Kind: Structure, Type: typeName(v.Type().Elem())})
		n.add(broken.node())
		return n
	}
	if broken.here() && v.IsZero() {
		n := w.explained(&Node{Name: name, Kind: Structure, Type: typeName(v.Type())})
		n.add(broken.node())
		return n
	}
	n := w.whole(name, v, broken)
	if n != nil && broken.here() {
		n.add(broken.node())
	}
	return w.explained(n)
}

func (w *walker) whole(name string, v reflect.Value, broken *fracture) *Node {
	switch x := v.Interface().(type) {
	case der.Raw:
		return w.raw(name, x)
	case cms.DetachedDigest:
		return detachedDigest(name, x)
	case cms.AlgorithmIdentifier:
		return algorithm(name, x)
	case set.MsgExtension:
		return w.extension(x)
	case pki.CertThumb:
		return w.thumb(name, x)
	case cms.EncapsulatedContentInfo:
		if x.EContent != nil {
			n := &Node{Name: name, Kind: Structure}
			n.add(w.value("EContentType", v.Field(0), nil), w.content("EContent", x.EContentType, *x.EContent))
			return n
		}
	}
	t := v.Type()
	switch {
	case t.Kind() == reflect.Struct && t.ConvertibleTo(contentInfoType) && broken == nil:
		return w.contentInfo(name, t, v.Convert(contentInfoType).Interface().(cms.ContentInfo))
	case t.Kind() == reflect.Struct && t != reflect.TypeFor[time.Time]() && t != reflect.TypeFor[asn1.BitString]() && t != reflect.TypeFor[set.CurrencyAmount]():
		return w.structure(name, v, broken)
	case t.Kind() == reflect.Slice && t.Elem().Kind() != reflect.Uint8 && t != reflect.TypeFor[asn1.ObjectIdentifier]():
		return w.list(name, v, broken)
	}
	return w.leaf(name, v)
}

// structure describes the fields of a SEQUENCE in turn, or the one alternative of a CHOICE.
func (w *walker) structure(name string, v reflect.Value, broken *fracture) *Node {
	t := v.Type()
	n := &Node{Name: name, Kind: Structure, Type: typeName(t)}
	if n.Type == n.Name {
		n.Type = ""
	}
	outer := w.within
	w.within = t.Name()
	defer func() { w.within = outer }()
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Type == choiceType || !f.IsExported() {
			continue
		}
		below := broken.into(f.Name)
		if !(absent(v.Field(i), f) && below == nil) {
			n.add(w.value(fieldName(t, f), v.Field(i), below))
		}
		if below != nil {
			break // what follows was not read
		}
	}
	return n
}

// absent tells whether an optional field is not there. Pointers tell by themselves.
func absent(v reflect.Value, f reflect.StructField) bool {
	return strings.Contains(f.Tag.Get("der"), "opt") && (v.Kind() == reflect.String && v.Len() == 0 || v.Kind() == reflect.Slice && v.IsNil())
}

// list describes the elements of a SEQUENCE OF. A fracture is in the last one that was read.
func (w *walker) list(name string, v reflect.Value, broken *fracture) *Node {
	n := &Node{Name: name, Kind: List, Value: count(v.Len())}
	for i := range v.Len() {
		var below *fracture
		if i == v.Len()-1 && broken != nil {
			below = broken
			broken = nil
		}
		element := strconv.Itoa(i + 1)
		if v.Type().Elem() == reflect.TypeFor[der.Raw]() {
			element = name + " " + element // of certificates and CRLs, it is the name that tells
		}
		n.add(w.value(element, v.Index(i), below))
	}
	return n
}

func count(n int) string {
	switch n {
	case 0:
		return "none"
	case 1:
		return ""
	}
	return fmt.Sprintf("%d of them", n)
}

// leaf describes one value.
func (w *walker) leaf(name string, v reflect.Value) *Node {
	n := &Node{Name: name, Kind: Value}
	if shown, ok := w.secret(v); ok {
		n.Kind, n.Value = Masked, shown
		return n
	}
	switch x := v.Interface().(type) {
	case time.Time:
		n.Value = x.UTC().Format("2006-01-02 15:04:05 UTC")
	case asn1.ObjectIdentifier:
		n.Value = oidText(x)
	case *big.Int:
		n.Value = x.String()
		if x.BitLen() > 63 {
			n.Value = fmt.Sprintf("%x", x)
		}
	case asn1.BitString:
		n.Kind, n.Octets = Octets, x.Bytes
	case der.Real:
		n.Value = strconv.FormatFloat(x.Float64(), 'g', -1, 64)
	case der.Null:
		n.Value = "null"
	case set.CurrencyAmount:
		n.Value = fmt.Sprintf("%v (%d x 10^%d of currency %03d)", x, int64(x.Amount), x.AmtExp10, int64(x.Currency))
	case set.Currency:
		n.Value = fmt.Sprintf("%v (%03d)", x, int64(x))
	default:
		w.kind(n, v)
	}
	return n
}

// kind describes a value by its Go kind, an enumeration in words.
func (w *walker) kind(n *Node, v reflect.Value) {
	switch v.Kind() {
	case reflect.Bool:
		n.Value = yes(v.Bool())
	case reflect.Int, reflect.Int64:
		n.Value = strconv.FormatInt(v.Int(), 10)
		if s, ok := v.Interface().(fmt.Stringer); ok {
			n.Value = fmt.Sprintf("%s (%d)", s, v.Int())
		}
	case reflect.Uint8, reflect.Uint16, reflect.Uint64:
		n.Value = fmt.Sprint(v.Interface())
	case reflect.String:
		n.Value = v.String()
		if n.Value == "" {
			n.Value = `""`
		}
	case reflect.Array:
		n.Kind, n.Octets = Octets, make([]byte, v.Len())
		reflect.Copy(reflect.ValueOf([]byte(n.Octets)), v)
	case reflect.Slice:
		n.Kind, n.Octets = Octets, append([]byte{}, v.Bytes()...)
	default:
		n.Value = fmt.Sprint(v.Interface())
	}
}

// generic finds, in the name of an instance of a generic type, the type that it is of.
var generic = regexp.MustCompile(`^(\w+)\[(?:.*[./])?(\w+)\]*$`)

// typeName gives SET's name of a type.
func typeName(t reflect.Type) string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if m := generic.FindStringSubmatch(t.Name()); m != nil {
		switch inner := spelled(m[2]); m[1] {
		case "Linked":
			return "L(" + inner + ", DD)"
		case "SignedPair":
			return inner + " with its signature"
		case "Pair":
			return inner + " and extra data"
		default:
			return m[1] + "(" + inner + ")"
		}
	}
	return spelled(t.Name())
}

// spellings are SET's where they are no Go names.
var spellings = map[string]string{
	"MeAqCInitReq": "Me-AqCInitReq", "MeAqCInitRes": "Me-AqCInitRes", "MeAqCInitResTBS": "Me-AqCInitResTBS",
	"PITBS": "PI-TBS", "PIOILink": "PI-OILink", "LIDC": "LID-C", "LIDM": "LID-M", "LIDEE": "LID-EE", "LIDCA": "LID-CA",
	"ChallC": "Chall-C", "ChallM": "Chall-M", "ChallEE": "Chall-EE", "ChallEE2": "Chall-EE2", "ChallEE3": "Chall-EE3",
	"ChallCA": "Chall-CA", "NonceCCA": "Nonce-CCA",
	"SETURL": "SET-URL", "QueryURL": "Query-URL", "SuccessURL": "Success-URL", "FailureURL": "Failure-URL", "CancelURL": "Cancel-URL",
	"DiagnosticURL": "Diagnostic-URL", "ServiceURL": "Service-URL",
}

func spelled(name string) string {
	if s, ok := spellings[name]; ok || name == "" {
		return s
	}
	return strings.ToUpper(name[:1]) + name[1:]
}

// fieldName gives SET's name of a field. What stands in a linkage, SET names by its type.
func fieldName(t reflect.Type, f reflect.StructField) string {
	if f.Name != "Value" || generic.FindString(t.Name()) == "" {
		return spelled(f.Name)
	}
	if m := generic.FindStringSubmatch(f.Type.Name()); m != nil && m[1] == "Linked" && m[2] == "PIHead" {
		return "PI-OILink"
	}
	return typeName(f.Type)
}
