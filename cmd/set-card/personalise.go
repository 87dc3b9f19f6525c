package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"time"

	urfave "github.com/urfave/cli/v2"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/smartcard"
	"github.com/setkit/setkit/smartcard/piv"
)

// farFuture is RFC 5280's date for "no end": the placeholder certificates and the
// CHUID don't expire. What ends is the cardholder's certificate.
var farFuture = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)

const factoryPIN, factoryPUK = "123456", "12345678"

func personaliseCommand() *urfave.Command {
	return &urfave.Command{
		Name:  "personalise",
		Usage: "make a factory-fresh card ready for a cardholder",
		Description: "Generates the keys on the card (9c signs, with the PIN at every use; 9d unlocks), stores\n" +
			"placeholder certificates, a CHUID and a CCC, and replaces PIN, PUK and management key.\n\n" +
			"Example: set-card personalise --pin-source prompt: --secrets-file card-secrets",
		Flags: append([]urfave.Flag{
			readerFlag(),
			&urfave.StringFlag{Name: "signature-key", Value: piv.ECDSAP256.String(), Usage: "`ALGORITHM` of the key in slot 9c"},
			&urfave.StringFlag{Name: "key-management-key", Value: piv.RSA2048.String(), Usage: "`ALGORITHM` of the key in slot 9d"},
			&urfave.BoolFlag{Name: "force", Usage: "reset a card that is in use already; its keys are lost"},
			jsonFlag(),
		}, secretFlags()...),
		Action: func(c *urfave.Context) error {
			if err := noArguments(c); err != nil {
				return err
			}
			return classified(personalise(c))
		},
	}
}

// personaliser is one run of the command.
type personaliser struct {
	ctx      context.Context
	card     *piv.Card
	progress io.Writer
	serial   string

	signatureAlgorithm, managementAlgorithm piv.Algorithm
	signaturePublic, managementPublic       crypto.PublicKey
}

// result is what --json prints.
type result struct {
	Reader      string      `json:"reader"`
	SecretsFile string      `json:"secretsFile,omitempty"`
	Card        *cardStatus `json:"card"`
}

func personalise(c *urfave.Context) error {
	p := &personaliser{ctx: c.Context, progress: c.App.Writer}
	if c.Bool("json") {
		p.progress = c.App.ErrWriter
	}
	var err error
	if p.signatureAlgorithm, err = piv.ParseAlgorithm(c.String("signature-key")); err != nil {
		return cli.Usage(err)
	}
	if p.managementAlgorithm, err = piv.ParseAlgorithm(c.String("key-management-key")); err != nil {
		return cli.Usage(err)
	}
	connection, err := openCard(c.Context, c.String("reader"))
	if err != nil {
		return err
	}
	defer connection.Close()
	p.card = piv.New(connection, piv.Options{})
	if err := p.checkFresh(c.Bool("force")); err != nil {
		return err
	}
	s, err := readSecrets(c)
	if err != nil {
		return err
	}
	defer s.clear()
	out := result{Reader: connection.Reader()}
	if s.made {
		out.SecretsFile = c.String("secrets-file")
		if err := s.write(out.SecretsFile, p.serial, c.String("management-algorithm")); err != nil {
			return err
		}
		p.say("secrets written to %s", out.SecretsFile)
	}
	if err := p.run(s, c.Bool("force")); err != nil {
		return err
	}
	if out.Card, err = inspectCard(c.Context, p.card); err != nil {
		return err
	}
	if c.Bool("json") {
		return cli.PrintJSON(c.App.Writer, out)
	}
	p.say("card %s is personalised", p.serial)
	return nil
}

func (p *personaliser) say(format string, args ...any) {
	fmt.Fprintf(p.progress, format+"\n", args...)
}

// checkFresh refuses a card with keys or a name, unless force is given.
func (p *personaliser) checkFresh(force bool) error {
	return p.card.Do(p.ctx, func(tx *piv.Tx) (err error) {
		if p.serial, err = tx.Serial(); err != nil {
			return err
		}
		if force {
			return nil
		}
		_, err = tx.GUID()
		for _, slot := range []piv.Slot{piv.SlotSignature, piv.SlotKeyManagement} {
			if errors.Is(err, smartcard.StatusNotFound) {
				_, err = tx.KeyInfo(slot)
			}
		}
		switch {
		case err == nil:
			return fmt.Errorf("card %s is personalised already; --force resets it, and its keys are lost", p.serial)
		case errors.Is(err, smartcard.StatusNotFound):
			return nil
		}
		return err
	})
}

