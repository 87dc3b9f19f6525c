package trace_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"html/template"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/setkit/setkit/cmd/internal/describe"
	"github.com/setkit/setkit/cmd/internal/trace"
	"github.com/setkit/setkit/roles/sethttp"
)

var update = flag.Bool("update", false, "draw the golden pictures anew")

// The recording is of a set-lab demo whose keys are gone. To record anew, copy the folder trace of another
// one over it, and run this test and that of package describe with -update.
const traceDir = "../../../testdata/trace"

func recorded(t testing.TB) *trace.Recording {
	t.Helper()
	r, err := trace.Read(filepath.Join(traceDir, "recording"), new(describe.Describer))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func latest(t testing.TB) []*trace.Message {
	t.Helper()
	messages, err := recorded(t).Purchase("")
	if err != nil {
		t.Fatal(err)
	}
	return messages
}

func drawn(t testing.TB, draw func(trace.View, io.Writer) error, messages []*trace.Message) string {
	t.Helper()
	var b strings.Builder
	if err := draw(trace.View{Messages: messages}, &b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// The picture in the README is what is drawn of the recording beside it.
func TestGolden(t *testing.T) {
	t.Parallel()
	for name, draw := range map[string]func(trace.View, io.Writer) error{"purchase.svg": trace.View.SVG, "purchase.txt": trace.View.Text} {
		got := drawn(t, draw, latest(t))
		file := filepath.Join(traceDir, name)
		if *update {
			if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), got); diff != "" {
			t.Errorf("%s: if that is meant, run with -update (-want +got):\n%s", name, diff)
		}
	}
}

// A registration of each party, and a purchase, whose capture names it by its token alone.
func TestTransactions(t *testing.T) {
	t.Parallel()
	var got []string
	for _, messages := range recorded(t).Transactions() {
		var types []string
		for _, m := range messages {
			types = append(types, m.Type)
		}
		got = append(got, strings.Join(types, " "))
	}
	want := []string{
		"Me-AqCInitReq Me-AqCInitRes CertReq CertRes",
		"Me-AqCInitReq Me-AqCInitRes CertReq CertRes",
		"CardCInitReq CardCInitRes RegFormReq RegFormRes CertReq CertRes",
		"0100 0110",
		"Payment-Initiation PInitReq PInitRes PReq AuthReq 0100 0110 AuthRes PRes CapReq CapRes 0220 0230",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	xid := latest(t)[3].XID
	if messages, err := recorded(t).Purchase(xid); err != nil || len(messages) != 13 {
		t.Errorf("purchase %s: %d messages, %v", xid, len(messages), err)
	}
	if messages, err := recorded(t).Purchase(strings.Repeat("0", 40)); err == nil {
		t.Errorf("a purchase that is none has %d messages", len(messages))
	}
}

// Who can read what is what SET promises.
func TestWhoCanReadWhat(t *testing.T) {
	t.Parallel()
	got := map[string][]trace.Part{}
	for _, a := range trace.Arrows(latest(t)) {
		got[a.Type] = a.Parts
		if wantCard := a.Type == "PReq"; a.Card != wantCard {
			t.Errorf("%s: the card signs: %v", a.Type, a.Card)
		}
		if wantSigns := slices.Contains([]string{"PInitRes", "AuthReq", "AuthRes", "PRes", "CapReq", "CapRes"}, a.Type); a.Signs != wantSigns {
			t.Errorf("%s: the sender's HSM signs: %v", a.Type, a.Signs)
		}
		if wantOpens := slices.Contains([]string{"AuthReq", "AuthRes", "CapReq", "CapRes"}, a.Type); a.Opens != wantOpens {
			t.Errorf("%s: the recipient's HSM opens: %v", a.Type, a.Opens)
		}
	}
	dual := trace.Part{What: "dual signature over both", Signer: trace.Wallet}
	payment := trace.Part{What: "PAYMENT: card number, amount", Reader: trace.Gateway, Locked: true}
	token := trace.Part{What: "token for the capture", Reader: trace.Gateway, Signer: trace.Gateway, Locked: true}
	for typ, want := range map[string][]trace.Part{
		"PReq":    {{What: "ORDER: its digest, identifiers", Reader: trace.Merchant}, dual, payment},
		"AuthReq": {{What: "request: amount, digests", Reader: trace.Gateway, Signer: trace.Merchant, Locked: true}, dual, payment},
		"AuthRes": {{What: "decision, amount", Reader: trace.Merchant, Signer: trace.Gateway, Locked: true}, token},
		"CapReq":  {{What: "which payments, how much", Reader: trace.Gateway, Signer: trace.Merchant, Locked: true}, token},
		"PRes":    {{What: "result of the purchase", Signer: trace.Merchant}},
	} {
		if diff := cmp.Diff(want, got[typ]); diff != "" {
			t.Errorf("%s (-want +got):\n%s", typ, diff)
		}
	}
}

// The picture is well-formed XML with a title and a description, its text is text, and it needs nothing
// from elsewhere; so does the page, which runs no script.
func TestSelfContained(t *testing.T) {
	t.Parallel()
	all := recorded(t).Messages
	svg := drawn(t, trace.View.SVG, all)
	elements := map[string]int{}
	for d := xml.NewDecoder(strings.NewReader(svg)); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if e, ok := token.(xml.StartElement); ok {
			elements[e.Name.Local]++
		}
	}
	if elements["title"] < 1+len(all) || elements["desc"] != 1 || elements["text"] < 4*len(all) || elements["image"] > 0 || elements["script"] > 0 {
		t.Errorf("elements: %v", elements)
	}
	html := drawn(t, trace.View.HTML, all)
	for _, foreign := range []string{"<script", "<link", "<img", "url(http", "@import", "javascript:", "onload"} {
		if strings.Contains(html, foreign) {
			t.Errorf("the page has %s", foreign)
		}
	}
	for _, m := range all {
		if !strings.Contains(html, fmt.Sprintf(`<section id="m%d">`, m.Number)) {
			t.Errorf("the page has no message %d", m.Number)
		}
	}
	for _, want := range []string{"<summary>", "EXPIData", "**** 1111"} {
		if !strings.Contains(html, want) {
			t.Errorf("the page has no %s", want)
		}
	}
	for line := range strings.Lines(drawn(t, trace.View.Text, all)) {
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 120 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
}

func newRecorder(t *testing.T) (*trace.Recorder, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "trace")
	r, err := trace.Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r, dir
}

// What is recorded is what is read, octet for octet, also when many speak at once.
func TestRecorder(t *testing.T) {
	t.Parallel()
	r, dir := newRecorder(t)
	golden, err := os.ReadFile("../../../testdata/golden/PInitReq.der")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			n, err := r.Message(trace.Entry{From: trace.Wallet, To: trace.Merchant, Media: sethttp.MediaPayment, Time: time.Now()}, golden)
			if err != nil {
				t.Error(err)
			}
			if _, err := r.Message(trace.Entry{From: trace.Merchant, To: trace.Wallet, ReplyTo: n, Media: sethttp.MediaPayment, Status: "400", Time: time.Now()}, []byte("noise")); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	got, err := trace.Read(dir, new(describe.Describer))
	if err != nil || len(got.Messages) != 40 {
		t.Fatalf("%v, %v", got, err)
	}
	for _, m := range got.Messages {
		b, err := os.ReadFile(filepath.Join(dir, m.File))
		want := map[string]string{trace.Merchant: string(golden), trace.Wallet: "noise"}[m.To]
		if err != nil || string(b) != want || m.Octets != len(want) {
			t.Errorf("%s: %d octets, %v", m.File, len(b), err)
		}
		if typ := map[string]string{trace.Merchant: "PInitReq", trace.Wallet: "malformed"}[m.To]; m.Type != typ {
			t.Errorf("%s is %s", m.File, m.Type)
		}
		if m.To == trace.Wallet && (m.ReplyTo == 0 || got.Messages[m.ReplyTo-1].To != trace.Merchant) {
			t.Errorf("%s replies to %d", m.File, m.ReplyTo)
		}
	}
	if _, err := trace.Create(dir); err == nil {
		t.Error("a second recording in the same place")
	}
	for _, draw := range []func(trace.View, io.Writer) error{trace.View.SVG, trace.View.Text, trace.View.HTML} {
		drawn(t, draw, got.Messages)
	}
}

// What is no ISO 8583 message is recorded as that, and never its octets.
func TestISO8583IsNotKept(t *testing.T) {
	t.Parallel()
	r, dir := newRecorder(t)
	secret := "01004111111111111111"
	if err := r.ISO8583(trace.Entry{From: trace.Gateway, To: trace.Issuer, Time: time.Now()}, []byte(secret)); err != nil {
		t.Fatal(err)
	}
	all, err := filepath.Glob(dir + "/*")
	if err != nil || len(all) != 2 {
		t.Fatalf("%v, %v", all, err)
	}
	for _, file := range all {
		b, err := os.ReadFile(file)
		if err != nil || bytes.Contains(b, []byte("4111")) {
			t.Errorf("%s: %v\n%s", file, err, b)
		}
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", file, info, err)
		}
	}
}

func TestReadRefuses(t *testing.T) {
	t.Parallel()
	if _, err := trace.Read(t.TempDir(), new(describe.Describer)); err == nil || !strings.Contains(err.Error(), "no recording of set-lab") {
		t.Errorf("an empty folder: %v", err)
	}
	good := trace.Entry{Number: 1, File: "a", From: trace.Wallet, To: trace.Merchant}
	for name, change := range map[string]func(*trace.Entry){
		"a path":            func(e *trace.Entry) { e.File = "../a" },
		"another number":    func(e *trace.Entry) { e.Number = 7 },
		"a reply to later":  func(e *trace.Entry) { e.ReplyTo = 1 },
		"an unknown party":  func(e *trace.Entry) { e.From = "somebody" },
		"one party":         func(e *trace.Entry) { e.To = e.From },
		"a file that isn't": func(e *trace.Entry) { e.File = "b" },
	} {
		dir := filepath.Join(t.TempDir(), "trace") // beside which there is a file too
		e := good
		change(&e)
		line, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(dir+"/index.jsonl", line, 0o600),
			os.WriteFile(dir+"/a", []byte{0x30, 0}, 0o600), os.WriteFile(dir+"/../a", []byte{0x30, 0}, 0o600)); err != nil {
			t.Fatal(err)
		}
		if r, err := trace.Read(dir, new(describe.Describer)); err == nil {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

// Whatever a peer has sent and a recorder has written down, it can be drawn.
func FuzzDraw(f *testing.F) {
	for _, m := range recorded(f).Messages {
		b, err := os.ReadFile(filepath.Join(traceDir, "recording", m.File))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, m.Media, m.Type)
	}
	f.Add([]byte{0x30, 0}, `"><script>`, `</text><script>alert("1 & 2")</script>`)
	f.Fuzz(func(t *testing.T, b []byte, media, typ string) {
		dir := t.TempDir()
		line, err := json.Marshal(trace.Entry{Number: 1, File: "a", From: trace.Merchant, To: trace.Gateway, Media: media, Type: typ, Status: typ})
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(os.WriteFile(dir+"/index.jsonl", line, 0o600), os.WriteFile(dir+"/a", b, 0o600)); err != nil {
			t.Fatal(err)
		}
		r, err := trace.Read(dir, new(describe.Describer))
		if err != nil {
			return
		}
		if html := drawn(t, trace.View.HTML, r.Messages); strings.Contains(html, "<script") {
			t.Errorf("the page has a script:\n%s", html)
		}
		drawn(t, trace.View.Text, r.Messages)
		v := trace.View{Recording: r, Messages: r.Messages, Wallet: true, Tongue: trace.French, Link: func(n int) string { return fmt.Sprint(n) }}
		for _, show := range []func() (template.HTML, error){
			func() (template.HTML, error) { return v.Overview("") },
			func() (template.HTML, error) { part, _, err := v.Opened(1); return part, err },
		} {
			if part, err := show(); err != nil || strings.Contains(string(part), "<script") {
				t.Errorf("%v, or the part has a script:\n%s", err, part)
			}
		}
		d := xml.NewDecoder(strings.NewReader(drawn(t, trace.View.SVG, r.Messages)))
		for err == nil {
			_, err = d.Token()
		}
		if !errors.Is(err, io.EOF) {
			t.Errorf("the picture is no XML: %v", err)
		}
	})
}
