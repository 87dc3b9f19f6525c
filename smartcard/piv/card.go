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
const cleanupTimeout = 15 * time.Second

// ErrNoPIV means that the card has no PIV application.
var ErrNoPIV = errors.New("piv: this is no PIV card")

// Options are what a caller may choose about a Card.
type Options struct {
	// Extended makes the card be spoken to in APDUs of extended length: fewer of
	// them, but not every card and reader takes them. Of the card its ATR tells:
	// iso7816.ParseATR. If SELECT, or a use of a key, shows that the reader doesn't,
	// the Card goes on with short ones.
	Extended bool
}

// A Card is the PIV application of one card. It may be used concurrently.
type Card struct {
	mu         sync.Mutex
	transport  smartcard.Card
	serial     string // once known; it is burnt in
	extended   bool
	longPassed bool // what only an APDU of extended length holds has got through
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
	tx, err := c.begin(ctx)
	if err != nil {
		return err
	}
	defer func() { err = tx.finish(err) }()
	return f(tx)
}

// begin starts what Do does; Tx.finish ends it.
func (c *Card) begin(ctx context.Context) (*Tx, error) {
	c.mu.Lock()
	tx := &Tx{ctx: ctx, card: c, transport: c.transport}
	c.mu.Unlock()
	if err := tx.transport.Begin(ctx); err != nil {
		return nil, fmt.Errorf("piv: %w", err)
	}
	if err := tx.selectPIV(); err != nil {
		return nil, tx.finish(err)
	}
	return tx, nil
}

// swap lets the card be reached through another transport from now on. Nothing
// that was known of it counts any more.
func (c *Card) swap(t smartcard.Card) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.transport, c.serial, c.longPassed = t, "", false
}

// speaksExtended says whether a command with n bytes of data goes in an APDU of
// extended length. A long one that cannot be sent twice does only after another
// one has got through: a reader that doesn't take it must not show by a lost
// answer.
func (c *Card) speaksExtended(n int, repeatable bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.extended && (repeatable || n <= iso7816.DataShortBytesMax || c.longPassed)
}

// sawExtended notes how an APDU of extended length with n bytes of data fared.
func (c *Card) sawExtended(n int, status smartcard.Status, err error) {
	if n <= iso7816.DataShortBytesMax {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil && status != smartcard.StatusWrongLength {
		c.longPassed = true
	} else if !c.longPassed {
		c.extended = false
	}
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
	transport     smartcard.Card
	template      []byte // what SELECT answered
	pinUsed       bool
	authenticated bool
	lastTry       bool
}

// selectPIV is SELECT. It is the first command of a transaction, so it shows
// whether APDUs of extended length get through before anything depends on that.
func (tx *Tx) selectPIV() error {
	c := iso7816.Command{INS: insSelect, P1: 0x04, Data: applicationID, Ne: neAll}
	template, status, err := tx.exchange(c)
	if tx.card.speaksExtended(0, true) && (errors.Is(err, smartcard.ErrUnavailable) || status == smartcard.StatusWrongLength) {
		r, shortErr := iso7816.Exchange(tx.send, c, false)
		if shortErr == nil {
			template, status, err = r.Data, smartcard.Status(r.SW), nil
			tx.card.mu.Lock()
			tx.card.extended = false
			tx.card.mu.Unlock()
		}
	}
	switch {
	case err != nil:
		return fmt.Errorf("piv: select PIV: %w", err)
	case status != smartcard.StatusOK:
		return fmt.Errorf("%w (%v)", ErrNoPIV, status)
	}
	tx.template = template
	return nil
}

// finish ends the transaction whose outcome was err.
func (tx *Tx) finish(err error) error {
	if endErr := tx.end(); endErr != nil && !errors.Is(err, smartcard.ErrUnavailable) {
		return errors.Join(err, fmt.Errorf("piv: the card may still accept commands without a PIN: %w", endErr))
	}
	return err
}

// end clears the card's security state and ends the transaction. A card that is
// gone, or was reset by another, has none; nor has one whose reader or whose
// service is gone, once there is another that gives it power.
func (tx *Tx) end() error {
	disposition := smartcard.Leave
	if tx.authenticated {
		disposition = smartcard.Reset
	} else if tx.pinUsed && tx.forgetPIN() != nil {
		disposition = smartcard.Reset
	}
	err := tx.transport.End(disposition)
	for _, gone := range []error{smartcard.ErrCardRemoved, smartcard.ErrReset, smartcard.ErrNoReader, smartcard.ErrNoService} {
		if errors.Is(err, gone) {
			return nil
		}
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
	extended := tx.card.speaksExtended(len(c.Data), true)
	r, err := iso7816.Exchange(tx.send, c, extended)
	if extended {
		tx.card.sawExtended(len(c.Data), smartcard.Status(r.SW), err)
	}
	return r.Data, smartcard.Status(r.SW), err
}

func (tx *Tx) send(apdu []byte) ([]byte, error) {
	answer, err := tx.transport.Transmit(tx.ctx, apdu)
	if err == nil && len(answer) > iso7816.ResponseShortBytesMax+2 { // and readers have the same room both ways
		tx.card.mu.Lock()
		tx.card.longPassed = true
		tx.card.mu.Unlock()
	}
	return answer, err
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
		if status != smartcard.StatusOK && !lacksInstruction(status) {
			return "", fmt.Errorf("piv: serial number: %w", status)
		}
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
