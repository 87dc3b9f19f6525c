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
	who := set.IDData{AcquirerID: &set.AcquirerID{AcquirerBIN: cfg.AcquirerBIN}}
	return cfg.Identity.Enroll(c.Context, ring, cfg.Trust, cfg.Enrolment, set.PgwyInitialBoth, who, c.App.Reader, c.App.Writer, c.App.ErrWriter)
}
