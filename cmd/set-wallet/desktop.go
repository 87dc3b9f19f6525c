package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	urfave "github.com/urfave/cli/v2"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/roles/sethttp"
)

// Names below the directory of the user's applications and media types (XDG Desktop Entry, Shared MIME-info).
const (
	desktopFile     = "applications/set-wallet.desktop"
	desktopOpenFile = "applications/set-wallet-open.desktop" // for what browsers and file managers open
	mimeFile        = "mime/packages/set-wallet.xml"
)

func desktopCommand() *urfave.Command {
	flags := func() []urfave.Flag { return []urfave.Flag{dirFlag()} }
	return &urfave.Command{
		Name:  "desktop",
		Usage: "have this user's desktop open the wallet for the orders of shops",
		Subcommands: []*urfave.Command{
			{
				Name:        "install",
				Usage:       "open orders and enrolments with the wallet's window from now on",
				Description: "Example: set-wallet desktop install",
				Flags:       append(flags(), &urfave.BoolFlag{Name: "local", Usage: "allow shops and CAs on this computer, as in a laboratory"}),
				Action:      func(c *urfave.Context) error { return desktop(c, installDesktop) },
			},
			{
				Name:        "remove",
				Usage:       "undo what install did",
				Description: "Example: set-wallet desktop remove",
				Flags:       flags(),
				Action:      func(c *urfave.Context) error { return desktop(c, removeDesktop) },
			},
		},
	}
}

func desktop(c *urfave.Context, do func(c *urfave.Context, data string) error) error {
	if err := arguments(c); err != nil {
		return err
	}
	if runtime.GOOS == "windows" || runtime.GOOS == "darwin" {
		return fmt.Errorf("this works on desktops after freedesktop.org only: here have the browser open files of the types %s and %s with: set-wallet ui --open FILE",
			sethttp.MediaPaymentInitiation, sethttp.MediaRegistrationInitiation)
	}
	data := os.Getenv("XDG_DATA_HOME")
	if !filepath.IsAbs(data) { // the specification has relative ones ignored
		home, err := os.UserHomeDir()
		if err != nil {
			return cli.Usage(fmt.Errorf("no place for the desktop's files, set XDG_DATA_HOME: %w", err))
		}
		data = filepath.Join(home, ".local", "share")
	}
	if err := do(c, data); err != nil {
		return err
	}
	return refreshDesktop(c, data)
}

func installDesktop(c *urfave.Context, data string) error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	command := []string{program, "ui"}
	if c.Bool("local") {
		command = append(command, "--local")
	}
	if dir := c.String("dir"); dir != "" {
		if dir, err = filepath.Abs(dir); err != nil {
			return err
		}
		command = append(command, "--dir", dir)
	}
	for i := range command {
		command[i] = quoteExec(command[i])
	}
	run := strings.Join(command, " ")
	types := sethttp.MediaPaymentInitiation + ";" + sethttp.MediaRegistrationInitiation + ";"
	for name, text := range map[string]string{
		desktopFile:     desktopEntry + "Exec=" + run + "\n",
		desktopOpenFile: desktopEntry + "Exec=" + run + " --open %f\nMimeType=" + types + "\nNoDisplay=true\n",
		mimeFile:        fmt.Sprintf(mimePackage, sethttp.MediaPaymentInitiation, sethttp.MediaRegistrationInitiation),
	} {
		path := filepath.Join(data, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
		fmt.Fprintln(c.App.Writer, path)
	}
	return nil
}

const desktopEntry = `[Desktop Entry]
Type=Application
Version=1.5
Name=SET Wallet
Name[fr]=Portefeuille SET
Comment=Pay with a smart card
Comment[fr]=Payer avec une carte à puce
Icon=security-high
Categories=Office;Finance;
Terminal=false
`

const mimePackage = `<?xml version="1.0" encoding="UTF-8"?>
<mime-info xmlns="http://www.freedesktop.org/standards/shared-mime-info">
  <mime-type type="%s">
    <comment>order to pay</comment>
    <comment xml:lang="fr">commande à payer</comment>
    <glob pattern="*.setpay"/>
  </mime-type>
  <mime-type type="%s">
    <comment>enrolment of a card</comment>
    <comment xml:lang="fr">enregistrement d’une carte</comment>
    <glob pattern="*.setreg"/>
  </mime-type>
</mime-info>
`

// quoteExec quotes an argument for an Exec key: once for the command line, once for the file.
func quoteExec(arg string) string {
	inner := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "`", "\\`", `$`, `\$`, `%`, `%%`).Replace(arg)
	return strings.ReplaceAll(`"`+inner+`"`, `\`, `\\`)
}

func removeDesktop(c *urfave.Context, data string) error {
	for _, name := range []string{desktopFile, desktopOpenFile, mimeFile} {
		path := filepath.Join(data, name)
		switch err := os.Remove(path); {
		case err == nil:
			fmt.Fprintln(c.App.Writer, path)
		case !errors.Is(err, os.ErrNotExist):
			return err
		}
	}
	return nil
}

// refreshDesktop has the desktop's own programs read the files, where they are installed. Without them it
// reads them by itself, later.
func refreshDesktop(c *urfave.Context, data string) error {
	for _, command := range [][]string{
		{"update-mime-database", filepath.Join(data, "mime")},
		{"update-desktop-database", filepath.Join(data, "applications")},
	} {
		if _, err := exec.LookPath(command[0]); err != nil {
			fmt.Fprintf(c.App.ErrWriter, "%s is not installed: log out and in for the change to be seen\n", command[0])
			continue
		}
		if out, err := exec.CommandContext(c.Context, command[0], command[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", command[0], err, bytes.TrimSpace(out))
		}
	}
	return nil
}
