package main

import (
	"errors"
	"fmt"
	"strings"

	urfave "github.com/urfave/cli/v2"

	"github.com/setkit/setkit/smartcard/piv"
)

// productionFlag is for banks whose cards are worth money. It can be set once, in
// the environment.
func productionFlag() urfave.Flag {
	return &urfave.BoolFlag{Name: "production", EnvVars: []string{"SET_CARD_PRODUCTION"},
		Usage: "refuse cards with factory secrets, keys outside of an HSM, cards without attestation, and secrets in plain files"}
}

// checkProduction refuses what has no place in production.
func checkProduction(c *urfave.Context, d *delivery) error {
	if c.IsSet("without-attestation") && c.String("attestation-root") != "" {
		return errors.New("--attestation-root and --without-attestation exclude each other")
	}
	switch {
	case !c.Bool("production"):
		return nil
	case c.String("master-key") == "":
		return errors.New("--production wants the management key from an HSM: --master-key")
	case c.String("attestation-root") == "" && c.String("without-attestation") == "":
		return errors.New("--production wants --attestation-root, or --without-attestation with the reason")
	case d.files() && len(d.recipients) == 0:
		return errors.New("--production wants secrets files sealed: --secrets-recipient")
	}
	return nil
}

// factorySecrets names the secrets that everybody knows. What a card doesn't tell
// is found out only where that costs no try: of the management key.
func factorySecrets(tx *piv.Tx) ([]string, error) {
	left := []string{}
	pin, puk, err := factoryReferences(tx)
	if err != nil && !errors.Is(err, piv.ErrUnsupported) {
		return nil, err
	}
	if pin {
		left = append(left, "PIN")
	}
	if puk {
		left = append(left, "PUK")
	}
	info, err := tx.ManagementKeyInfo()
	if errors.Is(err, piv.ErrUnsupported) {
		err = tx.Authenticate(piv.ManagementKey{Key: piv.FactoryManagementKey()})
		info.Default = err == nil
		if refusedKey(err) {
			err = nil
		}
	}
	if err != nil {
		return nil, err
	}
	if info.Default {
		left = append(left, "management key")
	}
	return left, nil
}

// refuseFactory refuses a card that everybody can manage.
func refuseFactory(serial string, left []string) error {
	if len(left) == 0 {
		return nil
	}
	return fmt.Errorf("card %s has the factory's %s, which everybody knows: --production refuses it; set-card personalise", serial, strings.Join(left, ", "))
}
