package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/smartcard/cardtest"
	"github.com/setkit/setkit/smartcard/pcsc"
	"github.com/setkit/setkit/smartcard/piv"
	"github.com/setkit/setkit/smartcard/virtual"
)

// asCommand makes the test binary be set-card: emulate wants a process of its own.
const asCommand = "SET_CARD_TEST_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		main()
	}
	os.Exit(m.Run())
}

// run runs the command in this process.
func run(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errOut bytes.Buffer
	code = cli.Run(t.Context(), newApp(), append([]string{"set-card"}, args...), strings.NewReader(""), &out, &errOut)
	return code, out.String(), errOut.String()
}

// wantCode is run for a certain exit code.
func wantCode(t *testing.T, want int, args ...string) (stdout, stderr string) {
	t.Helper()
	code, stdout, stderr := run(t, args...)
	if code != want {
		t.Fatalf("set-card %s: exit code %d, want %d\n%s%s", strings.Join(args, " "), code, want, stdout, stderr)
	}
	return stdout, stderr
}

// connect returns the PIV application of the card in a test's reader.
func connect(t *testing.T, reader string) *piv.Card {
	t.Helper()
	c, err := pcsc.Open(t.Context(), reader)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return piv.New(c, piv.Options{})
}

func TestPersonalise(t *testing.T) {
	t.Parallel()
	reader := cardtest.New(t)
	file := filepath.Join(t.TempDir(), "secrets.yaml")
	stdout, stderr := wantCode(t, 0, "personalise", "--reader", reader.Name, "--secrets-file", file, "--json")

	var got result
	if err := json.Unmarshal([]byte(stdout), &got); err != nil {
		t.Fatalf("%v: %s", err, stdout)
	}
	serial := strconv.FormatUint(uint64(reader.Virtual.Serial()), 10)
	if got.Reader != reader.Name || got.Secrets != file || got.Serial != serial || got.Card.GUID == "" || *got.Card.PINTriesLeft != 3 {
		t.Errorf("got %s", stdout)
	}
	if len(got.SignatureKey) != 64 || len(got.UnlockingKey) != 64 || got.SignatureKey == got.UnlockingKey {
		t.Errorf("digests of public keys %q, %q", got.SignatureKey, got.UnlockingKey)
	}
	for i, slot := range got.Card.Slots {
		if cert := slot.Certificate; cert == nil || cert.Subject != "CN=Card "+serial+" slot "+slot.Slot || cert.NotAfter.Year() != 9999 {
			t.Errorf("slot %s: certificate %+v", slot.Slot, cert)
		}
		got.Card.Slots[i].Certificate = nil
	}
	wantSlots := []slotStatus{
		{Slot: "9c", Algorithm: "ec-p256", PINPolicy: "always", Generated: true, PublicKey: got.SignatureKey},
		{Slot: "9d", Algorithm: "rsa-2048", PINPolicy: "once", Generated: true, PublicKey: got.UnlockingKey},
	}
	if len(got.Card.FactorySecrets) != 0 || got.Card.ManagementAlgorithm != "aes-256" || got.Attested {
		t.Errorf("factory secrets %q, management key %s, attested %v", got.Card.FactorySecrets, got.Card.ManagementAlgorithm, got.Attested)
	}
	if diff := cmp.Diff(wantSlots, got.Card.Slots); diff != "" {
		t.Error(diff)
	}
	if !strings.Contains(stderr, "generating the ec-p256 key of slot 9c") {
		t.Errorf("no progress in %q", stderr)
	}

	secrets := readSecretsFile(t, file)
	if secrets.Serial != serial || len(secrets.PIN) != 6 || len(secrets.PUK) != 8 || len(secrets.Key) != 64 {
		t.Errorf("secrets of serial %s: PIN %d, PUK %d, key %d characters", secrets.Serial, len(secrets.PIN), len(secrets.PUK), len(secrets.Key))
	}
	for _, secret := range []string{secrets.PIN, secrets.PUK, secrets.Key} {
		if strings.Contains(stdout+stderr, secret) {
			t.Error("a secret was printed")
		}
	}
	checkCard(t, connect(t, reader.Name), secrets)

	// The card is in use now.
	_, stderr = wantCode(t, 1, "personalise", "--reader", reader.Name, "--secrets-file", file+"2")
	if !strings.Contains(stderr, "--force") || !strings.Contains(stderr, serial) {
		t.Errorf("second personalisation: %s", stderr)
	}
	if _, err := os.Stat(file + "2"); err == nil {
		t.Error("a secrets file was written although nothing was done")
	}
	// No file is overwritten.
	wantCode(t, 1, "personalise", "--reader", reader.Name, "--secrets-file", file, "--force")
	checkCard(t, connect(t, reader.Name), secrets)
	// And with force everything is new.
	wantCode(t, 0, "personalise", "--reader", reader.Name, "--secrets-file", file+"3", "--force")
	checkCard(t, connect(t, reader.Name), readSecretsFile(t, file+"3"))
}

