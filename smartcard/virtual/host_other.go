//go:build !linux

package virtual

import (
	"errors"
	"os/exec"
)

// startAsNobody would start pcscd; only Linux hands it its socket.
func startAsNobody(*exec.Cmd) error {
	return errors.New("a private pcscd needs Linux")
}
