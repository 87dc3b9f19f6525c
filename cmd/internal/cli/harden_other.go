//go:build !linux

package cli

import "errors"

func harden() error {
	return errors.New("memory is not kept from other processes of the same user or from core files: only Linux can")
}