type secretsFile struct {
	Serial    string
	PIN       string
	PUK       string
	Algorithm string `yaml:"management-algorithm"`
	Key       string `yaml:"management-key"`
}

func readSecretsFile(t *testing.T, name string) secretsFile {
	t.Helper()
	info, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("secrets file has mode %v, want 0600", info.Mode())
	}
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var s secretsFile
	if err := yaml.Unmarshal(text, &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// checkCard proves that the card has the secrets, certificates for its keys, and
// keys that work.
func checkCard(t *testing.T, card *piv.Card, s secretsFile) {
	t.Helper()
	var signature, management *x509.Certificate
	err := card.Do(t.Context(), func(tx *piv.Tx) (err error) {
		if signature, err = tx.Certificate(piv.SlotSignature); err != nil {
			return err
		}
		if management, err = tx.Certificate(piv.SlotKeyManagement); err != nil {
			return err
		}
		return tx.UnblockPIN([]byte(s.PUK), []byte(s.PIN))
	})
	if err != nil {
		t.Fatal(err)
	}
	for slot, cert := range map[piv.Slot]*x509.Certificate{piv.SlotSignature: signature, piv.SlotKeyManagement: management} {
		public, err := card.PublicKey(t.Context(), slot)
		if err != nil {
			t.Fatal(err)
		}
		if !public.(interface{ Equal(crypto.PublicKey) bool }).Equal(cert.PublicKey) {
			t.Errorf("slot %v: the certificate is of another key", slot)
		}
		if err := signature.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature); err != nil {
			t.Errorf("slot %v: %v", slot, err)
		}
	}
	session := card.NewSession(t.Context(), piv.SessionConfig{PIN: func(context.Context, piv.PINRequest) ([]byte, error) {
		return []byte(s.PIN), nil
	}})
	defer session.Close()
	signer, err := session.Signer(piv.SlotSignature, signature.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte("order"))
	sig, err := signer.Sign(nil, digest[:], crypto.SHA256)
	if err != nil || !ecdsa.VerifyASN1(signature.PublicKey.(*ecdsa.PublicKey), digest[:], sig) {
		t.Errorf("signature: %v", err)
	}
	public := management.PublicKey.(*rsa.PublicKey)
	sealed, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, public, []byte("vault key"), nil)
	if err != nil {
		t.Fatal(err)
	}
	unlock, err := session.Decrypter(piv.SlotKeyManagement, public)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := unlock.Decrypt(nil, sealed, &rsa.OAEPOptions{Hash: crypto.SHA256}); err != nil || string(got) != "vault key" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestPersonaliseFromSources(t *testing.T) {
	reader := cardtest.New(t)
	dir := t.TempDir()
	pinFile := filepath.Join(dir, "pin")
	if err := os.WriteFile(pinFile, []byte("864209\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TEST_PUK", "13572468")
	t.Setenv("TEST_KEY", "000102030405060708090a0b0c0d0e0f")
	t.Setenv("TEST_SHORT", "1234")
	sources := []string{"personalise", "--reader", reader.Name, "--puk-source", "env:TEST_PUK", "--management-key-source", "env:TEST_KEY"}

	// What is wrong is said before anything is done to the card.
	wantCode(t, 1, append(sources, "--pin-source", "env:TEST_SHORT", "--management-algorithm", "aes-128")...)
	wantCode(t, 1, append(sources, "--pin-source", "file:"+pinFile)...) // half a key for AES-256
	wantCode(t, 2, append(sources, "--pin-source", "file:"+pinFile, "--management-algorithm", "rot13")...)
	_, stderr := wantCode(t, 2, append(sources, "--management-algorithm", "aes-128")...)
	if !strings.Contains(stderr, "--secrets-file") {
		t.Errorf("got %q, want --secrets-file", stderr)
	}

	stdout, stderr := wantCode(t, 0, append(sources, "--pin-source", "file:"+pinFile, "--management-algorithm", "aes-128", "--signature-key", "ec-p384")...)
	if strings.Contains(stdout+stderr, "secrets written") {
		t.Error("secrets were written that came from sources")
	}
	card := connect(t, reader.Name)
	err := card.Do(t.Context(), func(tx *piv.Tx) error {
		if err := tx.VerifyPIN([]byte("864209")); err != nil {
			return err
		}
		if err := tx.UnblockPIN([]byte("13572468"), []byte("864209")); err != nil {
			return err
		}
		return tx.Authenticate(piv.ManagementKey{Algorithm: piv.AES128, Key: []byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}})
	})
	if err != nil {
		t.Error(err)
	}
	public, err := card.PublicKey(t.Context(), piv.SlotSignature)
	if a, _ := piv.AlgorithmOf(public); err != nil || a != piv.ECDSAP384 {
		t.Errorf("slot 9c: got %v, %v, want ec-p384", a, err)
	}
}

