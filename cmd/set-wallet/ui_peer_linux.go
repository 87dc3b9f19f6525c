package main

import (
	"bufio"
	"encoding/hex"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	peerLooks = 5 // a connection may be accepted before the kernel's table shows it
	peerPause = 2 * time.Millisecond

	established = "01" // TCP_ESTABLISHED
)

// connectionOf says if the other end of a connection on this computer is a program of this user.
func connectionOf(user int, c net.Conn) bool {
	here, there := addrPort(c.LocalAddr()), addrPort(c.RemoteAddr())
	file := "/proc/net/tcp"
	if here.Addr().Is6() {
		file = "/proc/net/tcp6"
	}
	for range peerLooks {
		if uid, ok := ownerOf(file, there, here); ok {
			return uid == user
		}
		time.Sleep(peerPause)
	}
	return false
}

func addrPort(a net.Addr) netip.AddrPort {
	p := a.(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
}

// ownerOf finds the socket that is bound to local and connected to remote in the kernel's table (proc_net_tcp). One
// that its program has closed is root's there, whosever it was, and does not count.
func ownerOf(file string, local, remote netip.AddrPort) (uid int, ok bool) {
	f, err := os.Open(file)
	if err != nil {
		return 0, false
	}
	defer f.Close()
	want := [2]string{tableForm(local), tableForm(remote)}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		column := strings.Fields(lines.Text())
		const address, peer, state, user = 1, 2, 3, 7
		if len(column) > user && column[address] == want[0] && column[peer] == want[1] && column[state] == established {
			uid, err := strconv.Atoi(column[user])
			return uid, err == nil
		}
	}
	return 0, false
}

// tableForm writes an address as the table does: words of four octets in the order of the machine, which
// is the little end first wherever this is built for.
func tableForm(a netip.AddrPort) string {
	octets := a.Addr().AsSlice()
	for word := range slices.Chunk(octets, 4) {
		slices.Reverse(word)
	}
	port := []byte{byte(a.Port() >> 8), byte(a.Port())}
	return strings.ToUpper(hex.EncodeToString(octets) + ":" + hex.EncodeToString(port))
}
