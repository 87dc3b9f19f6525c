//go:build !unix

package virtual

import (
	"errors"
	"os"
)

var errNoLock = errors.New("cards are kept in files on Unix systems only: files cannot be locked here")

func lockFile(string) (*os.File, error) { return nil, errNoLock }

func unlockFile(*os.File) error { return errNoLock }

func syncDirectory(string) error { return errNoLock }
