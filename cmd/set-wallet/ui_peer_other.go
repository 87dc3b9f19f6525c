//go:build !linux

package main

import "net"

// ownConnection cannot tell here.
func ownConnection(net.Conn) bool { return true }
