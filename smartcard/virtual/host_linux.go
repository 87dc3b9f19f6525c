package virtual

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
)

const nobody = 65534

// startAsNobody starts cmd in a session of its own, so that no signal of our
// terminal reaches it, and as nobody if we are root: root's pcscd would write
// and delete the process number file of the system's. Where there is nobody (a
// container may map root alone) it starts cmd as it is.
func startAsNobody(cmd *exec.Cmd) error {
	plain := *cmd
	plain.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Setsid:     true,
			Credential: &syscall.Credential{Uid: nobody, Gid: nobody},
		}
		if err := cmd.Start(); !errors.Is(err, syscall.EPERM) && !errors.Is(err, syscall.EINVAL) {
			return err
		}
	}
	*cmd = plain
	return cmd.Start()
}
