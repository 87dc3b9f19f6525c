package cli

import (
	"errors"
	"fmt"
	"syscall"
)

// harden keeps the process's memory, where PINs are for moments, from other processes of the same
// user and from core files. Children do not inherit the first and do inherit the second.
func harden() error {
	var undumpable error
	if _, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, syscall.PR_SET_DUMPABLE, 0, 0); errno != 0 {
		undumpable = fmt.Errorf("memory can be read by processes of the same user: prctl(PR_SET_DUMPABLE): %w", errno)
	}
	// A core that is piped to a program is not limited by this, and depends on the above alone.
	coreless := syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{})
	if coreless != nil {
		coreless = fmt.Errorf("a crash may leave a core file: setrlimit(RLIMIT_CORE): %w", coreless)
	}
	return errors.Join(undumpable, coreless)
}
