package pcsc_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/fstest"

	"github.com/setkit/setkit/smartcard"
	"github.com/setkit/setkit/smartcard/pcsc"
)

// asAnother makes the test binary do something else and end: a process can talk
// to one pcscd only.
const asAnother = "PCSC_TEST_AS"

func TestMain(m *testing.M) {
	var err error
	switch os.Getenv(asAnother) {
	case "":
		os.Exit(m.Run())
	case "list":
		_, err = pcsc.Find(context.Background(), "")
	case "open":
		_, err = pcsc.Open(context.Background(), "reader")
	case "restart":
		err = watchRestart()
	case "keypad":
		err = useKeypad()
	}
	for name, class := range map[string]error{"no service": smartcard.ErrNoService, "denied": smartcard.ErrDenied, "no reader": smartcard.ErrNoReader} {
		if errors.Is(err, class) && errors.Is(err, smartcard.ErrUnavailable) {
			fmt.Println(name + ":")
		}
	}
	if err != nil {
		fmt.Println(err)
	}
}

// another runs this test binary as another program, with this socket and more in
// its environment, and returns what it prints.
func another(t *testing.T, what, socket string, env ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(append(os.Environ(), asAnother+"="+what, "PCSCLITE_CSOCK_NAME="+socket), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

// Messages of pcscd, each with a header of its length and number.
const (
	msgEstablish = 0x01
	msgConnect   = 0x04
	msgVersion   = 0x11
	msgReaders   = 0x12
)

// fakePCSCD is a pcscd that sends back every message as it is, which makes it
// look carried out, but hangs up at one of them, as one does that asks polkit. It
// returns its socket.
func fakePCSCD(t *testing.T, hangUpAt uint32, answer func(message uint32, body []byte) []byte) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	var contexts atomic.Uint32
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				for {
					var header [8]byte
					if _, err := io.ReadFull(conn, header[:]); err != nil {
						return
					}
					body := make([]byte, binary.NativeEndian.Uint32(header[:4]))
					if _, err := io.ReadFull(conn, body); err != nil {
						return
					}
					message := binary.NativeEndian.Uint32(header[4:])
					if message == hangUpAt {
						return
					}
					if message == msgEstablish { // scope, context, result
						binary.NativeEndian.PutUint32(body[4:], contexts.Add(1))
					}
					if answer != nil {
						body = answer(message, body)
					}
					if _, err := conn.Write(body); err != nil {
						return
					}
				}
			}()
		}
	}()
	return socket
}

func TestServiceErrors(t *testing.T) {
	t.Parallel()
	left := filepath.Join(t.TempDir(), "left") // behind by a pcscd that has ended
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: left, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	listener.SetUnlinkOnClose(false)
	listener.Close()
	// refuse answers with a code, at the end of the message.
	refuse := func(at, code uint32) func(uint32, []byte) []byte {
		return func(message uint32, body []byte) []byte {
			if message == at {
				binary.NativeEndian.PutUint32(body[len(body)-4:], code)
			}
			return body
		}
	}
	noReaders := func(message uint32, body []byte) []byte {
		if message == msgReaders {
			return make([]byte, 16*184) // sizeof(READER_STATE)
		}
		return body
	}
	tests := []struct {
		name, what, socket string
		want               []string
	}{
		{"no socket", "list", "/nonexistent/pcscd.comm", []string{"no service:", "no pcscd answers at /nonexistent/pcscd.comm, which PCSCLITE_CSOCK_NAME names"}},
		{"socket left behind", "list", left, []string{"no service:", "it has ended and left its socket behind"}},
		{"another version", "list", fakePCSCD(t, 0, refuse(msgVersion, 0x8010001E)), []string{"no service:", "must have the same version"}},
		{"polkit", "list", fakePCSCD(t, msgVersion, nil), []string{"denied:", "org.debian.pcsc-lite.access_pcsc", "--disable-polkit"}},
		{"polkit, told", "list", fakePCSCD(t, 0, refuse(msgEstablish, 0x8010006A)), []string{"denied:", "org.debian.pcsc-lite.access_pcsc"}},
		{"polkit for the card", "open", fakePCSCD(t, msgConnect, nil), []string{"denied:", `reader "reader"`, "org.debian.pcsc-lite.access_card"}},
		{"polkit for the card, told", "open", fakePCSCD(t, 0, refuse(msgConnect, 0x8010006A)), []string{"denied:", `reader "reader"`, "org.debian.pcsc-lite.access_card"}},
		{"no reader", "list", fakePCSCD(t, 0, noReaders), []string{"no reader:", "driver", "libccid"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := another(t, tt.what, tt.socket)
			for _, want := range tt.want {
				if !strings.Contains(got, want) {
					t.Errorf("got %q, want %q", got, want)
				}
			}
		})
	}
}

func TestNoReaderHelp(t *testing.T) {
	t.Parallel()
	keyboard := &fstest.MapFile{Data: []byte("03\n")}
	devices := fstest.MapFS{"1-1:1.0/bInterfaceClass": keyboard, "usb1/bDeviceClass": &fstest.MapFile{Data: []byte("0b\n")}}
	if got := pcsc.NoReaderHelp(devices); !strings.HasPrefix(got, "connect one") {
		t.Errorf("without a reader: got %q", got)
	}
	devices["1-2:1.1/bInterfaceClass"] = &fstest.MapFile{Data: []byte("0b\n")}
	if got := pcsc.NoReaderHelp(devices); !strings.Contains(got, "has no driver for it") {
		t.Errorf("with a reader: got %q", got)
	}
}
