package main

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	urfave "github.com/urfave/cli/v2"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/smartcard"
	"github.com/setkit/setkit/smartcard/pcsc"
	"github.com/setkit/setkit/smartcard/piv"
)

func statusCommand() *urfave.Command {
	return &urfave.Command{
		Name:        "status",
		Usage:       "readers, and the cards in them",
		Description: "Example: set-card status --json",
		Flags:       []urfave.Flag{readerFlag(), jsonFlag()},
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
	Serial       string       `json:"serial,omitempty"`
	GUID         string       `json:"guid,omitempty"`
	Version      string       `json:"version,omitempty"`
	PINTriesLeft *int         `json:"pinTriesLeft"` // null if the card doesn't tell
	Slots        []slotStatus `json:"slots"`        // those with a key
}

type slotStatus struct {
	Slot        string `json:"slot"`
	Algorithm   string `json:"algorithm"`
	PINPolicy   string `json:"pinPolicy"`
	PublicKey   string `json:"publicKeySHA256"` // of the SubjectPublicKeyInfo
	Certificate bool   `json:"certificate"`
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
		return cli.PrintJSON(c.App.Writer, list)
	}
	var rows [][]string
	for _, r := range list {
		rows = append(rows, r.row())
	}
	return cli.Table(c.App.Writer, []string{"READER", "CARD", "VERSION", "PIN TRIES", "KEYS"}, rows)
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

// inspectReader reports a card that cannot be read as a problem, so that one bad
// card doesn't hide the others.
func inspectReader(ctx context.Context, r pcsc.Reader) readerStatus {
	result := readerStatus{Reader: r.Name}
	if !r.CardPresent {
		return result
	}
	card, err := pcsc.Open(ctx, r.Name)
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
	err := card.Do(ctx, func(tx *piv.Tx) (err error) {
		if s.Serial, err = tx.Serial(); err != nil {
			return err
		}
		if s.Version, err = tx.Version(); err != nil {
			return err
		}
		switch guid, err := tx.GUID(); {
		case err == nil:
			s.GUID = guid.String()
		case !errors.Is(err, smartcard.StatusNotFound):
			return err
		}
		tries, err := tx.PINTries()
		if err != nil {
			return err
		}
		if tries != piv.TriesUnknown {
			s.PINTriesLeft = &tries
		}
		for _, slot := range piv.Slots() {
			if err := s.inspectSlot(tx, slot); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return s, nil
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
	spki, err := x509.MarshalPKIXPublicKey(info.Public)
	if err != nil {
		return err
	}
	digest := sha256.Sum256(spki)
	_, err = tx.Certificate(slot)
	if err != nil && !errors.Is(err, smartcard.StatusNotFound) {
		return err
	}
	s.Slots = append(s.Slots, slotStatus{
		Slot:        slot.String(),
		Algorithm:   info.Algorithm.String(),
		PINPolicy:   info.PINPolicy.String(),
		PublicKey:   hex.EncodeToString(digest[:]),
		Certificate: err == nil,
	})
	return nil
}

func (r readerStatus) row() []string {
	switch {
	case r.Problem != "":
		return []string{r.Reader, "problem: " + r.Problem, "", "", ""}
	case r.Card == nil:
		return []string{r.Reader, "-", "", "", ""}
	}
	tries := "?"
	if r.Card.PINTriesLeft != nil {
		tries = strconv.Itoa(*r.Card.PINTriesLeft)
	}
	var keys []string
	for _, s := range r.Card.Slots {
		keys = append(keys, s.Slot+" "+s.Algorithm)
	}
	return []string{r.Reader, r.Card.Serial, r.Card.Version, tries, strings.Join(keys, ", ")}
}
