package set_test

import (
	"bytes"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/der"
)

// parts are the structures that stand inside the operators of each message, and so are decoded by
// themselves after it.
var parts = map[string][]any{
	"PInitReq": {}, "PInitRes": {set.PInitResData{}},
	"PReq": {set.PIDualSignedTBE{}, set.PIUnsignedTBE{}, set.PITBS{}, set.PIData{}, set.PIDataUnsigned{}, set.HODInput{}, set.PANData{}},
	"PRes": {set.PResData{}, set.AcqCardCodeMsgTBE{}, set.AcqCardCodeMsg{}}, "InqReq": {set.InqReqData{}}, "InqRes": {set.PResData{}},
	"AuthReq":    {set.AuthReqTBS{}, set.AuthReqTBE{}, set.AuthTokenTBE{}, set.AuthTokenTBS{}},
	"AuthRes":    {set.AuthResTBS{}, set.AuthResTBE{}, set.AuthResTBEX{}, set.AuthResTBSX{}, set.PANToken{}},
	"AuthRevReq": {set.AuthRevReqTBS{}, set.AuthRevReqTBE{}},
	"AuthRevRes": {set.AuthRevResTBS{}, set.AuthRevResTBE{}, set.AuthRevResTBEB{}},
	"CapReq": {set.CapReqTBS{}, set.CapReqTBE{}, set.CapReqTBEX{}, set.CapReqTBSX{},
		set.CapTokenTBEX{}, set.CapTokenTBS{}, set.CapTokenTBE{}, set.CapTokenData{}},
	"CapRes":    {set.CapResTBE{}, set.CapResData{}},
	"CapRevReq": adjustmentReqParts, "CredReq": adjustmentReqParts, "CredRevReq": adjustmentReqParts,
	"CapRevRes": adjustmentResParts, "CredRes": adjustmentResParts, "CredRevRes": adjustmentResParts,
	"PCertReq": {set.PCertReqData{}}, "PCertRes": {set.PCertResTBS{}},
	"BatchAdminReq": {set.BatchAdminReqTBE{}, set.BatchAdminReqData{}},
	"BatchAdminRes": {set.BatchAdminResTBE{}, set.BatchAdminResData{}},
	"CardCInitReq":  {}, "CardCInitRes": {set.CardCInitResTBS{}}, "MeAqCInitReq": {}, "MeAqCInitRes": {set.MeAqCInitResTBS{}},
	"RegFormReq": {set.RegFormReqTBE{}, set.PANOnly{}}, "RegFormRes": {set.RegFormResTBS{}},
	"CertReq":    {set.CertReqTBEX{}, set.CertReqTBS{}, set.CertReqTBE{}, set.CertReqData{}, set.PANData0{}, set.AcctData{}},
	"CertRes":    {set.CertResTBE{}, set.CertResData{}},
	"CertInqReq": {set.CertInqReqTBS{}}, "CertInqRes": {set.CertResTBE{}, set.CertResData{}},
	"Error": {set.ErrorTBS{}},
}

var (
	adjustmentReqParts = []any{set.CapRevOrCredReqTBS{}, set.CapRevOrCredReqTBE{}, set.CapRevOrCredReqTBEX{}, set.CapRevOrCredReqTBSX{}}
	adjustmentResParts = []any{set.CapRevOrCredResTBE{}, set.CapRevOrCredResData{}}
)

