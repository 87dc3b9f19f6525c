package set_test

import (
	"encoding/asn1"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/der"
)

// plaintexts are the structures that stand inside an operator of SET, and so are decoded by themselves.
var plaintexts = []any{
	set.CardCInitResTBS{}, set.MeAqCInitResTBS{}, set.RegFormReqTBE{}, set.RegFormResTBS{},
	set.CertReqTBEX{}, set.CertReqTBS{}, set.CertReqTBE{}, set.CertReqData{}, set.CertResTBE{}, set.CertResData{},
	set.CertInqReqTBS{}, set.PInitResData{}, set.PIDualSignedTBE{}, set.PIUnsignedTBE{}, set.PITBS{},
	set.PIData{}, set.PIDataUnsigned{}, set.HODInput{}, set.PResData{}, set.InqReqData{},
	set.AuthReqTBS{}, set.AuthReqTBE{}, set.AuthResTBS{}, set.AuthResTBE{}, set.AuthResTBEX{}, set.AuthResTBSX{},
	set.CapTokenTBEX{}, set.CapTokenTBS{}, set.CapTokenTBE{}, set.CapTokenData{},
	set.AuthTokenTBE{}, set.AuthTokenTBS{}, set.AcqCardCodeMsgTBE{}, set.AcqCardCodeMsg{},
	set.CapReqTBS{}, set.CapReqTBE{}, set.CapReqTBEX{}, set.CapReqTBSX{}, set.CapResTBE{}, set.CapResData{},
	set.AuthRevReqTBS{}, set.AuthRevReqTBE{}, set.AuthRevResTBS{}, set.AuthRevResTBE{}, set.AuthRevResTBEB{},
	set.CapRevOrCredReqTBS{}, set.CapRevOrCredReqTBE{}, set.CapRevOrCredReqTBEX{}, set.CapRevOrCredReqTBSX{},
	set.CapRevOrCredResTBE{}, set.CapRevOrCredResData{}, set.PCertReqData{}, set.PCertResTBS{},
	set.BatchAdminReqTBE{}, set.BatchAdminReqData{}, set.BatchAdminResTBE{}, set.BatchAdminResData{},
	set.ErrorTBS{}, set.PANOnly{}, set.PANToken{}, set.PANData{}, set.PANData0{}, set.AcctData{},
}

var choiceType = reflect.TypeFor[der.Choice]()

// structs gives every struct type that messages and plaintexts are made of.
func structs() []reflect.Type {
	var out []reflect.Type
	seen := make(map[reflect.Type]bool)
	var visit func(reflect.Type)
	visit = func(t reflect.Type) {
		switch t.Kind() {
		case reflect.Pointer, reflect.Slice:
			visit(t.Elem())
		case reflect.Struct:
			if seen[t] || t == choiceType || t == reflect.TypeFor[time.Time]() {
				return
			}
			seen[t] = true
			out = append(out, t)
			for i := range t.NumField() {
				visit(t.Field(i).Type)
			}
		}
	}
	visit(reflect.TypeFor[set.MessageWrapper]())
	for _, v := range plaintexts {
		visit(reflect.TypeOf(v))
	}
	return out
}

// typical values make the golden messages readable.
var typical = map[reflect.Type]any{
	reflect.TypeFor[set.RequestType]():    set.MerInitialBoth,
	reflect.TypeFor[set.Language]():       set.Language("en"),
	reflect.TypeFor[set.Currency]():       set.Currency(840),
	reflect.TypeFor[set.CurrencyAmount](): set.CurrencyAmount{Currency: 840, Amount: 1050, AmtExp10: -2},
	reflect.TypeFor[set.CountryCode]():    set.CountryCode(276),
	reflect.TypeFor[set.BIN]():            set.BIN("411111"),
	reflect.TypeFor[set.BrandID]():        set.BrandID("Brand:Product"),
	reflect.TypeFor[set.MerchantID]():     set.MerchantID("4711-0815"),
	reflect.TypeFor[set.URL]():            set.URL("https://shop.example/set"),
	reflect.TypeFor[set.SWIdent]():        set.SWIdent("setkit 1"),
	reflect.TypeFor[set.PAN]():            set.PAN("4929123456781234"),
	reflect.TypeFor[set.CardExpiry]():     set.CardExpiry("203711"),
	reflect.TypeFor[cms.AlgorithmIdentifier](): cms.AlgorithmIdentifier{
		Algorithm: asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}, Parameters: der.Raw{5, 0},
	},
}

