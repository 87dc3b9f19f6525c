package main

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/cmd/internal/tokenload"
	"github.com/setkit/setkit/hsm"
	"github.com/setkit/setkit/hsm/hsmtest"
)

// runBench runs set-hsm bench on a token.
func runBench(ctx context.Context, tk *hsmtest.Token, stderr io.Writer, args ...string) (code int, stdout string) {
	var out bytes.Buffer
	args = append([]string{"set-hsm", "bench", "--token", tk.URI}, args...)
	return cli.Run(ctx, newApp(), args, strings.NewReader(""), &out, stderr), out.String()
}

func mustHaveNoKeys(t *testing.T, tok *hsm.Token) {
	t.Helper()
	keys, err := tok.Keys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range keys {
		t.Errorf("key %s is left", k.Label)
	}
}

func TestBenchJSON(t *testing.T) {
	t.Parallel()
	tk := hsmtest.New(t)
	plot := filepath.Join(t.TempDir(), "plot.svg")
	var errs bytes.Buffer
	code, out := runBench(t.Context(), tk, &errs, "--confirm", tk.Label, "--seconds", "0.02", "--callers", "3,1,3",
		"--mechanism", "random,sign-ec-p256,mac-hmac-sha256", "--json", "--svg", plot)
	if code != 0 {
		t.Fatalf("exit code %d: %s", code, errs.Bytes())
	}
	for _, want := range []string{"makes up to 2 temporary keys in token \"" + tk.Label, "6 of 6: mac-hmac-sha256, callers 3: ", "the temporary keys are deleted"} {
		if !strings.Contains(errs.String(), want) {
			t.Errorf("it does not say %q:\n%s", want, errs.Bytes())
		}
	}
	var got benchReport
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	type row struct {
		mechanism string
		callers   int
	}
	var rows []row
	for _, r := range got.Results {
		rows = append(rows, row{r.Mechanism, r.Callers})
		if r.Operations < r.Callers || r.PerSecond <= 0 || r.P50 <= 0 || r.P90 < r.P50 || r.P99 < r.P90 || r.Max < r.P99 {
			t.Errorf("impossible result %+v", r)
		}
	}
	want := []row{{"random", 1}, {"random", 3}, {"sign-ec-p256", 1}, {"sign-ec-p256", 3}, {"mac-hmac-sha256", 1}, {"mac-hmac-sha256", 3}}
	if diff := cmp.Diff(want, rows, cmp.AllowUnexported(row{})); diff != "" {
		t.Errorf("rows (-want +got):\n%s", diff)
	}
	if got.Token.Serial != tk.Serial {
		t.Errorf("token %s, want %s", got.Token.Serial, tk.Serial)
	}
	missing := map[string]int{"gateway": 2, "merchant": 1, "issuer": 0, "cardholder CA": 1, "merchant CA": 1}
	for _, r := range got.Roles {
		if n, ok := missing[r.Role]; !ok || len(r.Missing) != n || (r.PerSecond > 0) != (n == 0) {
			t.Errorf("role %+v; want %d mechanisms missing", r, n)
		}
		delete(missing, r.Role)
	}
	if len(missing) > 0 {
		t.Errorf("roles missing: %v", missing)
	}
	checkPlot(t, plot, len(rows))
	mustHaveNoKeys(t, tk.Open(t))
}

// checkPlot looks whether the file is well-formed XML with a bar for each measurement.
func checkPlot(t *testing.T, path string, want int) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	dec := xml.NewDecoder(f)
	bars := 0
	for {
		token, err := dec.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("plot: %v", err)
		}
		if e, ok := token.(xml.StartElement); ok {
			for _, a := range e.Attr {
				if a.Name.Local == "class" && a.Value == "bar" {
					bars++
				}
			}
		}
	}
	if bars != want {
		t.Errorf("%d bars, want %d", bars, want)
	}
}

// Everything that is measured works, and the other keys of the token stay.
func TestBenchTable(t *testing.T) {
	t.Parallel()
	tk := hsmtest.New(t)
	tok := tk.Open(t)
	if _, err := tok.GenerateKey(t.Context(), "bench-of-wood", hsm.PurposeSign, hsm.ECP256); err != nil {
		t.Fatal(err)
	}
	var errs bytes.Buffer
	code, out := runBench(t.Context(), tk, &errs, "--confirm", tk.Label, "--seconds", "0.01", "--callers", "2")
	if code != 0 {
		t.Fatalf("exit code %d: %s", code, errs.Bytes())
	}
	if !strings.Contains(errs.String(), "there is a key labelled bench-of-wood") {
		t.Errorf("it says nothing of a key that looks left over:\n%s", errs.Bytes())
	}
	for _, name := range benchWorkNames() {
		if !strings.Contains(out, "\n"+name+" ") {
			t.Errorf("no row for %s:\n%s", name, out)
		}
	}
	if strings.Contains(out, "not supported") || strings.Contains(out, "not measured") {
		t.Errorf("something was not measured:\n%s", out)
	}
	if err := tok.DeleteKey(t.Context(), "bench-of-wood", nil); err != nil {
		t.Error(err)
	}
	mustHaveNoKeys(t, tok)
}

