//go:build unix

package virtual_test

import (
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/setkit/setkit/smartcard/virtual"
)

// TestLockAndChildren closes a card while another program has a copy of all open
// files, as one that is being started has: the card is free nevertheless.
func TestLockAndChildren(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "card")
	key := stateKey(t, "correct horse battery staple").Quick()
	c := virtual.NewCard()
	if err := c.Keep(path, key); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir("/dev/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil {
			t.Fatal(err)
		}
		if duplicate, err := syscall.Dup(fd); err == nil { // else it was open for a moment only
			defer syscall.Close(duplicate)
		}
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := virtual.Load(path, key)
	if err != nil {
		t.Fatalf("the card is not free: %v", err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}