// filler makes values of any structure, with the optional fields that present wants, and the alternative
// of each CHOICE that pick wants. Every value of octets is another one.
type filler struct {
	present func(path string) bool
	pick    func(path string, alternatives int) int
	n       int
}

func everything(string) bool  { return true }
func nothing(string) bool     { return false }
func first(string, int) int   { return 0 }
func ptr[T any](v T) *T       { return &v }
func full() *filler           { return &filler{present: everything, pick: first} }
func (f *filler) next() int   { f.n++; return f.n }
func (f *filler) octet() byte { return byte(f.next()*7 + 1) }

func (f *filler) value(t reflect.Type, path string) reflect.Value {
	if v, ok := typical[t]; ok {
		return reflect.ValueOf(v)
	}
	v := reflect.New(t).Elem()
	switch t {
	case reflect.TypeFor[der.Raw]():
		v.SetBytes([]byte{0x30, 3, 2, 1, f.octet() & 0x7f})
		return v
	case reflect.TypeFor[time.Time]():
		v.Set(reflect.ValueOf(time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC).Add(time.Duration(f.next()) * time.Second)))
		return v
	case reflect.TypeFor[asn1.ObjectIdentifier]():
		v.Set(reflect.ValueOf(asn1.ObjectIdentifier{2, 23, 42, 9, 99, f.next()}))
		return v
	}
	if typer, ok := v.Interface().(der.Typer); ok && t.Kind() != reflect.Pointer {
		f.typed(v, typer.DERType())
		return v
	}
	switch t.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(t.Elem()))
		v.Elem().Set(f.value(t.Elem(), path))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int64:
		v.SetInt(int64(f.next()) - 3)
	case reflect.Uint8:
		v.SetUint(uint64(f.octet()))
	case reflect.Array:
		for i := range v.Len() {
			v.Index(i).SetUint(uint64(f.octet()))
		}
	case reflect.Slice:
		for i := range 2 {
			v.Set(reflect.Append(v, f.value(t.Elem(), path+"."+strconv.Itoa(i))))
		}
	case reflect.Struct:
		f.fields(v, path)
	default:
		panic("no value for " + t.String())
	}
	return v
}

func (f *filler) typed(v reflect.Value, typ der.Type) {
	size := int(min(max(typ.Min, 5), typ.Max))
	switch typ.Kind {
	case der.Octets:
		b := make([]byte, size)
		for i := range b {
			b[i] = f.octet()
		}
		v.SetBytes(b)
	case der.Numeric:
		v.SetString(strings.Repeat("7", size))
	case der.Visible:
		v.SetString((fmt.Sprint("v", f.next()) + strings.Repeat("~", size))[:size])
	case der.SETString:
		text := []rune("Zürich " + fmt.Sprint(f.next()))
		if f.n%2 == 0 {
			text = []rune("plain " + fmt.Sprint(f.n))
		}
		v.SetString(string(text[:min(len(text), int(typ.Max))]))
	case der.Integer:
		v.SetInt(max(typ.Min, min(typ.Max, int64(f.next()))))
	case der.Enum:
		v.SetInt(typ.Min + int64(f.next())%(typ.Max-typ.Min+1))
	case der.RealContent:
		v.SetBytes(der.NewReal(float64(f.next()) / 8))
	default:
		panic(fmt.Sprint("no value for kind ", typ.Kind))
	}
}

func (f *filler) fields(v reflect.Value, path string) {
	t := v.Type()
	if t.NumField() > 0 && t.Field(0).Type == choiceType {
		i := 1 + f.pick(path, t.NumField()-1)
		v.Field(i).Set(f.value(t.Field(i).Type, path+"."+t.Field(i).Name))
		return
	}
	for i := range t.NumField() {
		name, tag := path+"."+t.Field(i).Name, t.Field(i).Tag.Get("der")
		deflt, has := defaultOf(tag)
		switch want := !optional(tag) || f.present(name); {
		case !has && want:
			v.Field(i).Set(f.value(t.Field(i).Type, name))
		case has && v.Field(i).Kind() == reflect.Bool:
			v.Field(i).SetBool((deflt == "true") != want)
		case has:
			n, err := strconv.ParseInt(deflt, 10, 64)
			if err != nil {
				panic(err)
			}
			if want {
				n = max(2, n-1) // within the bounds of every field that has a default
			}
			v.Field(i).SetInt(n)
		}
	}
	if k, ok := v.Addr().Interface().(*set.PublicKeySorE); ok && k.PublicKeyS == nil && k.PublicKeyE == nil {
		k.PublicKeyS = &der.Raw{0x30, 0}
	}
}

