package main

import (
	"errors"

	urfave "github.com/urfave/cli/v2"

	"github.com/setkit/setkit/cmd/internal/keyring"
	"github.com/setkit/setkit/cmd/internal/party"
	"github.com/setkit/setkit/hsm"
	"github.com/setkit/setkit/roles/set"
)

func enroll(c *urfave.Context) (err error) {
	cfg, err := load(c)
	if err != nil {
		return err
	}
	ring := keyring.New(c.App.Reader, c.App.ErrWriter)
	defer func() { err = errors.Join(err, ring.Close()) }()
	if err := party.EnsureKey(c.Context, ring, cfg.SealKey, hsm.PurposeSeal, hsm.AES256); err != nil {
		return err
	}
	a := &party.Applicant{
		Identity: cfg.Identity, Trust: cfg.Trust, Enrolment: cfg.Enrolment, Type: set.PgwyInitialBoth, Who: cfg.who(), Ring: ring,
		Command: "set-gateway enroll --config " + c.Path("config"), Stdin: c.App.Reader, Stdout: c.App.Writer, Stderr: c.App.ErrWriter,
	}
	return a.Run(c)
}

// who is how the gateway's CA knows it.
func (cfg *config) who() set.IDData {
	return set.IDData{AcquirerID: &set.AcquirerID{AcquirerBIN: cfg.AcquirerBIN}}
}
