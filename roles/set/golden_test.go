package set_test

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/der"
)

var update = flag.Bool("update", false, "write the golden messages anew")

const goldenDir = "../../testdata/golden"

// golden gives a message of every kind by the name of its file, each with every field. Where a message
// is a CHOICE there is one for each alternative.
func golden() map[string]set.MessageWrapper {
	out := make(map[string]set.MessageWrapper)
	message := reflect.TypeFor[set.Message]()
	for i := 1; i < message.NumField(); i++ {
		field := message.Field(i)
		alternatives := []string{""}
		if body := field.Type.Elem(); body.Field(0).Type == choiceType {
			alternatives = nil
			for j := 1; j < body.NumField(); j++ {
				alternatives = append(alternatives, "-"+body.Field(j).Name)
			}
		}
		for j, name := range alternatives {
			f := filler{present: everything, pick: func(path string, _ int) int {
				switch path {
				case "w.Message":
					return i - 1
				case "w.Message." + field.Name:
					return j
				}
				return 0
			}}
			w := f.value(reflect.TypeFor[set.MessageWrapper](), "w").Interface().(set.MessageWrapper)
			w.MessageHeader.Version, w.MessageHeader.Revision = 1, 0
			out[field.Name+name] = w
		}
	}
	return out
}

func TestGolden(t *testing.T) {
	t.Parallel()
	messages := golden()
	for name, w := range messages {
		path := filepath.Join(goldenDir, name+".der")
		b, err := set.Encode(w)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if *update {
			if err := os.WriteFile(path, b, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(b, want) {
			t.Errorf("%s: encoding differs from the golden message; if that is meant, run with -update", name)
		}
		got, err := set.Decode(want)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if diff := cmp.Diff(w, *got, exact); diff != "" {
			t.Errorf("%s: decoded message differs (-want +got):\n%s", name, diff)
		}
		kind, _, _ := strings.Cut(name, "-")
		if got := strings.ReplaceAll(got.Message.Type().String(), "-", ""); got != kind {
			t.Errorf("%s: type %s", name, got)
		}
		if out, err := exec.Command("openssl", "asn1parse", "-inform", "DER", "-in", path).CombinedOutput(); err != nil {
			t.Errorf("%s: openssl asn1parse: %v\n%s", name, err, out)
		}
	}
	files, err := filepath.Glob(filepath.Join(goldenDir, "*.der"))
	if err != nil || len(files) != len(messages) {
		t.Errorf("%d golden files, %v, want %d", len(files), err, len(messages))
	}
}

func TestMessageTags(t *testing.T) {
	t.Parallel()
	for prefix, m := range map[string]set.Message{
		"\xa0":         {PInitReq: ptr(full().value(reflect.TypeFor[set.PInitReq](), "").Interface().(set.PInitReq))},
		"\xbf\x1f":     {CertInqRes: ptr(full().value(reflect.TypeFor[set.CertInqRes](), "").Interface().(set.CertInqRes))},
		"\xbf\x87\x67": {Error: ptr(full().value(reflect.TypeFor[set.Error](), "").Interface().(set.Error))},
	} {
		b, err := der.Marshal(m)
		if err != nil || !bytes.HasPrefix(b, []byte(prefix)) {
			t.Errorf("%v starts with %x, %v, want %x", m.Type(), b[:4], err, prefix)
		}
	}
}

func TestMessageTypes(t *testing.T) {
	t.Parallel()
	for want, typ := range map[string]set.MessageType{
		"none": set.NoMessage, "PInitReq": set.PInitReqType, "AuthReq": set.AuthReqType, "CapReq": set.CapReqType,
		"CardCInitReq": set.CardCInitReqType, "Me-AqCInitRes": set.MeAqCInitResType, "CertInqRes": set.CertInqResType,
		"Error": set.ErrorType, "unknown(32)": 32,
	} {
		if got := typ.String(); got != want {
			t.Errorf("type %d is called %s, want %s", int(typ), got, want)
		}
	}
	var none set.Message
	if got := none.Type(); got != set.NoMessage {
		t.Errorf("a message without an alternative is of type %v", got)
	}
}

func TestDecodeRefuses(t *testing.T) {
	t.Parallel()
	good, err := os.ReadFile(filepath.Join(goldenDir, "MeAqCInitReq.der"))
	if err != nil {
		t.Fatal(err)
	}
	// ENUMERATED 6, merInitialBoth, becomes 2, which SET reserves.
	reserved := bytes.Replace(good, []byte{0x0a, 1, 6}, []byte{0x0a, 1, 2}, 1)
	if bytes.Equal(reserved, good) {
		t.Fatal("the golden message has no requestType merInitialBoth")
	}
	for name, c := range map[string]struct {
		b    []byte
		want set.ErrorCode
	}{
		"nothing":              {nil, set.DecodingFailure},
		"cut off":              {good[:len(good)-1], set.DecodingFailure},
		"one octet more":       {append(bytes.Clone(good), 0), set.DecodingFailure},
		"reserved requestType": {reserved, set.DecodingFailure},
		"over the limit":       {make([]byte, set.MessageOctetsMax+1), set.MessageTooBig},
	} {
		var e *set.ProtocolError
		if w, err := set.Decode(c.b); !errors.As(err, &e) || e.Code != c.want || w != nil {
			t.Errorf("%s: %v, %v, want %v", name, w, err, c.want)
		}
	}
}

func TestEncodeRefusesTooBig(t *testing.T) {
	t.Parallel()
	w := full().value(reflect.TypeFor[set.MessageWrapper](), "w").Interface().(set.MessageWrapper)
	big, err := der.Marshal(make([]byte, set.MessageOctetsMax))
	if err != nil {
		t.Fatal(err)
	}
	w.MWExtensions[0].Value = big
	if b, err := set.Encode(w); err == nil {
		t.Errorf("encoded in %d octets", len(b))
	}
}