func TestBenchRefuses(t *testing.T) {
	t.Parallel()
	tk := hsmtest.New(t)
	there := filepath.Join(t.TempDir(), "there.svg")
	if err := os.WriteFile(there, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		args []string
		code int
		want string
	}{
		{nil, 2, "give --confirm LABEL"},
		{[]string{"--confirm", "another"}, 2, "and not \"another\": nothing was done"},
		{[]string{"--confirm", tk.Label, "--mechanism", "sign"}, 2, "want some of sign-ec-p256"},
		{[]string{"--confirm", tk.Label, "--callers", "0"}, 2, "want numbers from 1 to 256"},
		{[]string{"--confirm", tk.Label, "--callers", "1,many"}, 2, "want numbers from 1 to 256"},
		{[]string{"--confirm", tk.Label, "--callers", "1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17"}, 2, "want at most 16"},
		{[]string{"--confirm", tk.Label, "--seconds", "0"}, 2, "want more than 0"},
		{[]string{"--confirm", tk.Label, "--seconds", "NaN"}, 2, "want more than 0"},
		{[]string{"--confirm", tk.Label, "--seconds", "61"}, 2, "at most 60"},
		{[]string{"--confirm", tk.Label, "--svg", there}, 1, "file exists"},
	}
	for _, tt := range tests {
		var errs bytes.Buffer
		code, out := runBench(t.Context(), tk, &errs, tt.args...)
		if code != tt.code || out != "" || !strings.Contains(errs.String(), tt.want) {
			t.Errorf("%q: exit code %d, %q, %q; want %d, and %q", tt.args, code, out, errs.String(), tt.code, tt.want)
		}
	}
	if b, err := os.ReadFile(there); err != nil || string(b) != "mine" {
		t.Errorf("the file that was there is %q, %v", b, err)
	}
	mustHaveNoKeys(t, tk.Open(t))
}

// breaker cancels a context as soon as something is written.
type breaker struct {
	bytes.Buffer
	when   string
	cancel context.CancelFunc
}

func (b *breaker) Write(p []byte) (int, error) {
	n, err := b.Buffer.Write(p)
	if strings.Contains(b.String(), b.when) {
		b.cancel()
	}
	return n, err
}

// Interrupted while a key is made or used, the benchmark leaves no key and no plot.
func TestBenchInterrupted(t *testing.T) {
	t.Parallel()
	for _, when := range []string{"making bench-", "1 of 4: "} {
		tk := hsmtest.New(t)
		plot := filepath.Join(t.TempDir(), "plot.svg")
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		errs := &breaker{when: when, cancel: cancel}
		code, out := runBench(ctx, tk, errs, "--confirm", tk.Label, "--seconds", "0.5", "--svg", plot,
			"--mechanism", "sign-rsa-2048", "--callers", map[string]string{"making bench-": "1", "1 of 4: ": "1,2,3,4"}[when])
		if code == 0 || out != "" {
			t.Errorf("interrupted at %q: exit code %d, %q", when, code, out)
		}
		if !strings.Contains(errs.String(), "the temporary keys are deleted") {
			t.Errorf("interrupted at %q: the keys are not deleted: %s", when, errs.String())
		}
		if _, err := os.Stat(plot); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("interrupted at %q: the plot is there: %v", when, err)
		}
		mustHaveNoKeys(t, tk.Open(t))
	}
}

func TestBenchRoles(t *testing.T) {
	t.Parallel()
	r := &benchReport{}
	for mechanism, rate := range map[string]float64{
		"sign-ec-p256": 1000, "decrypt-oaep-rsa-2048": 200, "mac-hmac-sha256": 5000, "seal-aes-256": 2000, "open-aes-256": 2000,
	} {
		r.Results = append(r.Results, benchResult{Mechanism: mechanism, Callers: 1, PerSecond: rate / 2}, benchResult{Mechanism: mechanism, Callers: 8, PerSecond: rate})
	}
	r.addRoles()
	if len(r.Roles) != len(tokenload.Roles) {
		t.Fatalf("%d roles, want %d", len(r.Roles), len(tokenload.Roles))
	}
	for i, b := range r.Roles {
		seconds := 0.0
		for call, n := range tokenload.Roles[i].Calls {
			seconds += float64(n) * map[tokenload.Call]float64{
				{Purpose: "sign", Operation: "sign"}: 0.001, {Purpose: "cert-sign", Operation: "sign"}: 0.001,
				{Purpose: "key-exchange", Operation: "decrypt"}: 0.005, {Purpose: "mac", Operation: "mac"}: 0.0002,
				{Purpose: "seal", Operation: "seal"}: 0.0005, {Purpose: "seal", Operation: "open"}: 0.0005,
			}[call]
		}
		if got := b.PerSecond * seconds; got < 0.999 || got > 1.001 || len(b.Missing) > 0 {
			t.Errorf("%s: %v a second, and each takes %v s; missing %v", b.Role, b.PerSecond, seconds, b.Missing)
		}
	}
}
