package cli

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

type address struct {
	Host string
	Port int
}

type testConfig struct {
	Name    string               `yaml:"name"`
	Listen  address              `yaml:"listen"`
	Wait    time.Duration        `yaml:"wait"`
	IP      netip.Addr           `yaml:"ip"`
	Debug   bool                 `yaml:"debug"`
	Peers   []address            `yaml:"peers"`
	ByName  map[string]*address  `yaml:"byName"`
	Nested  []map[string]address `yaml:"nested"`
	Ignored string               `yaml:"-"`
	Common  `yaml:",inline"`
}

// Common is embedded in testConfig.
type Common struct {
	Level string `yaml:"level"`
}

func writeConfig(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "x.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLoadConfig(t *testing.T) {
	t.Setenv("CLI_HOST", "shop.example: # \"odd\"")
	t.Setenv("CLI_PORT", "8443")
	t.Setenv("CLI_NULL", "null")
	t.Setenv("CLI_TRUE", "true")
	t.Setenv("CLI_IP", "192.0.2.1")
	t.Setenv("CLI_WAIT", "3s")
	path := writeConfig(t, `
name: ${CLI_NULL}
listen:
  host: "${CLI_HOST}"
  port: ${CLI_PORT}
wait: ${CLI_WAIT}
ip: ${CLI_IP}
debug: ${CLI_TRUE}
level: pre-${CLI_PORT}-post
peers:
  - host: ${CLI_HOST}
    port: 1
byName:
  any: {host: h, port: 2}
nested:
  - n: {host: '${CLI_PORT}'}
`)
	var got testConfig
	if err := LoadConfig(path, &got); err != nil {
		t.Fatal(err)
	}
	host := "shop.example: # \"odd\""
	want := testConfig{
		Name: "null", Listen: address{host, 8443}, Wait: 3 * time.Second, IP: netip.MustParseAddr("192.0.2.1"),
		Debug: true, Peers: []address{{host, 1}}, ByName: map[string]*address{"any": {"h", 2}},
		Nested: []map[string]address{{"n": {Host: "8443"}}}, Common: Common{Level: "pre-8443-post"},
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("configuration differs (-want +got):\n%s", diff)
	}
}

func TestLoadConfigRefuses(t *testing.T) {
	t.Setenv("CLI_CONTROL", "a\nlevel: evil")
	t.Setenv("CLI_SECRET", "hunter2")
	tests := []struct{ name, text, want string }{
		{"unknown key", "name: a\nlisten:\n  host: h\n  prot: 1\n", `line 4: unknown key "listen.prot"`},
		{"unknown key in list", "peers:\n- host: a\n- hots: b\n", `line 3: unknown key "peers.hots"`},
		{"unknown key in map", "byName:\n  x:\n    hots: b\n", `line 3: unknown key "byName.x.hots"`},
		{"unknown key in inline", "levle: x\n", `line 1: unknown key "levle"`},
		{"ignored field", "ignored: x\n", `line 1: unknown key "ignored"`},
		{"duplicate key", "name: a\nname: b\n", `line 2: mapping key "name" already defined at line 1`},
		{"two documents", "name: a\n---\nname: b\n", "line 2: a second document"},
		{"empty", "", "the file is empty"},
		{"only a comment", "# nothing\n", "the file is empty"},
		{"unset", "name: a\nlevel: ${CLI_UNSET_X}\n", `line 2: environment variable "CLI_UNSET_X" is not set`},
		{"control characters", "name: ${CLI_CONTROL}\n", `line 1: environment variable "CLI_CONTROL" has control characters`},
		{"open reference", "name: ${CLI\n", "line 1: ${ without }"},
		{"wrong type", "listen:\n  port: ${CLI_SECRET}\n", "line 2: cannot use this !!str as int"},
		{"anchor", "listen: &a {host: h}\n", "line 1: anchors and aliases are not supported"},
		{"not YAML", "name: [a\n", "did not find expected"},
		{"too large", "name: " + strings.Repeat("x", configBytesMax), "larger than 1048576 bytes"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := writeConfig(t, tt.text)
			err := LoadConfig(path, &testConfig{})
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), path) {
				t.Fatalf("error %v, want one with %q and the file's name", err, tt.want)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("error %q shows a value from the environment", err)
			}
		})
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte("name: a\nlisten: {host: h, port: 1}\n"))
	f.Add([]byte("name: ${HOME}\nbyName: {a: {host: b}}\n"))
	f.Add([]byte("a: &x [*x]\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if len(text) > 4096 {
			return
		}
		var c testConfig
		if err := parseConfig(text, &c); err == nil && c.Ignored != "" {
			t.Error("a key reached a field that has none")
		}
	})
}