func TestUsage(t *testing.T) {
	t.Parallel()
	reader := cardtest.New(t)
	empty := cardtest.NewReader(t)
	secrets := filepath.Join(t.TempDir(), "secrets")
	for _, tt := range []struct {
		code int
		args []string
	}{
		{2, []string{"personalise", "extra"}},
		{2, []string{"personalise", "--reader", reader.Name, "--signature-key", "dsa"}},
		{2, []string{"emulate", "--dir", "x", "--vpcd", "y"}},
		{2, []string{"status", "extra"}},
		{2, []string{"personalise"}},
		{2, []string{"personalise", "--mailer", secrets, "--secrets-file", secrets}},
		{2, []string{"personalise", "--mailer", secrets}}, // a random management key fits in no letter
		{2, []string{"personalise", "--mailer", "-", "--json", "--management-key-source", "env:NONE"}},
		{2, []string{"personalise", "--secrets-file", secrets, "--resume", "--force"}},
		{2, []string{"personalise", "--secrets-file", secrets, "--secrets-recipient", "age1"}},
		{2, []string{"personalise", "--secrets-file", secrets, "--production"}},
		{2, []string{"batch", "--cardholders", "x"}},
		{2, []string{"cert", "put", "--slot", "9c"}},
		{2, []string{"cert", "get", "--reader", reader.Name, "--slot", "9b"}},
		{2, []string{"reset", "--reader", reader.Name}}, // nobody to ask
		{2, []string{"reset", "--reader", reader.Name, "--confirm", "1"}},
		{3, []string{"personalise", "--secrets-file", secrets, "--reader", "no such reader"}},
		{3, []string{"personalise", "--secrets-file", secrets, "--reader", empty.Name}},
		{3, []string{"pin", "--reader", empty.Name}},
		{3, []string{"status", "--reader", empty.Name}},
		{3, []string{"emulate", "--vpcd", "127.0.0.1:1"}},
	} {
		wantCode(t, tt.code, tt.args...)
	}
}

