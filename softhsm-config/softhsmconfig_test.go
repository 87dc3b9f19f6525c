package softhsmconfig_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	softhsmconfig "github.com/setkit/setkit/softhsm-config"
)

// Two parties have a token of their own and do not see each other's.
func TestWriteKeepsPartiesApart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	labels := func(conf string) []string {
		t.Helper()
		cmd := exec.Command("softhsm2-util", "--show-slots")
		cmd.Env = append(os.Environ(), "SOFTHSM2_CONF="+conf)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("softhsm2-util: %v", err)
		}
		var found []string
		for line := range strings.Lines(string(out)) {
			if label, ok := strings.CutPrefix(strings.TrimSpace(line), "Label:"); ok && strings.TrimSpace(label) != "" {
				found = append(found, strings.TrimSpace(label))
			}
		}
		return found
	}
	for _, party := range []string{"gateway", "merchant"} {
		conf, err := softhsmconfig.Write(filepath.Join(dir, party))
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("softhsm2-util", "--init-token", "--free", "--label", party, "--so-pin", "87654321", "--pin", "123456")
		cmd.Env = append(os.Environ(), "SOFTHSM2_CONF="+conf)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("softhsm2-util: %v\n%s", err, out)
		}
		if diff := cmp.Diff([]string{party}, labels(conf)); diff != "" {
			t.Errorf("tokens of %s (-want +got):\n%s", party, diff)
		}
		info, err := os.Stat(filepath.Join(dir, party, "tokens"))
		if err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("token folder: %v, %v; want mode 0700", info, err)
		}
	}
}

func TestWriteRefusesNames(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"a#b", "a\nobjectstore.backend = db", "end "} {
		if conf, err := softhsmconfig.Write(filepath.Join(t.TempDir(), name)); err == nil {
			t.Errorf("folder %q: got %s, want a refusal", name, conf)
		}
	}
}

func TestPlanNamesEachTokenOnce(t *testing.T) {
	t.Parallel()
	want := []string{"brand-ca", "cardholder-ca", "gateway", "issuer", "merchant", "merchant-ca", "payment-ca", "root-ca"}
	var got []string
	for _, token := range softhsmconfig.Plan() {
		got = append(got, token.Label)
		if len(token.Keys) == 0 {
			t.Errorf("token %s has no keys", token.Label)
		}
		for _, k := range token.Keys {
			if k.Label == "" || k.Purpose == "" || k.Type == "" {
				t.Errorf("token %s has the key %+v: want a label, a purpose and a type", token.Label, k)
			}
		}
	}
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("tokens (-want +got):\n%s", diff)
	}
}
