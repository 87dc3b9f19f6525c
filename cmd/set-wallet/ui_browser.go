package main

import (
	"context"
	"fmt"
	"html"
	"os"
	"os/exec"
	"runtime"
)

// openBrowser opens an address in the person's browser. What a command is started with is hidden from
// others on Windows, and of no use to them on Linux, where connections of other users are refused. On other
// systems the address goes through a file.
func openBrowser(ctx context.Context, dir, address string) error {
	switch runtime.GOOS {
	case "windows":
		return start(ctx, "rundll32", "url.dll,FileProtocolHandler", address)
	case "linux":
		return start(ctx, "xdg-open", address)
	}
	f, err := os.CreateTemp(dir, "open-*.html") // of mode 0600
	if err != nil {
		return err
	}
	defer f.Close()
	// It stays until the next start: the browser reads it at its leisure, and its address is good once.
	if _, err := fmt.Fprintf(f, `<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url=%s">`, html.EscapeString(address)); err != nil {
		return err
	}
	return start(ctx, "open", f.Name())
}

// start starts a program that opens something and ends.
func start(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(context.WithoutCancel(ctx), name, args...)
	if err := cmd.Start(); err != nil {
		return err
	}
	go cmd.Wait() // or it stays in the table of processes
	return nil
}