func optional(tag string) bool {
	_, has := defaultOf(tag)
	return has || strings.Contains(" "+tag+" ", " opt ")
}

func defaultOf(tag string) (string, bool) {
	for word := range strings.FieldsSeq(tag) {
		if value, ok := strings.CutPrefix(word, "default="); ok {
			return value, true
		}
	}
	return "", false
}

// variants gives the values that a struct is tested with: with every optional field, with none, with
// each alone, without each alone; of a CHOICE, with each alternative.
func variants(t reflect.Type) map[string]reflect.Value {
	root := t.Name()
	out := make(map[string]reflect.Value)
	add := func(name string, f filler) { out[name] = f.value(t, root) }
	if t.NumField() > 0 && t.Field(0).Type == choiceType {
		for i := range t.NumField() - 1 {
			pick := func(path string, _ int) int {
				if path == root {
					return i
				}
				return 0
			}
			add(t.Field(i+1).Name, filler{present: everything, pick: pick})
			add(t.Field(i+1).Name+", least", filler{present: nothing, pick: pick})
		}
		return out
	}
	add("every field", filler{present: everything, pick: first})
	add("least", filler{present: nothing, pick: first})
	for i := range t.NumField() {
		if name := root + "." + t.Field(i).Name; optional(t.Field(i).Tag.Get("der")) {
			add("only "+name, filler{present: func(path string) bool {
				return path == name || strings.HasPrefix(path, name+".")
			}, pick: first})
			add("without "+name, filler{present: func(path string) bool { return path != name }, pick: first})
		}
	}
	return out
}

func TestEveryStructure(t *testing.T) {
	t.Parallel()
	tested := 0
	for _, typ := range structs() {
		for name, v := range variants(typ) {
			tested++
			b, err := der.Marshal(v.Interface())
			if err != nil {
				t.Errorf("%v, %s: %v", typ, name, err)
				continue
			}
			got := reflect.New(typ)
			if err := set.Unmarshal(b, got.Interface()); err != nil {
				t.Errorf("%v, %s: %v", typ, name, err)
				continue
			}
			if diff := cmp.Diff(v.Interface(), got.Elem().Interface(), exact); diff != "" {
				t.Errorf("%v, %s: decoded value differs (-want +got):\n%s", typ, name, diff)
			}
			if err := set.Unmarshal(append(b, 0), got.Interface()); err == nil {
				t.Errorf("%v, %s: accepted with an octet behind it", typ, name)
			}
		}
	}
	t.Logf("%d values of %d structures", tested, len(structs()))
}

// exact keeps cmp from the Equal methods by which one amount may stand for another.
var exact = cmp.Comparer(func(a, b set.CurrencyAmount) bool { return a == b })

// What the ASN.1 type alone would allow.
func TestRulesBeyondTypes(t *testing.T) {
	t.Parallel()
	for name, v := range map[string]any{
		"reserved requestType": set.RegFormReqData{LIDEE: set.LocalID{1}, RequestType: 11, Language: "en"},
		"no key to certify":    set.PublicKeySorE{},
		"no token":             set.CapTokenSeq{},
	} {
		b, err := der.Marshal(v)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := set.Unmarshal(b, reflect.New(reflect.TypeOf(v)).Interface()); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// A structure that no message and no plaintext reaches would be tested by nothing.
func TestNoStructureForgotten(t *testing.T) {
	t.Parallel()
	reached := make(map[string]bool)
	for _, typ := range structs() {
		reached[typ.Name()] = true
	}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	checked := 0
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok {
				return true
			}
			if st, ok := spec.Type.(*ast.StructType); ok && onWire(st) {
				checked++
				if !reached[spec.Name.Name] {
					t.Errorf("%s: %s is reached by no message and no plaintext", name, spec.Name.Name)
				}
			}
			return false
		})
	}
	if checked < 50 {
		t.Errorf("found %d structures in the source, want the whole protocol", checked)
	}
}

func onWire(st *ast.StructType) bool {
	for _, f := range st.Fields.List {
		if f.Tag != nil && strings.Contains(f.Tag.Value, "der:") {
			return true
		}
	}
	return false
}