// run does the work, in three transactions: the middle one is of the session
// that signs the certificates.
func (p *personaliser) run(s *secrets, force bool) error {
	if err := p.card.Do(p.ctx, func(tx *piv.Tx) error { return p.initialise(tx, s, force) }); err != nil {
		return err
	}
	certificates, err := p.certificates(s.pin)
	if err != nil {
		return err
	}
	return p.card.Do(p.ctx, func(tx *piv.Tx) error {
		if err := tx.Authenticate(s.management); err != nil {
			return err
		}
		for slot, cert := range certificates {
			if err := tx.PutCertificate(slot, cert); err != nil {
				return err
			}
		}
		p.say("certificates stored")
		return nil
	})
}

// initialise makes keys and objects and sets the secrets, the management key
// last: until then the factory's leads back.
func (p *personaliser) initialise(tx *piv.Tx, s *secrets, force bool) (err error) {
	if force {
		if err := tx.FactoryReset(); err != nil {
			return err
		}
		p.say("card %s reset", p.serial)
	}
	if err := tx.Authenticate(piv.ManagementKey{Key: piv.FactoryManagementKey()}); err != nil {
		return fmt.Errorf("with the factory's management key (--force resets the card): %w", err)
	}
	p.say("generating the %v key of slot 9c", p.signatureAlgorithm)
	if p.signaturePublic, err = tx.Generate(piv.SlotSignature, p.signatureAlgorithm, piv.PINPolicyDefault); err != nil {
		return err
	}
	p.say("generating the %v key of slot 9d", p.managementAlgorithm)
	if p.managementPublic, err = tx.Generate(piv.SlotKeyManagement, p.managementAlgorithm, piv.PINPolicyDefault); err != nil {
		return err
	}
	guid := piv.NewGUID()
	if err := tx.PutObject(piv.ObjectCHUID, piv.NewCHUID(guid, farFuture)); err != nil {
		return err
	}
	if err := tx.PutObject(piv.ObjectCCC, piv.NewCCC(guid)); err != nil {
		return err
	}
	if err := tx.ChangePUK([]byte(factoryPUK), s.puk); err != nil {
		return fmt.Errorf("with the factory's PUK: %w", err)
	}
	if err := tx.ChangePIN([]byte(factoryPIN), s.pin); err != nil {
		return fmt.Errorf("with the factory's PIN: %w", err)
	}
	if err := tx.SetManagementKey(s.management); err != nil {
		return err
	}
	p.say("PIN, PUK and management key set")
	return nil
}

// certificates lets the card sign a certificate for each of its keys. They are
// placeholders, by which any PIV program finds the public keys; nobody trusts
// them.
func (p *personaliser) certificates(pin []byte) (map[piv.Slot]*x509.Certificate, error) {
	session := p.card.NewSession(p.ctx, piv.SessionConfig{PIN: func(context.Context, piv.PINRequest) ([]byte, error) {
		return bytes.Clone(pin), nil
	}})
	defer session.Close()
	signer, err := session.Signer(piv.SlotSignature, p.signaturePublic)
	if err != nil {
		return nil, err
	}
	parent := p.template("9c", x509.KeyUsageDigitalSignature|x509.KeyUsageContentCommitment)
	signature, err := issue(parent, parent, p.signaturePublic, signer)
	if err != nil {
		return nil, fmt.Errorf("certificate of slot 9c: %w", err)
	}
	management, err := issue(p.template("9d", x509.KeyUsageKeyEncipherment), signature, p.managementPublic, signer)
	if err != nil {
		return nil, fmt.Errorf("certificate of slot 9d: %w", err)
	}
	return map[piv.Slot]*x509.Certificate{piv.SlotSignature: signature, piv.SlotKeyManagement: management}, nil
}

func (p *personaliser) template(slot string, usage x509.KeyUsage) *x509.Certificate {
	return &x509.Certificate{
		Subject:      pkix.Name{CommonName: fmt.Sprintf("Card %s, slot %s", p.serial, slot)},
		SerialNumber: new(big.Int).SetBytes(randomSerial()),
		NotBefore:    time.Now().UTC().Truncate(time.Second),
		NotAfter:     farFuture,
		KeyUsage:     usage,
	}
}

// randomSerial makes a positive certificate serial number of 16 bytes.
func randomSerial() []byte {
	b := make([]byte, 16)
	rand.Read(b) // never fails
	b[0] = b[0]&0x7F | 0x40
	return b
}

func issue(template, parent *x509.Certificate, public crypto.PublicKey, signer crypto.Signer) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, signer)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}
