package hsmtest_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/setkit/setkit/hsm"
	"github.com/setkit/setkit/hsm/hsmtest"
)

// Where there is no test, as in a TestMain, a token is made and removed by hand.
func ExampleCreate() {
	ctx := context.Background()
	token, remove, err := hsmtest.Create(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer remove()
	uri, err := hsm.ParseURI(token.URI)
	if err != nil {
		log.Fatal(err)
	}
	open, err := hsm.Open(ctx, uri, token.GetPIN)
	if err != nil {
		log.Fatal(err)
	}
	defer open.Close()
	info, err := open.GenerateKey(ctx, "receipts", hsm.PurposeSign, hsm.ECP256)
	fmt.Println(info.Label, info.Type, err)
	// Output: receipts ec-p256 <nil>
}

// otherProject is a test in somebody else's project.
const otherProject = `package receipts

import (
	"crypto"
	"crypto/sha256"
	"testing"

	"github.com/setkit/setkit/hsm"
	"github.com/setkit/setkit/hsm/hsmtest"
)

func TestReceipt(t *testing.T) {
	token := hsmtest.New(t).Open(t)
	if _, err := token.GenerateKey(t.Context(), "receipts", hsm.PurposeSign, hsm.ECP256); err != nil {
		t.Fatal(err)
	}
	key, err := token.Signer(t.Context(), "receipts")
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte("1 atlas, 42.00"))
	if _, err := key.Sign(nil, digest[:], crypto.SHA256); err != nil {
		t.Error(err)
	}
}
`

func TestInAnotherProject(t *testing.T) {
	t.Parallel()
	setkit, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	mod, err := os.ReadFile(filepath.Join(setkit, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	sum, err := os.ReadFile(filepath.Join(setkit, "go.sum"))
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(string(mod), "module github.com/setkit/setkit", "module example.com/receipts", 1) +
		"\nrequire github.com/setkit/setkit v0.0.0\n\nreplace github.com/setkit/setkit => " + setkit + "\n"
	dir := t.TempDir()
	for name, content := range map[string]string{"go.mod": text, "go.sum": string(sum), "receipts_test.go": otherProject} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("go", "test", "-count=1", ".")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOPROXY=off", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("go test in another project: %v\n%s", err, out)
	}
}
