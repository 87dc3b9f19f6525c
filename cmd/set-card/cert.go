package main

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"time"

	urfave "github.com/urfave/cli/v2"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/smartcard"
	"github.com/setkit/setkit/smartcard/piv"
)

// certificateBytesMax bounds a file with a certificate.
const certificateBytesMax = 64 << 10

func certCommand() *urfave.Command {
	slot := func() urfave.Flag {
		return &urfave.StringFlag{Name: "slot", Required: true, Usage: "`SLOT` of the key: 9a, 9c, 9d, 9e, 82 to 95 or f9"}
	}
	changing := func(more ...urfave.Flag) []urfave.Flag {
		return append(append([]urfave.Flag{readerFlag(), slot(), productionFlag()}, managementKeyFlags()...), more...)
	}
	return &urfave.Command{
		Name: "cert", Usage: "the certificates on a card",
		Description: "Example: set-card cert list",
		Subcommands: []*urfave.Command{
			{Name: "list", Usage: "list the certificates on a card",
				Description: "Example: set-card cert list --json",
				Flags:       []urfave.Flag{readerFlag(), jsonFlag()}, Action: certAction(listCertificates)},
			{Name: "get", Usage: "print a certificate as PEM",
				Description: "Example: set-card cert get --slot 9c > alice.pem",
				Flags:       []urfave.Flag{readerFlag(), slot(), &urfave.BoolFlag{Name: "json", Usage: "print what is in it as JSON"}}, Action: certAction(getCertificate)},
			{Name: "put", Usage: "store a certificate for a key, in place of the one that is there",
				Description: "The certificate has to be of the key in the slot. The management key is derived by --master-key or\n" +
					"given by --management-key-source; a card that still has the factory's needs neither.\n\n" +
					"Example: set-card cert put --slot 9c --in alice.pem \\\n" +
					"           --master-key 'pkcs11:token=issuer;object=card-master?pin-source=prompt:'",
				Flags:  changing(&urfave.StringFlag{Name: "in", Required: true, Usage: "`FILE` with the certificate, PEM or DER"}, jsonFlag()),
				Action: certAction(putCertificate)},
			{Name: "delete", Usage: "delete a certificate; its key stays",
				Description: "Example: set-card cert delete --slot 9c --management-key-source prompt:",
				Flags:       changing(jsonFlag()), Action: certAction(deleteCertificate)},
		},
	}
}

// certAction runs f with the card that the flags mean.
func certAction(f func(*urfave.Context, *openedCard) error) urfave.ActionFunc {
	return func(c *urfave.Context) error {
		if err := noArguments(c); err != nil {
			return err
		}
		card, err := open(c)
		if err != nil {
			return classified(err)
		}
		defer card.close()
		return classified(f(c, card))
	}
}

// certificateStatus is what is shown of a certificate.
type certificateStatus struct {
	Subject   string    `json:"subject"`
	Issuer    string    `json:"issuer"`
	NotBefore time.Time `json:"notBefore"`
	NotAfter  time.Time `json:"notAfter"`
	SHA256    string    `json:"sha256"`
}

func describeCertificate(cert *x509.Certificate) *certificateStatus {
	digest := sha256.Sum256(cert.Raw)
	return &certificateStatus{cert.Subject.String(), cert.Issuer.String(), cert.NotBefore, cert.NotAfter, hex.EncodeToString(digest[:])}
}

// certificateInSlot is what --json prints.
type certificateInSlot struct {
	Slot string `json:"slot"`
	*certificateStatus
}

