package piv

import (
	"errors"
	"fmt"

	"github.com/setkit/setkit/smartcard/iso7816"
)

// An Application is what the card says of its PIV application when it is
// selected, the application property template: SP 800-73-4 part 2, table 3.
type Application struct {
	PIX        []byte      // what follows the RID in the application's name, with the version
	Label      string      // for people
	URL        string      // of its specification
	Algorithms []Algorithm // that it knows, ciphers too; empty if not told
}

// Application returns the application property template. It costs no command:
// the transaction began with it.
func (tx *Tx) Application() (Application, error) {
	app, err := parseApplication(tx.template)
	if err != nil {
		return Application{}, fmt.Errorf("piv: application property template: %w", err)
	}
	return app, nil
}

func parseApplication(template []byte) (Application, error) {
	body, err := iso7816.ParseTLV(template, 0x61)
	if err != nil {
		return Application{}, err
	}
	parts, err := iso7816.ParseTLVs(body)
	if err != nil {
		return Application{}, err
	}
	var app Application
	var ok bool
	if app.PIX, ok = iso7816.Find(parts, 0x4F); !ok {
		return Application{}, fmt.Errorf("no name: %w", iso7816.ErrMalformed)
	}
	label, _ := iso7816.Find(parts, 0x50)
	url, _ := iso7816.Find(parts, 0x5F50)
	app.Label, app.URL = string(label), string(url)
	for _, p := range parts {
		if p.Tag != 0xAC {
			continue
		}
		known, err := iso7816.ParseTLVs(p.Value)
		if err != nil {
			return Application{}, err
		}
		for _, k := range known {
			if k.Tag == 0x80 && len(k.Value) == 1 {
				app.Algorithms = append(app.Algorithms, Algorithm(k.Value[0]))
			}
		}
	}
	return app, nil
}

// A Discovery is what the discovery object says of the card's PINs: SP 800-73-4
// part 1, section 3.3.2.
type Discovery struct {
	ApplicationID []byte
	PIN           bool // PIV's own; this package uses no other
	GlobalPIN     bool // that of the card's other applications serves as well
	OnCardMatch   bool // a fingerprint serves as well
	GlobalFirst   bool // the cardholder expects to be asked for the global PIN
}

// Discovery reads the discovery object. The error wraps smartcard.StatusNotFound
// if the card has none; then it has PIV's own PIN.
func (tx *Tx) Discovery() (Discovery, error) {
	value, err := tx.Object(ObjectDiscovery)
	if err != nil {
		return Discovery{}, err
	}
	d, err := parseDiscovery(value)
	if err != nil {
		return Discovery{}, fmt.Errorf("piv: discovery object: %w", err)
	}
	return d, nil
}

func parseDiscovery(value []byte) (Discovery, error) {
	parts, err := iso7816.ParseTLVs(value)
	if err != nil {
		return Discovery{}, err
	}
	id, ok := iso7816.Find(parts, 0x4F)
	usage, okUsage := iso7816.Find(parts, 0x5F2F)
	if !ok || !okUsage || len(usage) != 2 {
		return Discovery{}, fmt.Errorf("no name or PIN usage policy: %w", iso7816.ErrMalformed)
	}
	return Discovery{
		ApplicationID: id,
		PIN:           usage[0]&0x40 != 0,
		GlobalPIN:     usage[0]&0x20 != 0,
		OnCardMatch:   usage[0]&0x10 != 0,
		GlobalFirst:   usage[0]&0x20 != 0 && usage[1] == 0x20,
	}, nil
}

// A KeyHistory says which retired key management keys the card has: SP 800-73-4
// part 1, section 3.3.3. They fill the slots from 82 on, those whose certificate
// is on the card first.
type KeyHistory struct {
	OnCard  int    // keys with a certificate on the card
	OffCard int    // keys whose certificate is at URL
	URL     string // "" if OffCard is 0
}

const urlBytesMax = 118

// Slots lists the slots that have a key according to h.
func (h KeyHistory) Slots() []Slot { return RetiredSlots()[:h.OnCard+h.OffCard] }

// KeyHistory reads the key history object. The error wraps
// smartcard.StatusNotFound if the card has none; retired slots may have keys all
// the same, on cards that let anyone put them there.
func (tx *Tx) KeyHistory() (KeyHistory, error) {
	value, err := tx.Object(ObjectKeyHistory)
	if err != nil {
		return KeyHistory{}, err
	}
	h, err := parseKeyHistory(value)
	if err != nil {
		return KeyHistory{}, fmt.Errorf("piv: key history: %w", err)
	}
	return h, nil
}

// PutKeyHistory writes the key history object. Authenticate comes first.
func (tx *Tx) PutKeyHistory(h KeyHistory) error {
	if err := h.check(); err != nil {
		return fmt.Errorf("piv: key history: %w", err)
	}
	value := iso7816.AppendTLV(nil, 0xC1, []byte{byte(h.OnCard)})
	value = iso7816.AppendTLV(value, 0xC2, []byte{byte(h.OffCard)})
	if h.URL != "" {
		value = iso7816.AppendTLV(value, 0xF3, []byte(h.URL))
	}
	value = iso7816.AppendTLV(value, 0xFE, nil)
	return tx.PutObject(ObjectKeyHistory, value)
}

func parseKeyHistory(value []byte) (KeyHistory, error) {
	parts, err := iso7816.ParseTLVs(value)
	if err != nil {
		return KeyHistory{}, err
	}
	on, okOn := iso7816.Find(parts, 0xC1)
	off, okOff := iso7816.Find(parts, 0xC2)
	if !okOn || !okOff || len(on) != 1 || len(off) != 1 {
		return KeyHistory{}, fmt.Errorf("no numbers: %w", iso7816.ErrMalformed)
	}
	url, _ := iso7816.Find(parts, 0xF3)
	h := KeyHistory{OnCard: int(on[0]), OffCard: int(off[0]), URL: string(url)}
	if err := h.check(); err != nil {
		return KeyHistory{}, fmt.Errorf("%w: %w", err, iso7816.ErrMalformed)
	}
	return h, nil
}

func (h KeyHistory) check() error {
	switch slots := len(RetiredSlots()); {
	case h.OnCard < 0 || h.OffCard < 0 || h.OnCard+h.OffCard > slots:
		return fmt.Errorf("%d and %d keys, there are %d slots", h.OnCard, h.OffCard, slots)
	case len(h.URL) > urlBytesMax:
		return fmt.Errorf("URL of %d bytes, at most %d fit", len(h.URL), urlBytesMax)
	case h.OffCard > 0 && h.URL == "":
		return errors.New("keys with certificates elsewhere, but no URL that says where")
	}
	return nil
}
