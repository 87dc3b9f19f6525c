package set_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/cms"
)

// sensitive are values that may not be printed in any form.
var sensitive = map[string][]byte{
	"PAN":         []byte("4929123456781234"),
	"expiry":      []byte("203711"),
	"secret":      bytes.Repeat([]byte{0xc7, 0xd3}, 10),
	"back key":    bytes.Repeat([]byte{0xe9, 0xb5}, 16),
	"account":     []byte("acct 8150"),
	"form answer": []byte("swordfish-nineteen"),
}

// secretive gives a value of type t, with every field, in which sensitive stands wherever it can.
func secretive(t reflect.Type) reflect.Value {
	v := reflect.New(t).Elem()
	v.Set(full().value(t, ""))
	plant(v)
	return v
}

func plant(v reflect.Value) {
	switch p := v.Addr().Interface().(type) {
	case *set.PAN:
		*p = sensitive["PAN"]
	case *set.CardExpiry:
		*p = sensitive["expiry"]
	case *set.Secret:
		*p = set.Secret(sensitive["secret"])
	case *set.BackKey:
		*p = sensitive["back key"]
	case *set.AcctIdentification:
		*p = set.AcctIdentification(sensitive["account"])
	case *set.FieldText:
		*p = set.FieldText(sensitive["form answer"])
	case *set.FieldOctets:
		*p = sensitive["form answer"]
	case *set.PANData:
		plantFields(v)
		p.ExNonce = set.Nonce(sensitive["secret"]) // as good as one: it opens the digest to a search
	case *set.PANToken:
		plantFields(v)
		p.ExNonce = set.Nonce(sensitive["secret"])
	default:
		plantFields(v)
	}
}

func plantFields(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			plant(v.Elem())
		}
	case reflect.Slice:
		for i := range v.Len() {
			plant(v.Index(i))
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Field(i).CanSet() && v.Type().Field(i).IsExported() {
				plant(v.Field(i))
			}
		}
	}
}

// printed gives every form in which a value may land in a log.
func printed(v reflect.Value) map[string]string {
	out := make(map[string]string)
	list := reflect.MakeSlice(reflect.SliceOf(v.Type()), 0, 1)
	for kind, x := range map[string]any{
		"value": v.Interface(), "pointer": v.Addr().Interface(), "in a slice": reflect.Append(list, v).Interface(),
		"in a struct": struct{ V any }{v.Interface()}, "in a map": map[string]any{"v": v.Interface()},
	} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "% x"} {
			out[kind+" "+verb] = fmt.Sprintf(verb, x)
		}
		b, err := json.Marshal(x)
		out[kind+" json"] = fmt.Sprint(string(b), err)
		var text, js bytes.Buffer
		slog.New(slog.NewTextHandler(&text, nil)).Info("m", "v", x)
		slog.New(slog.NewJSONHandler(&js, nil)).Info("m", "v", x)
		out[kind+" slog text"], out[kind+" slog json"] = text.String(), js.String()
	}
	return out
}

// shows tells whether s has the trace in it. Six digits alone also turn up within addresses and times, so
// they count only where they are not part of something longer.
func shows(s, trace string) bool {
	if len(trace) > 6 {
		return strings.Contains(s, trace)
	}
	return regexp.MustCompile(`(^|[^0-9a-fA-Fx.])` + regexp.QuoteMeta(trace) + `([^0-9a-fA-F]|$)`).MatchString(s)
}

// traces are the forms in which printing could give octets away.
func traces(b []byte) []string {
	decimal := strings.Trim(fmt.Sprint(b), "[]")
	goSyntax := strings.TrimSuffix(strings.TrimPrefix(fmt.Sprintf("%#v", b), "[]byte{"), "}")
	return []string{
		string(b), hex.EncodeToString(b), strings.ToUpper(hex.EncodeToString(b)), fmt.Sprintf("% x", b), decimal,
		strings.ReplaceAll(decimal, " ", ","), goSyntax, base64.StdEncoding.EncodeToString(b)[:len(b)/3*4],
		hex.EncodeToString([]byte(hex.EncodeToString(b))),
	}
}

func TestNothingLeaksInPrint(t *testing.T) {
	t.Parallel()
	holders := 0
	for _, typ := range append(structs(), reflect.TypeFor[set.PAN](), reflect.TypeFor[set.CardExpiry](), reflect.TypeFor[set.Secret](),
		reflect.TypeFor[set.BackKey](), reflect.TypeFor[set.AcctIdentification](), reflect.TypeFor[set.FieldText](), reflect.TypeFor[set.FieldOctets]()) {
		v := secretive(typ)
		if strings.Contains(printed(v)["value %+v"], "***") {
			holders++
		}
		for how, s := range printed(v) {
			for what, b := range sensitive {
				for _, trace := range traces(b) {
					if shows(s, trace) {
						t.Errorf("%v as %s shows the %s", typ, how, what)
						break
					}
				}
			}
		}
	}
	if holders < 15 {
		t.Errorf("%d types print something masked, want more: the test does not plant its values", holders)
	}
}

// What must be seen to follow a purchase is not masked.
func TestPublicIsPrinted(t *testing.T) {
	t.Parallel()
	ids := set.TransIDs{XID: series[set.XID](0xa0)}
	if got := fmt.Sprintf("%+v", cms.Linked[set.PIHead]{Value: set.PIHead{TransIDs: ids}}); !strings.Contains(got, ids.XID.String()) {
		t.Errorf("no XID in %s", got)
	}
}
