package virtual

import (
	"net"
	"syscall"
)

// acknowledgeAtOnce asks the kernel not to delay the next acknowledgement. The
// setting lasts only until the kernel changes its mind, so it is made before
// every read. That it fails costs only time.
func acknowledgeAtOnce(conn net.Conn) {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_QUICKACK, 1)
	})
}
