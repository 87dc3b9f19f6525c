package cli

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
)

func TestReady(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	told := func() string {
		b := make([]byte, 100)
		n, err := manager.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:n])
	}
	t.Setenv("NOTIFY_SOCKET", path)
	ctx, cancel := context.WithCancel(t.Context())
	var log bytes.Buffer
	Ready(ctx, slog.New(slog.NewTextHandler(&log, nil)))
	if got := told(); got != "READY=1" {
		t.Errorf("a server that answers says %q", got)
	}
	cancel()
	if got := told(); got != "STOPPING=1" {
		t.Errorf("a server that stops says %q", got)
	}
	if log.Len() > 0 {
		t.Error(log.String())
	}

	t.Setenv("NOTIFY_SOCKET", path+"-gone")
	Ready(t.Context(), slog.New(slog.NewTextHandler(&log, nil)))
	if !strings.Contains(log.String(), "the service manager is not told") {
		t.Errorf("a service manager that cannot be reached is passed over: %q", log.String())
	}
}
