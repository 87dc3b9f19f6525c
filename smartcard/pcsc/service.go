package pcsc

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"runtime"

	"github.com/ebfe/scard"

	"github.com/setkit/setkit/smartcard"
)

const (
	socketVariable = "PCSCLITE_CSOCK_NAME"
	defaultSocket  = "/run/pcscd/pcscd.comm"
	usbDevices     = "/sys/bus/usb/devices"
	usbSmartCard   = "0b" // the class of card readers' interfaces

	inUseHelp = "close that (often it is gpg-agent's scdaemon: gpgconf --kill scdaemon)"
)

// establish connects to the smart card service.
func establish() (*scard.Context, error) {
	ctx, err := scard.EstablishContext()
	switch {
	case errors.Is(err, scard.ErrCommError):
		// A pcscd that asks polkit closes the connection of a program which may not
		// use it, without a word.
		return nil, denied("access_pcsc", err)
	case err != nil:
		return nil, describe("", "connect", err)
	}
	return ctx, nil
}

// classes says which error of package smartcard a PC/SC code is.
var classes = map[scard.Error]error{
	scard.ErrNoService:          smartcard.ErrNoService,
	scard.ErrServiceStopped:     smartcard.ErrNoService,
	scard.ErrNoReadersAvailable: smartcard.ErrNoReader,
	scard.ErrUnknownReader:      smartcard.ErrNoReader,
	scard.ErrReaderUnavailable:  smartcard.ErrNoReader,
	scard.ErrNoSmartcard:        smartcard.ErrNoCard,
	scard.ErrRemovedCard:        smartcard.ErrCardRemoved,
	scard.ErrResetCard:          smartcard.ErrReset,
	scard.ErrSharingViolation:   smartcard.ErrInUse,
	scard.ErrUnpoweredCard:      smartcard.ErrMute,
	scard.ErrUnresponsiveCard:   smartcard.ErrMute,
	scard.ErrSecurityViolation:  smartcard.ErrDenied,
}

// describe makes of a PC/SC error one that says where it happened, of which
// class it is and its code.
func describe(reader, what string, err error) error {
	at := "pcsc"
	if reader != "" {
		at = fmt.Sprintf("pcsc: reader %q", reader)
	}
	var code scard.Error
	if !errors.As(err, &code) {
		return fmt.Errorf("%s: %s: %v: %w", at, what, err, smartcard.ErrUnavailable)
	}
	class, ok := classes[code]
	switch {
	case !ok:
		return fmt.Errorf("%s: %s: %v (0x%08X): %w", at, what, err, uint32(code), smartcard.ErrUnavailable)
	case class == smartcard.ErrNoService:
		return fmt.Errorf("%s: %w: %s (0x%08X)", at, class, serviceHelp(), uint32(code))
	case class == smartcard.ErrDenied && reader == "":
		return denied("access_pcsc", err)
	case class == smartcard.ErrDenied:
		return fmt.Errorf("pcsc: reader %q: %w", reader, denied("access_card", err))
	default:
		return fmt.Errorf("%s: %w (0x%08X)", at, class, uint32(code))
	}
}

// denied says what to do about a service that sends programs away. action is
// what it asks polkit for.
func denied(action string, err error) error {
	var code scard.Error
	errors.As(err, &code)
	help := "ask the system's administrator"
	if runtime.GOOS == "linux" {
		help = fmt.Sprintf("polkit does not let this user do org.debian.pcsc-lite.%s: log in at the machine itself, add a polkit rule that answers YES to it, or run pcscd with --disable-polkit; pcscd's log tells more (journalctl -u pcscd)", action)
	}
	return fmt.Errorf("pcsc: %w: %s (0x%08X)", smartcard.ErrDenied, help, uint32(code))
}

// serviceHelp says what to do about a missing service.
func serviceHelp() string {
	if runtime.GOOS != "linux" {
		return "start the system's smart card service"
	}
	if socket := os.Getenv(socketVariable); socket != "" {
		return socketHelp(socket, ", which "+socketVariable+" names")
	}
	return socketHelp(defaultSocket, "")
}

// socketHelp looks at pcscd's socket. named says where its name comes from, if
// not from the system.
func socketHelp(socket, named string) string {
	start := ": systemctl start pcscd.socket"
	if named != "" {
		start = named
	}
	conn, err := net.Dial("unix", socket)
	switch {
	case err == nil:
		conn.Close()
		return fmt.Sprintf("a pcscd answers at %s%s, but not in the protocol of this program's libpcsclite; both must have the same version, in a container that of the host", socket, named)
	case errors.Is(err, fs.ErrNotExist) && named == "":
		return "pcscd is not running" + start + " (Debian: apt-get install pcscd)"
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Sprintf("no pcscd answers at %s%s: there is no such socket", socket, named)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Sprintf("no permission to open the socket of pcscd, %s%s", socket, named)
	case named == "":
		return fmt.Sprintf("pcscd has ended and left its socket %s behind: systemctl restart pcscd.socket", socket)
	default:
		return fmt.Sprintf("no pcscd answers at %s%s: it has ended and left its socket behind", socket, named)
	}
}

// noReaderHelp says what to do where the service knows no reader. devices is the
// system's list of USB devices, if it has one.
func noReaderHelp(devices fs.FS) string {
	if runtime.GOOS != "linux" {
		return "connect one, or install its driver"
	}
	interfaces, _ := fs.Glob(devices, "*/bInterfaceClass") // only a bad pattern is an error
	for _, name := range interfaces {
		if class, err := fs.ReadFile(devices, name); err == nil && string(bytes.TrimSpace(class)) == usbSmartCard {
			return "one is plugged in, but pcscd has no driver for it, or another program has it: install the driver (Debian: apt-get install libccid), end scdaemon if gpg uses the reader without pcscd (gpgconf --kill scdaemon), then systemctl restart pcscd"
		}
	}
	return "connect one; if it is connected, pcscd may lack its driver (Debian: apt-get install libccid), or the virtual machine or container the device"
}
