package piv

import (
	"context"
	"crypto"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/setkit/setkit/smartcard"
	"github.com/setkit/setkit/smartcard/iso7816"
)

// cleanupTimeout bounds what is done at the end of a transaction whose context
// has already ended.
const cleanupTimeout = 5 * time.Second

// ErrNoPIV means that the card has no PIV application.
var ErrNoPIV = errors.New("piv: this is no PIV card")

// Options are what a caller may choose about a Card.
type Options struct {
	// Extended makes the card be spoken to in APDUs of extended length: fewer of
	// them, but not every card and reader takes them. Of the card its ATR tells:
	// iso7816.ParseATR.
	Extended bool
}

// A Card is the PIV application of one card. It may be used concurrently.
type Card struct {
	transport smartcard.Card
	extended  bool

	mu     sync.Mutex
	serial string // once known; it is burnt in
}

// New returns the PIV application of the card behind t. It sends nothing yet.
func New(t smartcard.Card, opts Options) *Card {
	return &Card{transport: t, extended: opts.Extended}
}

// Do takes the card, selects PIV and calls f. Afterwards the card forgets what f
// made it believe: a verified PIN is withdrawn, and if the management key was
// used the card is reset. ctx is that of every command that f sends.
//
// A prompt has no place in f: some systems reset a card that is held idle for
// five seconds, and everyone else waits. An entry on the reader's keypad is a
// command that takes long; there is no other place for it.
func (c *Card) Do(ctx context.Context, f func(tx *Tx) error) (err error) {
	if err := c.transport.Begin(ctx); err != nil {
		return fmt.Errorf("piv: %w", err)
	}
	tx := &Tx{ctx: ctx, card: c}
	defer func() {
		if endErr := tx.end(); endErr != nil && !errors.Is(err, smartcard.ErrUnavailable) {
			err = errors.Join(err, fmt.Errorf("piv: the card may still accept commands without a PIN: %w", endErr))
		}
	}()
	template, status, err := tx.exchange(iso7816.Command{INS: insSelect, P1: 0x04, Data: applicationID, Ne: neAll})
	switch {
	case err != nil:
		return fmt.Errorf("piv: select PIV: %w", err)
	case status != smartcard.StatusOK:
		return fmt.Errorf("%w (%v)", ErrNoPIV, status)
	}
	tx.template = template
	return f(tx)
}

// Serial returns the card's serial number, or of a card without one the GUID
// from its CHUID, or "" if it has neither.
func (c *Card) Serial(ctx context.Context) (string, error) {
	var serial string
	err := c.Do(ctx, func(tx *Tx) (err error) {
		serial, err = tx.Serial()
		return err
	})
	return serial, err
}

// PublicKey returns the public key of a slot; see Tx.PublicKey.
func (c *Card) PublicKey(ctx context.Context, slot Slot) (crypto.PublicKey, error) {
	var public crypto.PublicKey
	err := c.Do(ctx, func(tx *Tx) (err error) {
		public, err = tx.PublicKey(slot)
		return err
	})
	return public, err
}

// A Tx is a transaction with PIV selected. It is valid inside Do only, and for
// one goroutine. Its errors wrap the card's smartcard.Status.
type Tx struct {
	ctx           context.Context
	card          *Card
	template      []byte // what SELECT answered
	pinUsed       bool
	authenticated bool
	lastTry       bool
}

// end clears the card's security state and ends the transaction. A card that is
// gone, or was reset by another, has none.
func (tx *Tx) end() error {
	disposition := smartcard.Leave
	if tx.authenticated {
		disposition = smartcard.Reset
	} else if tx.pinUsed && tx.forgetPIN() != nil {
		disposition = smartcard.Reset
	}
	err := tx.card.transport.End(disposition)
	if errors.Is(err, smartcard.ErrCardRemoved) || errors.Is(err, smartcard.ErrReset) {
		return nil
	}
	return err
}

// forgetPIN withdraws the verified PIN.
func (tx *Tx) forgetPIN() error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(tx.ctx), cleanupTimeout)
	defer cancel()
	tx.ctx = ctx
	_, err := tx.command("withdraw the PIN", iso7816.Command{INS: insVerify, P1: 0xFF, P2: refPIN})
	return err
}

// exchange sends one command and returns the whole answer, whatever its status.
func (tx *Tx) exchange(c iso7816.Command) ([]byte, smartcard.Status, error) {
	r, err := iso7816.Exchange(func(apdu []byte) ([]byte, error) {
		return tx.card.transport.Transmit(tx.ctx, apdu)
	}, c, tx.card.extended)
	return r.Data, smartcard.Status(r.SW), err
}

// command is exchange for commands that have to succeed. what says what was
// tried.
func (tx *Tx) command(what string, c iso7816.Command) ([]byte, error) {
	data, status, err := tx.exchange(c)
	if err == nil {
		err = status.Err()
	}
	if err != nil {
		return nil, fmt.Errorf("piv: %s: %w", what, err)
	}
	return data, nil
}

// Serial returns what Card.Serial says.
func (tx *Tx) Serial() (string, error) {
	tx.card.mu.Lock()
	known := tx.card.serial
	tx.card.mu.Unlock()
	if known != "" {
		return known, nil
	}
	data, status, err := tx.exchange(iso7816.Command{INS: insSerial, Ne: neAll})
	switch {
	case err != nil:
		return "", fmt.Errorf("piv: serial number: %w", err)
	case status == smartcard.StatusOK && len(data) == 4:
		known = strconv.FormatUint(uint64(binary.BigEndian.Uint32(data)), 10)
		tx.card.mu.Lock()
		tx.card.serial = known
		tx.card.mu.Unlock()
		return known, nil
	}
	guid, err := tx.GUID() // not kept: any program can write another
	if errors.Is(err, smartcard.StatusNotFound) || errors.Is(err, iso7816.ErrMalformed) {
		return "", nil // a card without a name is still a card
	}
	if err != nil {
		return "", err
	}
	return hex.EncodeToString(guid[:]), nil
}

// Version returns the version of the card's software, such as "5.4.3", or "" if
// the card doesn't tell.
func (tx *Tx) Version() (string, error) {
	data, status, err := tx.exchange(iso7816.Command{INS: insVersion, Ne: neAll})
	switch {
	case err != nil:
		return "", fmt.Errorf("piv: version: %w", err)
	case status != smartcard.StatusOK || len(data) != 3:
		return "", nil
	}
	return fmt.Sprintf("%d.%d.%d", data[0], data[1], data[2]), nil
}
