package cli

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// asApp has the test binary be the command of testApp.
const asApp = "SETKIT_TEST_AS_APP"

func TestMain(m *testing.M) {
	if os.Getenv(asApp) != "" {
		Main(testApp())
	}
	os.Exit(m.Run())
}

// Bash completes commands, their commands and their flags.
func TestCompletion(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	if err := os.Symlink(self, filepath.Join(bin, "set-x")); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		words string // the last is to be completed
		want  []string
	}{
		{"set-x ke", []string{"keys"}},
		{"set-x keys ", []string{"list"}},
		{"set-x need --c", []string{"--config"}},
		{"set-x need --", []string{"--config", "--help"}},
		{"set-x ok nothing", nil},
	}
	for _, tt := range tests {
		words := strings.Split(tt.words, " ")
		var list strings.Builder
		for _, w := range words {
			list.WriteString(" '" + w + "'")
		}
		cmd := exec.Command("bash", "-c", `source <(set-x completion bash) && COMP_WORDS=(`+list.String()+`) COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) &&
			{ _set_x; printf '%s\n' "${COMPREPLY[@]}"; }`)
		cmd.Env = append(os.Environ(), asApp+"=1", "PATH="+bin+":"+os.Getenv("PATH"))
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil || stderr.Len() > 0 {
			t.Fatalf("%s: %v %s", tt.words, err, stderr.Bytes())
		}
		if got := strings.Fields(string(out)); !slices.Equal(got, tt.want) {
			t.Errorf("%q is completed by %q, want %q", tt.words, got, tt.want)
		}
	}
}
