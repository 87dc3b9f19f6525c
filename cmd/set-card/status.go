package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	urfave "github.com/urfave/cli/v2"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/smartcard"
	"github.com/setkit/setkit/smartcard/pcsc"
	"github.com/setkit/setkit/smartcard/piv"
)

func statusCommand() *urfave.Command {
	return &urfave.Command{
		Name:  "status",
		Usage: "readers, and the cards in them",
		Description: "Asks for no PIN and uses no try. With --production a card that still has a factory secret is a failure.\n\n" +
			"Example: set-card status --json\n" +
			"         set-card status --reader ACR39 --production",
		Flags: []urfave.Flag{
			readerFlag(), &urfave.BoolFlag{Name: "production", EnvVars: []string{"SET_CARD_PRODUCTION"}, Usage: "fail if a card has the factory's PIN, PUK or management key"}, jsonFlag(),
		},
		Action: func(c *urfave.Context) error {
			if err := noArguments(c); err != nil {
				return err
			}
			return classified(status(c))
		},
	}
}

// readerStatus is a reader and what is in it.
type readerStatus struct {
	Reader  string      `json:"reader"`
	Card    *cardStatus `json:"card"` // null without a card
	Problem string      `json:"problem,omitempty"`
}

// cardStatus is what can be known of a card without a PIN.
type cardStatus struct {
	Serial              string         `json:"serial,omitempty"`
	GUID                string         `json:"guid,omitempty"`
	Version             string         `json:"version,omitempty"`
	PINTriesLeft        *int           `json:"pinTriesLeft"` // null if the card doesn't tell
	PUKTriesLeft        *int           `json:"pukTriesLeft"` // the same
	FactorySecrets      []string       `json:"factorySecrets"`
	ManagementAlgorithm string         `json:"managementAlgorithm,omitempty"`
	Attests             bool           `json:"attests"`    // it can vouch for its keys
	KeyHistory          *historyStatus `json:"keyHistory"` // null if it has none
	Slots               []slotStatus   `json:"slots"`      // those with a key
}

type historyStatus struct {
	OnCard  int    `json:"onCard"`
	OffCard int    `json:"offCard"`
	URL     string `json:"url,omitempty"`
}

type slotStatus struct {
	Slot        string             `json:"slot"`
	Algorithm   string             `json:"algorithm"`
	PINPolicy   string             `json:"pinPolicy"`
	Generated   bool               `json:"generatedOnCard"`
	PublicKey   string             `json:"publicKeySHA256"` // of the SubjectPublicKeyInfo
	Certificate *certificateStatus `json:"certificate"`     // null if there is none
}

func status(c *urfave.Context) error {
	readers, err := readersToShow(c.Context, c.String("reader"))
	if err != nil {
		return err
	}
	list := make([]readerStatus, len(readers))
	for i, r := range readers {
		list[i] = inspectReader(c.Context, r)
	}
	if c.Bool("json") {
		err = cli.PrintJSON(c.App.Writer, list)
	} else {
		err = printStatus(c, list)
	}
	if err != nil || !c.Bool("production") {
		return err
	}
	var bad []error
	for _, r := range list {
		if r.Card != nil {
			bad = append(bad, refuseFactory(r.Card.Serial, r.Card.FactorySecrets))
		}
	}
	return errors.Join(bad...)
}

// printStatus prints a table of the cards, and one of their keys.
func printStatus(c *urfave.Context, list []readerStatus) error {
	var cards, keys [][]string
	for _, r := range list {
		cards = append(cards, r.row())
		if r.Card == nil {
			continue
		}
		for _, s := range r.Card.Slots {
			row := []string{r.Card.Serial, s.Slot, s.Algorithm, s.PINPolicy, "-", ""}
			if s.Certificate != nil {
				row[4], row[5] = s.Certificate.Subject, s.Certificate.NotAfter.Format(time.DateOnly)
			}
			keys = append(keys, row)
		}
	}
	if err := cli.Table(c.App.Writer, []string{"READER", "CARD", "VERSION", "PIN TRIES", "PUK TRIES", "ATTESTS", "FACTORY SECRETS"}, cards); err != nil {
		return err
	}
	if len(keys) == 0 {
		return nil
	}
	fmt.Fprintln(c.App.Writer)
	return cli.Table(c.App.Writer, []string{"CARD", "SLOT", "KEY", "PIN", "CERTIFICATE", "UNTIL"}, keys)
}

// readersToShow gives the named reader, which must have a card, or all.
func readersToShow(ctx context.Context, name string) ([]pcsc.Reader, error) {
	if name != "" {
		r, err := pcsc.Find(ctx, name)
		return []pcsc.Reader{r}, err
	}
	all, err := pcsc.Readers(ctx)
	if err == nil && len(all) == 0 {
		err = fmt.Errorf("%w: none is connected", smartcard.ErrNoReader)
	}
	return all, err
}