func TestStatus(t *testing.T) {
	t.Parallel()
	full, empty := cardtest.New(t), cardtest.NewReader(t)
	stdout, _ := wantCode(t, 0, "status")
	serial := strconv.FormatUint(uint64(full.Virtual.Serial()), 10)
	found := 0
	for line := range strings.Lines(stdout) {
		switch {
		case strings.HasPrefix(line, full.Name):
			found++
			if !strings.Contains(line, serial) || !strings.Contains(line, "5.4.3") {
				t.Errorf("got %q, want serial number %s", line, serial)
			}
		case strings.HasPrefix(line, empty.Name):
			found++
			if fields := strings.Fields(strings.TrimPrefix(line, empty.Name)); len(fields) != 1 || fields[0] != "-" {
				t.Errorf("got %q, want no card", line)
			}
		}
	}
	if found != 2 {
		t.Errorf("readers missing:\n%s", stdout)
	}
	stdout, _ = wantCode(t, 0, "status", "--reader", full.Name, "--json")
	var got []readerStatus
	if err := json.Unmarshal([]byte(stdout), &got); err != nil {
		t.Fatal(err)
	}
	tries := 3
	want := []readerStatus{{Reader: full.Name, Card: &cardStatus{
		Serial: serial, Version: "5.4.3", PINTriesLeft: &tries, PUKTriesLeft: &tries,
		FactorySecrets: []string{"PIN", "PUK", "management key"}, ManagementAlgorithm: "3des", Attests: true, Slots: []slotStatus{},
	}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestEmulate runs emulate as a process, and looks at its card with another.
func TestEmulate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	emulate := exec.CommandContext(t.Context(), os.Args[0], "emulate", "--dir", dir)
	emulate.Env = append(os.Environ(), asCommand+"=1")
	lines, said := start(t, emulate)
	if want := "PCSCLITE_CSOCK_NAME=" + filepath.Join(dir, "pcscd.comm"); said[0] != want {
		t.Errorf("got %q, want %q", said[0], want)
	}
	status := exec.CommandContext(t.Context(), os.Args[0], "status", "--json")
	status.Env = append(os.Environ(), asCommand+"=1", said[0])
	out, err := status.Output()
	if err != nil {
		t.Fatal(err)
	}
	var got []readerStatus
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || got[0].Card == nil || "serial: "+got[0].Card.Serial != said[2] || "reader: "+got[0].Reader != said[1] {
		t.Errorf("got %s, want the card of %q", out, said)
	}
	if err := emulate.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for lines.Scan() {
	}
	if err := emulate.Wait(); err != nil {
		t.Errorf("after SIGTERM: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "pcscd.comm")); !os.IsNotExist(err) {
		t.Errorf("the socket is left: %v", err)
	}
}

// TestEmulateAtReader puts the emulated card into a reader that is there already.
func TestEmulateAtReader(t *testing.T) {
	t.Parallel()
	host, err := virtual.StartHost(t.Context(), virtual.HostConfig{Dir: t.TempDir(), Readers: 1})
	if err != nil {
		t.Fatal(err)
	}
	emulate := exec.CommandContext(t.Context(), os.Args[0], "emulate", "--vpcd", host.Readers[1].Addr)
	emulate.Env = append(os.Environ(), asCommand+"=1")
	lines, said := start(t, emulate)
	if len(said) != 2 || !strings.HasPrefix(said[0], "serial: ") {
		t.Errorf("got %q", said)
	}
	// When the reader goes, the command says so.
	if err := host.Stop(); err != nil {
		t.Error(err)
	}
	for lines.Scan() {
	}
	if err := emulate.Wait(); emulate.ProcessState.ExitCode() != 3 {
		t.Errorf("without its reader: got %v, want exit code 3", err)
	}
}

// start starts emulate and returns its lines up to "ready".
func start(t *testing.T, cmd *exec.Cmd) (lines *bufio.Scanner, said []string) {
	t.Helper()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines = bufio.NewScanner(out)
	for lines.Scan() {
		said = append(said, lines.Text())
		if lines.Text() == "ready" {
			return lines, said
		}
	}
	t.Fatalf("emulate ended after %q", said)
	return nil, nil
}
