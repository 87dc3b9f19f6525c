package virtual_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/setkit/setkit/smartcard"
	"github.com/setkit/setkit/smartcard/iso7816"
	"github.com/setkit/setkit/smartcard/piv"
	"github.com/setkit/setkit/smartcard/virtual"
)

// The test's age identity: made for it, and good for nothing else.
const testIdentity = "AGE-SECRET-KEY-1DVFC26QGYHTEXNCQ28WYMP7EK63DJ23QDKMP9STV0RAPCLDZ4Z9SEUG6TH"

func stateKey(t testing.TB, secret string) *virtual.StateKey {
	t.Helper()
	k, err := virtual.NewStateKey([]byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func keep(t testing.TB, c *virtual.Card, path string) {
	t.Helper()
	if err := c.Keep(path, stateKey(t, testIdentity)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
}

// load opens a card and selects PIV.
func load(t testing.TB, path string) *virtual.Card {
	t.Helper()
	c, err := virtual.Load(path, stateKey(t, testIdentity))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	transmit(t, c, "00a4040005a000000308")
	return c
}

// portrait is all that can be seen of a card from outside.
func portrait(t *testing.T, c *virtual.Card) []string {
	t.Helper()
	var all []string
	see := func(cmd iso7816.Command) {
		data, sw := send(t, c, cmd)
		all = append(all, fmt.Sprintf("%02X %02X %02X: %x %v", cmd.INS, cmd.P2, cmd.Data, data, sw))
	}
	see(iso7816.Command{INS: 0xFD, Ne: 256})
	see(iso7816.Command{INS: 0xF8, Ne: 256})
	for reference := range 256 {
		see(iso7816.Command{INS: 0xF7, P2: byte(reference), Ne: 256})
	}
	for low := range 256 {
		see(iso7816.Command{INS: 0xCB, P1: 0x3F, P2: 0xFF, Data: []byte{0x5C, 3, 0x5F, 0xC1, byte(low)}, Ne: 256})
		see(iso7816.Command{INS: 0xCB, P1: 0x3F, P2: 0xFF, Data: []byte{0x5C, 3, 0x5F, 0xFF, byte(low)}, Ne: 256})
	}
	return all
}

// TestKeep checks that a card with something of everything is the same after it
// was closed and loaded.
func TestKeep(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "card")
	c := virtual.New(virtual.Firmware57)
	keep(t, c, path)
	authenticate(t, c)
	run(t, c, []exchange{
		{"0047009c0bac09800111aa0102ab0103", smartcard.StatusOK},
		{"0047009a05ac03800114", smartcard.StatusOK},
		{"0047008205ac038001e0", smartcard.StatusOK},
		{"0047009505ac038001e1", smartcard.StatusOK},
		{"00fe119d" + "22" + "0620" + strings.Repeat("07", 32), smartcard.StatusOK},
		{"0047009e05ac03800107", 0x610E},
		{"00db3fff0a" + "5c035fc109" + "5303010203", smartcard.StatusOK},
		{"00db3fff0a" + "5c035fff42" + "5303010203", smartcard.StatusOK},
		{"00db3fff0a" + "5c035fff43" + "5303010203", smartcard.StatusOK},
		{"00db3fff07" + "5c035fff43" + "5300", smartcard.StatusOK},
		{verify, smartcard.StatusOK},
		{"00fa0509", smartcard.StatusOK},
		{"0024008010" + "313233343536ffff" + "383838383838ffff", smartcard.StatusOK},
		{"0024008110" + "3132333435363738" + "3939393939393939", smartcard.StatusOK},
		{"00fffffe13" + "089b10" + "000102030405060708090a0b0c0d0e0f", smartcard.StatusOK},
		{wrong, 0x63C4},
	})
	want := portrait(t, c)
	digest := bytes.Repeat([]byte{9}, 32)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Transmit(t.Context(), []byte{0, 0xFD, 0, 0}); !errors.Is(err, smartcard.ErrUnavailable) {
		t.Errorf("a closed card answers: %v", err)
	}
	again := load(t, path)
	if diff := cmp.Diff(want, portrait(t, again)); diff != "" {
		t.Errorf("the card has changed (-before +after):\n%s", diff)
	}
	if !bytes.Equal(c.Maker(), again.Maker()) || len(c.Maker()) == 0 {
		t.Error("another maker, or none")
	}
	run(t, again, []exchange{
		{"0020008008" + "383838383838ffff", smartcard.StatusOK},
		{"002c008010" + "3939393939393939" + "313233343536ffff", smartcard.StatusOK},
	})
	if _, sw := send(t, again, iso7816.Command{INS: 0xF9, P1: 0x9C, Ne: 256}); sw != smartcard.StatusOK {
		t.Errorf("attestation: %v", sw)
	}
	k, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	if !ecdsa.VerifyASN1(&k.PublicKey, digest, use(t, again, 0x11, 0x9D, 0x81, digest)) {
		t.Error("the imported key signs no more")
	}
	key := piv.ManagementKey{Algorithm: piv.AES128, Key: []byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}}
	if err := piv.New(again, piv.Options{}).Do(t.Context(), func(tx *piv.Tx) error { return tx.Authenticate(key) }); err != nil {
		t.Error(err)
	}
}

// TestStateFileAccess checks who can open a card's file, and when.
func TestStateFileAccess(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "card")
	passphrase := stateKey(t, "correct horse battery staple").Quick()
	if _, err := virtual.Load(path, passphrase); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: got %v", err)
	}
	c := virtual.NewCard()
	if err := c.Keep(path, passphrase); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got %v, %v, want mode 0600", info, err)
	}
	if _, err := virtual.Load(path, passphrase); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("a card that is in use: got %v", err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if err := virtual.NewCard().Keep(path, passphrase); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a file that is there: got %v", err)
	}
	for _, other := range []string{"correct horse battery stapler", testIdentity} {
		if _, err := virtual.Load(path, stateKey(t, other)); err == nil || strings.Contains(err.Error(), "horse") {
			t.Errorf("another key: got %v", err)
		}
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{
		"nothing":   nil,
		"cut off":   whole[:len(whole)-1],
		"cut early": whole[:100],
		"changed":   append(bytes.Clone(whole[:len(whole)-1]), whole[len(whole)-1]^1),
		"longer":    append(bytes.Clone(whole), 0),
	} {
		damaged := filepath.Join(dir, name)
		if err := os.WriteFile(damaged, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := virtual.Load(damaged, passphrase); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	again, err := virtual.Load(path, passphrase)
	if err != nil {
		t.Fatal(err)
	}
	if again.Serial() != c.Serial() {
		t.Error("another card")
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}

func TestStateKey(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"", "  \n", "# created: 2020-01-01T00:00:00Z", "AGE-SECRET-KEY-1QQQ"} {
		if _, err := virtual.NewStateKey([]byte(bad)); err == nil || strings.Contains(err.Error(), "QQQ") {
			t.Errorf("%q: got %v", bad, err)
		}
	}
	if got := fmt.Sprintf("%v %+v %#v %s", stateKey(t, testIdentity), stateKey(t, "horse"), stateKey(t, "horse"), stateKey(t, "horse")); strings.Contains(got, "horse") || strings.Contains(got, "AGE") {
		t.Errorf("%q shows a secret", got)
	}
}

// TestStateFileFull checks that nothing is tried, and nothing lost, when the file
// cannot be written.
func TestStateFileFull(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "card")
	c := virtual.NewCard()
	keep(t, c, path)
	authenticate(t, c)
	run(t, c, []exchange{{"0047009c05ac03800111", smartcard.StatusOK}})
	before := portrait(t, c)
	if err := os.Mkdir(path+".tmp", 0o700); err != nil { // in the way of the next file
		t.Fatal(err)
	}
	run(t, c, []exchange{
		{wrong, smartcard.StatusMemoryFailure},
		{verify, smartcard.StatusMemoryFailure},
		{"00200080", 0x63C3},
		{"0047009c05ac03800111", smartcard.StatusMemoryFailure},
		{"00db3fff0a" + "5c035fc102" + "5303010203", smartcard.StatusMemoryFailure},
		{"00ffffff1b" + "039b18" + strings.Repeat("0102030405060709", 3), smartcard.StatusMemoryFailure},
		{"0024008110" + "3132333435363738" + "3939393939393939", smartcard.StatusMemoryFailure},
	})
	if diff := cmp.Diff(before, portrait(t, c)); diff != "" {
		t.Errorf("the card has changed (-before +after):\n%s", diff)
	}
	if err := os.Remove(path + ".tmp"); err != nil {
		t.Fatal(err)
	}
	run(t, c, []exchange{{wrong, 0x63C2}, {verify, smartcard.StatusOK}})
}

// guess tries wrong PINs on the card in a file until somebody ends the process,
// and tells each answer.
func guess(dir string) error {
	key, err := virtual.NewStateKey([]byte(testIdentity))
	if err != nil {
		return err
	}
	c, err := virtual.Load(filepath.Join(dir, "card"), key)
	if err != nil {
		return err
	}
	for _, apdu := range append([]string{"00a4040005a000000308"}, slices.Repeat([]string{wrong}, 20)...) {
		b, err := hex.DecodeString(apdu)
		if err != nil {
			return err
		}
		answer, err := c.Transmit(context.Background(), b)
		if err != nil {
			return err
		}
		fmt.Printf("%x\n", answer[len(answer)-2:])
	}
	return nil
}

// TestTriesSurvive checks that neither a restart nor killing the process gives a
// try back.
func TestTriesSurvive(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "card")
	c := virtual.NewCard()
	keep(t, c, path)
	authenticate(t, c)
	run(t, c, []exchange{{verify, smartcard.StatusOK}, {"00fa0f03", smartcard.StatusOK}, {wrong, 0x63CE}})
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	left := 14
	for _, answers := range []int{1, 2, 3, 4} {
		cmd := process(t, roleGuess, os.Args[0], dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		var said []string
		for len(said) < answers+1 && lines.Scan() { // and that of SELECT
			said = append(said, lines.Text())
		}
		cmd.Process.Kill()
		for lines.Scan() { // what was told before the end came
			said = append(said, lines.Text())
		}
		_ = cmd.Wait() // killed
		want := fmt.Sprintf("63c%x", left-answers)
		if len(said) <= answers || said[0] != "9000" || said[answers] != want && left >= answers {
			t.Fatalf("got %q, want %s after %d tries", said, want, answers)
		}
		survivor := load(t, path)
		_, sw := transmit(t, survivor, "00200080")
		got, counted := sw.TriesLeft()
		if !counted && sw != smartcard.StatusBlocked {
			t.Fatal(sw)
		}
		if got > max(0, left-(len(said)-1)) { // a blocked card answers as well
			t.Errorf("%d tries left of %d after %d answers", got, left, len(said)-1)
		}
		if err := survivor.Close(); err != nil {
			t.Fatal(err)
		}
		if left = got; left == 0 {
			break
		}
	}
}

// FuzzState reads state files and cards' contents of the fuzzer's choice.
func FuzzState(f *testing.F) {
	contents, err := virtual.NewCard().Contents()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(contents)
	f.Add([]byte("setkit virtual card 1\n\x00\x00\x00\x02ab"))
	f.Add([]byte("setkit virtual card 1\n\xff\xff\xff\xffab"))
	f.Add([]byte(`{"Format":1,"PIN":{"Value":"AAAAAAAAAAA=","Left":3,"Tries":3}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		frame, contents := virtual.CheckState(b)
		if frame == nil && contents == nil {
			t.Error("a frame that is also a card")
		}
	})
}
