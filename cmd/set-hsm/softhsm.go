package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/setkit/setkit/hsm"
)

// softHSMSystemConf is where SoftHSM's packages put its configuration.
const softHSMSystemConf = "/etc/softhsm/softhsm2.conf"

// adviseOnLibrary adds to an error of SoftHSM, which gives no reasons, what keeps it from its tokens: in
// most cases the folder of another user.
func adviseOnLibrary(module string, err error) error {
	if !errors.Is(err, hsm.ErrUnavailable) || !strings.Contains(filepath.Base(module), "softhsm") {
		return err
	}
	if _, why := softHSMFolder(); why != nil {
		return fmt.Errorf("%w: set SOFTHSM2_CONF to the path of a file that says directories.tokendir = FOLDER, with a folder of your own (%w)", why, err)
	}
	return err
}

// adviseOnWriting does so where a token could not be made.
func adviseOnWriting(module string, err error) error {
	advised := adviseOnLibrary(module, err)
	if folder, why := softHSMFolder(); why == nil && errors.Is(err, hsm.ErrUnavailable) && strings.Contains(filepath.Base(module), "softhsm") {
		return fmt.Errorf("%w: SoftHSM's tokens are in %s: see that it can be written to, and has room", advised, folder)
	}
	return advised
}

// softHSMFolder returns SoftHSM's token folder, or what is wrong with it or with the configuration that
// names it, as far as can be seen without changing anything.
func softHSMFolder() (string, error) {
	conf := cmp.Or(os.Getenv("SOFTHSM2_CONF"), softHSMUserConf(), softHSMSystemConf)
	text, err := os.ReadFile(conf)
	if err != nil {
		return "", fmt.Errorf("SoftHSM's configuration: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		line, _, _ = strings.Cut(line, "#")
		name, folder, _ := strings.Cut(line, "=")
		if strings.TrimSpace(name) != "directories.tokendir" {
			continue
		}
		folder = strings.TrimSpace(folder)
		if _, err := os.ReadDir(folder); err != nil {
			return "", fmt.Errorf("SoftHSM's token folder, which %s names: %w", conf, err)
		}
		return folder, nil
	}
	return "", fmt.Errorf("SoftHSM's configuration %s names no token folder", conf)
}

// softHSMUserConf is the configuration in the user's home, if there is one.
func softHSMUserConf() string {
	dir, err := os.UserHomeDir()
	if err != nil {
		return ""
	}
	conf := filepath.Join(dir, ".config", "softhsm2", "softhsm2.conf")
	if _, err := os.Stat(conf); err != nil {
		return ""
	}
	return conf
}