// fuzz decodes a message, or one of its parts: part 0 is the message itself. What is accepted is the
// encoding of what was decoded.
func fuzz(f *testing.F, name string) {
	files, err := filepath.Glob(filepath.Join(goldenDir, name+"*.der"))
	if err != nil || len(files) == 0 {
		f.Fatalf("golden messages of %s: %d, %v", name, len(files), err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(byte(0), b)
	}
	of := parts[name]
	for i, v := range of {
		for _, fill := range []*filler{full(), {present: nothing, pick: first}} {
			b, err := der.Marshal(fill.value(reflect.TypeOf(v), "").Interface())
			if err != nil {
				f.Fatal(err)
			}
			f.Add(byte(i+1), b)
		}
	}
	f.Fuzz(func(t *testing.T, part byte, b []byte) {
		var v any
		if i := int(part) % (len(of) + 1); i == 0 {
			w, err := set.Decode(b)
			var e *set.ProtocolError
			if err != nil && !errors.As(err, &e) {
				t.Errorf("error %v has no code", err)
			}
			if err != nil {
				return
			}
			v = w
		} else {
			v = reflect.New(reflect.TypeOf(of[i-1])).Interface()
			if set.Unmarshal(b, v) != nil {
				return
			}
		}
		again, err := der.Marshal(v)
		if err != nil || !bytes.Equal(again, b) {
			t.Errorf("%T: %x decodes, but encodes as %x, %v", v, b, again, err)
		}
	})
}

func FuzzPInitReq(f *testing.F)      { fuzz(f, "PInitReq") }
func FuzzPInitRes(f *testing.F)      { fuzz(f, "PInitRes") }
func FuzzPReq(f *testing.F)          { fuzz(f, "PReq") }
func FuzzPRes(f *testing.F)          { fuzz(f, "PRes") }
func FuzzInqReq(f *testing.F)        { fuzz(f, "InqReq") }
func FuzzInqRes(f *testing.F)        { fuzz(f, "InqRes") }
func FuzzAuthReq(f *testing.F)       { fuzz(f, "AuthReq") }
func FuzzAuthRes(f *testing.F)       { fuzz(f, "AuthRes") }
func FuzzAuthRevReq(f *testing.F)    { fuzz(f, "AuthRevReq") }
func FuzzAuthRevRes(f *testing.F)    { fuzz(f, "AuthRevRes") }
func FuzzCapReq(f *testing.F)        { fuzz(f, "CapReq") }
func FuzzCapRes(f *testing.F)        { fuzz(f, "CapRes") }
func FuzzCapRevReq(f *testing.F)     { fuzz(f, "CapRevReq") }
func FuzzCapRevRes(f *testing.F)     { fuzz(f, "CapRevRes") }
func FuzzCredReq(f *testing.F)       { fuzz(f, "CredReq") }
func FuzzCredRes(f *testing.F)       { fuzz(f, "CredRes") }
func FuzzCredRevReq(f *testing.F)    { fuzz(f, "CredRevReq") }
func FuzzCredRevRes(f *testing.F)    { fuzz(f, "CredRevRes") }
func FuzzPCertReq(f *testing.F)      { fuzz(f, "PCertReq") }
func FuzzPCertRes(f *testing.F)      { fuzz(f, "PCertRes") }
func FuzzBatchAdminReq(f *testing.F) { fuzz(f, "BatchAdminReq") }
func FuzzBatchAdminRes(f *testing.F) { fuzz(f, "BatchAdminRes") }
func FuzzCardCInitReq(f *testing.F)  { fuzz(f, "CardCInitReq") }
func FuzzCardCInitRes(f *testing.F)  { fuzz(f, "CardCInitRes") }
func FuzzMeAqCInitReq(f *testing.F)  { fuzz(f, "MeAqCInitReq") }
func FuzzMeAqCInitRes(f *testing.F)  { fuzz(f, "MeAqCInitRes") }
func FuzzRegFormReq(f *testing.F)    { fuzz(f, "RegFormReq") }
func FuzzRegFormRes(f *testing.F)    { fuzz(f, "RegFormRes") }
func FuzzCertReq(f *testing.F)       { fuzz(f, "CertReq") }
func FuzzCertRes(f *testing.F)       { fuzz(f, "CertRes") }
func FuzzCertInqReq(f *testing.F)    { fuzz(f, "CertInqReq") }
func FuzzCertInqRes(f *testing.F)    { fuzz(f, "CertInqRes") }
func FuzzError(f *testing.F)         { fuzz(f, "Error") }

// Every message has its fuzz target, and every structure that travels is decoded by one of them.
func TestEveryDecoderIsFuzzed(t *testing.T) {
	t.Parallel()
	file, err := parser.ParseFile(token.NewFileSet(), "fuzz_test.go", nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	var targets []string
	for _, d := range file.Decls {
		if fn, ok := d.(*ast.FuncDecl); ok {
			if name, ok := strings.CutPrefix(fn.Name.Name, "Fuzz"); ok {
				targets = append(targets, name)
			}
		}
	}
	message := reflect.TypeFor[set.Message]()
	for i := 1; i < message.NumField(); i++ {
		name := message.Field(i).Name
		if _, ok := parts[name]; !ok || !slices.Contains(targets, name) {
			t.Errorf("%s has no fuzz target, or no parts", name)
		}
	}
	for _, v := range plaintexts {
		if !fuzzed(reflect.TypeOf(v)) {
			t.Errorf("%T is part of no message", v)
		}
	}
}

func fuzzed(t reflect.Type) bool {
	for _, of := range parts {
		if slices.ContainsFunc(of, func(v any) bool { return reflect.TypeOf(v) == t }) {
			return true
		}
	}
	return false
}