func listCertificates(c *urfave.Context, card *openedCard) error {
	list := []certificateInSlot{}
	err := card.piv.Do(c.Context, func(tx *piv.Tx) error {
		for _, slot := range append(append(piv.Slots(), piv.RetiredSlots()...), piv.SlotAttestation) {
			cert, err := tx.Certificate(slot)
			switch {
			case err == nil:
				list = append(list, certificateInSlot{slot.String(), describeCertificate(cert)})
			case !errors.Is(err, smartcard.StatusNotFound):
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return cli.PrintJSON(c.App.Writer, list)
	}
	var rows [][]string
	for _, e := range list {
		rows = append(rows, []string{e.Slot, e.Subject, e.Issuer, e.NotAfter.Format(time.DateOnly)})
	}
	return cli.Table(c.App.Writer, []string{"SLOT", "SUBJECT", "ISSUER", "UNTIL"}, rows)
}

func getCertificate(c *urfave.Context, card *openedCard) error {
	slot, err := piv.ParseSlot(c.String("slot"))
	if err != nil {
		return cli.Usage(err)
	}
	var cert *x509.Certificate
	err = card.piv.Do(c.Context, func(tx *piv.Tx) (err error) {
		cert, err = tx.Certificate(slot)
		return err
	})
	switch {
	case errors.Is(err, smartcard.StatusNotFound):
		return fmt.Errorf("card %s has no certificate for slot %v", card.serial, slot)
	case err != nil:
		return err
	case c.Bool("json"):
		return cli.PrintJSON(c.App.Writer, certificateInSlot{slot.String(), describeCertificate(cert)})
	}
	return pem.Encode(c.App.Writer, &pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
}

func putCertificate(c *urfave.Context, card *openedCard) error {
	slot, err := piv.ParseSlot(c.String("slot"))
	if err != nil {
		return cli.Usage(err)
	}
	cert, err := readCertificate(c.String("in"))
	if err != nil {
		return err
	}
	return manage(c, card, slot, "has the certificate of "+cert.Subject.String(), func(tx *piv.Tx) error {
		public, err := tx.PublicKey(slot)
		switch {
		case errors.Is(err, smartcard.StatusNotFound):
			return fmt.Errorf("card %s has no key in slot %v", card.serial, slot)
		case err != nil:
			return err
		case !samePublicKey(cert.PublicKey, public):
			return fmt.Errorf("the certificate is not of the key in slot %v of card %s", slot, card.serial)
		}
		return tx.PutCertificate(slot, cert)
	})
}

func deleteCertificate(c *urfave.Context, card *openedCard) error {
	slot, err := piv.ParseSlot(c.String("slot"))
	if err != nil {
		return cli.Usage(err)
	}
	return manage(c, card, slot, "has no certificate now", func(tx *piv.Tx) error {
		if _, err := tx.Certificate(slot); errors.Is(err, smartcard.StatusNotFound) {
			return fmt.Errorf("card %s has no certificate for slot %v", card.serial, slot)
		}
		return tx.DeleteCertificate(slot)
	})
}

// manage calls f after the card has accepted its management key.
func manage(c *urfave.Context, card *openedCard, slot piv.Slot, done string, f func(*piv.Tx) error) error {
	keys, err := openManagementKeys(c)
	if err != nil {
		return err
	}
	defer keys.close()
	own, err := keys.of(card.serial)
	if err != nil {
		return err
	}
	defer clear(own.Key)
	err = card.piv.Do(c.Context, func(tx *piv.Tx) error {
		if c.Bool("production") {
			left, err := factorySecrets(tx)
			if err == nil {
				err = refuseFactory(card.serial, left)
			}
			if err != nil {
				return err
			}
		}
		if _, err := authenticate(tx, own); err != nil {
			if errors.Is(err, errForeign) && len(own.Key) == 0 {
				return fmt.Errorf("card %s has a management key of its own: give --master-key or --management-key-source", card.serial)
			}
			return fmt.Errorf("card %s: %w", card.serial, err)
		}
		return f(tx)
	})
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return cli.PrintJSON(c.App.Writer, cardDone{card.reader, card.serial})
	}
	fmt.Fprintf(c.App.Writer, "slot %v of card %s %s\n", slot, card.serial, cli.Printable(done))
	return nil
}

// readCertificate reads PEM or DER.
func readCertificate(path string) (*x509.Certificate, error) {
	info, err := os.Stat(path)
	if err == nil && info.Size() > certificateBytesMax {
		err = fmt.Errorf("%s has more than %d bytes", path, certificateBytesMax)
	}
	var text []byte
	if err == nil {
		text, err = os.ReadFile(path)
	}
	if err != nil {
		return nil, fmt.Errorf("--in: %w", err)
	}
	if block, _ := pem.Decode(text); block != nil {
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("--in %s: a %s and no certificate", path, block.Type)
		}
		text = block.Bytes
	}
	cert, err := x509.ParseCertificate(text)
	if err != nil {
		return nil, fmt.Errorf("--in %s: %w", path, err)
	}
	return cert, nil
}