// heldTimeout is how long a list waits for a card that another program holds.
const heldTimeout = 2 * time.Second

// inspectReader reports a card that cannot be read as a problem, so that one bad
// card doesn't hide the others.
func inspectReader(ctx context.Context, r pcsc.Reader) readerStatus {
	result := readerStatus{Reader: r.Name}
	if !r.CardPresent {
		return result
	}
	opening, cancel := context.WithTimeout(ctx, heldTimeout)
	defer cancel()
	card, err := pcsc.Open(opening, r.Name)
	if err != nil {
		result.Problem = err.Error()
		return result
	}
	defer card.Close()
	if result.Card, err = inspectCard(ctx, piv.New(card, piv.Options{})); err != nil {
		result.Problem = err.Error()
	}
	return result
}

func inspectCard(ctx context.Context, card *piv.Card) (*cardStatus, error) {
	s := &cardStatus{Slots: []slotStatus{}}
	err := card.Do(ctx, func(tx *piv.Tx) error {
		if err := s.inspectIdentity(tx); err != nil {
			return err
		}
		if err := s.inspectSecrets(tx); err != nil {
			return err
		}
		slots := piv.Slots()
		history, err := tx.KeyHistory()
		switch {
		case err == nil:
			s.KeyHistory = &historyStatus{history.OnCard, history.OffCard, history.URL}
			slots = append(slots, history.Slots()...)
		case !errors.Is(err, smartcard.StatusNotFound):
			return err
		}
		for _, slot := range slots {
			if err := s.inspectSlot(tx, slot); err != nil {
				return err
			}
		}
		// What it says of a key is worth checking where it matters; here it is that it could.
		switch _, err := tx.Certificate(piv.SlotAttestation); {
		case err == nil:
			s.Attests = true
		case !errors.Is(err, smartcard.StatusNotFound):
			return err
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

func (s *cardStatus) inspectIdentity(tx *piv.Tx) (err error) {
	if s.Serial, err = tx.Serial(); err != nil {
		return err
	}
	if s.Version, err = tx.Version(); err != nil {
		return err
	}
	guid, err := tx.GUID()
	switch {
	case err == nil:
		s.GUID = guid.String()
	case !errors.Is(err, smartcard.StatusNotFound):
		return err
	}
	return nil
}

// inspectSecrets finds out what the card tells of PIN, PUK and management key.
func (s *cardStatus) inspectSecrets(tx *piv.Tx) error {
	tries, err := tx.PINTries()
	if err != nil {
		return err
	}
	if tries != piv.TriesUnknown {
		s.PINTriesLeft = &tries
	}
	puk, err := tx.PUKInfo()
	switch {
	case err == nil:
		s.PUKTriesLeft = &puk.TriesLeft
	case !errors.Is(err, piv.ErrUnsupported):
		return err
	}
	management, err := tx.ManagementKeyInfo()
	switch {
	case err == nil:
		s.ManagementAlgorithm = managementName(management.Algorithm)
	case !errors.Is(err, piv.ErrUnsupported):
		return err
	}
	s.FactorySecrets, err = factorySecrets(tx)
	return err
}

func managementName(a piv.ManagementAlgorithm) string {
	for name, known := range managementAlgorithms {
		if known == a {
			return name
		}
	}
	return fmt.Sprintf("algorithm %02X", byte(a))
}

// inspectSlot adds a slot that has a key.
func (s *cardStatus) inspectSlot(tx *piv.Tx, slot piv.Slot) error {
	info, err := tx.KeyInfo(slot)
	if errors.Is(err, smartcard.StatusNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	digest, err := keyDigest(info.Public)
	if err != nil {
		return err
	}
	cert, err := tx.Certificate(slot)
	if err != nil && !errors.Is(err, smartcard.StatusNotFound) {
		return err
	}
	status := slotStatus{
		Slot:      slot.String(),
		Algorithm: info.Algorithm.String(),
		PINPolicy: info.PINPolicy.String(),
		Generated: info.GeneratedOnCard,
		PublicKey: digest,
	}
	if err == nil {
		status.Certificate = describeCertificate(cert)
	}
	s.Slots = append(s.Slots, status)
	return nil
}

func (r readerStatus) row() []string {
	switch {
	case r.Problem != "":
		return []string{r.Reader, "problem: " + r.Problem, "", "", "", "", ""}
	case r.Card == nil:
		return []string{r.Reader, "-", "", "", "", "", ""}
	}
	count := func(tries *int) string {
		if tries == nil {
			return "?"
		}
		return strconv.Itoa(*tries)
	}
	attests, factory := "no", "-"
	if r.Card.Attests {
		attests = "yes"
	}
	if len(r.Card.FactorySecrets) > 0 {
		factory = strings.Join(r.Card.FactorySecrets, ", ")
	}
	return []string{r.Reader, r.Card.Serial, r.Card.Version, count(r.Card.PINTriesLeft), count(r.Card.PUKTriesLeft), attests, factory}
}
