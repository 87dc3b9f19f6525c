package main

import (
	"errors"

	urfave "github.com/urfave/cli/v2"

	"github.com/setkit/setkit/cmd/internal/keyring"
	"github.com/setkit/setkit/roles/set"
)

func enroll(c *urfave.Context) (err error) {
	cfg, err := load(c)
	if err != nil {
		return err
	}
	ring := keyring.New(c.App.Reader, c.App.ErrWriter)
	defer func() { err = errors.Join(err, ring.Close()) }()
	who := set.IDData{MerchantAcquirerID: &set.MerchantAcquirerID{MerchantBIN: cfg.AcquirerBIN, MerchantID: cfg.MerchantID}}
	return cfg.Identity.Enroll(c.Context, ring, cfg.Trust, cfg.Enrolment, set.MerInitialBoth, who, c.App.Reader, c.App.Writer, c.App.ErrWriter)
}
