package hsm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/miekg/pkcs11"
)

// slotsMax bounds the slots of a library that are looked at.
const slotsMax = 4096

// TokenInfo tells which token something is, and how it is.
type TokenInfo struct {
	Label        string `json:"label"`
	Serial       string `json:"serial"`
	Manufacturer string `json:"manufacturer"`
	Model        string `json:"model"`
	UserPIN      bool   `json:"userPIN"`   // a user PIN is set
	PINLocked    bool   `json:"pinLocked"` // too many wrong user PINs

	Hardware string `json:"hardware"` // version, such as 2.6
	Firmware string `json:"firmware"` // version

	LoginRequired  bool `json:"loginRequired"`
	WriteProtected bool `json:"writeProtected"`
	Random         bool `json:"random"`      // it has a random number generator
	ErrorState     bool `json:"errorState"`  // a self-test of the token has failed
	PINLow         bool `json:"pinLow"`      // at least one wrong user PIN since the last right one
	PINFinalTry    bool `json:"pinFinalTry"` // one more wrong user PIN locks it
	PINToChange    bool `json:"pinToChange"` // the user PIN is still the officer's or has expired
	SOPINLow       bool `json:"soPINLow"`    // the same of the security officer's PIN
	SOPINFinalTry  bool `json:"soPINFinalTry"`
	SOPINLocked    bool `json:"soPINLocked"`
	SOPINToChange  bool `json:"soPINToChange"`
	PINBytesMin    int  `json:"pinBytesMin"`
	PINBytesMax    int  `json:"pinBytesMax"`

	// SessionsMax is how many sessions the token allows, 0 if it tells no limit; Sessions is how many
	// this process has, -1 if the token does not tell.
	SessionsMax int `json:"sessionsMax"`
	Sessions    int `json:"sessions"`
	// Clock is the token's time, zero if it has no clock, and ClockRead the host's when it was asked.
	Clock     time.Time `json:"clock,omitzero"`
	ClockRead time.Time `json:"clockRead,omitzero"`
}

func tokenInfo(t pkcs11.TokenInfo) TokenInfo {
	has := func(flag uint) bool { return t.Flags&flag != 0 }
	info := TokenInfo{
		Label: t.Label, Serial: t.SerialNumber, Manufacturer: t.ManufacturerID, Model: t.Model,
		UserPIN: has(pkcs11.CKF_USER_PIN_INITIALIZED), PINLocked: has(pkcs11.CKF_USER_PIN_LOCKED),
		Hardware:      fmt.Sprintf("%d.%d", t.HardwareVersion.Major, t.HardwareVersion.Minor),
		Firmware:      fmt.Sprintf("%d.%d", t.FirmwareVersion.Major, t.FirmwareVersion.Minor),
		LoginRequired: has(pkcs11.CKF_LOGIN_REQUIRED), WriteProtected: has(pkcs11.CKF_WRITE_PROTECTED),
		Random: has(pkcs11.CKF_RNG), ErrorState: has(pkcs11.CKF_ERROR_STATE),
		PINLow: has(pkcs11.CKF_USER_PIN_COUNT_LOW), PINFinalTry: has(pkcs11.CKF_USER_PIN_FINAL_TRY),
		PINToChange: has(pkcs11.CKF_USER_PIN_TO_BE_CHANGED),
		SOPINLow:    has(pkcs11.CKF_SO_PIN_COUNT_LOW), SOPINFinalTry: has(pkcs11.CKF_SO_PIN_FINAL_TRY),
		SOPINLocked: has(pkcs11.CKF_SO_PIN_LOCKED), SOPINToChange: has(pkcs11.CKF_SO_PIN_TO_BE_CHANGED),
		PINBytesMin: int(min(t.MinPinLen, math.MaxInt32)), PINBytesMax: int(min(t.MaxPinLen, math.MaxInt32)),
		Sessions: -1,
	}
	if t.MaxSessionCount != pkcs11.CK_EFFECTIVELY_INFINITE && t.MaxSessionCount != pkcs11.CK_UNAVAILABLE_INFORMATION {
		info.SessionsMax = int(min(t.MaxSessionCount, math.MaxInt32))
	}
	if t.SessionCount != pkcs11.CK_UNAVAILABLE_INFORMATION {
		info.Sessions = int(min(t.SessionCount, math.MaxInt32))
	}
	if has(pkcs11.CKF_CLOCK_ON_TOKEN) && len(t.UTCTime) >= 14 {
		if clock, err := time.Parse("20060102150405", t.UTCTime[:14]); err == nil {
			info.Clock, info.ClockRead = clock, time.Now().UTC()
		}
	}
	return info
}

// slot is a slot with an initialised token in it, as long as the library stays initialised.
type slot struct {
	id          uint
	flags       uint
	sessionsMax uint
	hardware    bool // known of a slot that was chosen
	info        TokenInfo
}

// Tokens lists the initialised tokens of the PKCS#11 library at modulePath. It needs no PIN. A token that
// cannot be read is left out while there are others.
func Tokens(ctx context.Context, modulePath string) ([]TokenInfo, error) {
	m, err := loadModule(modulePath)
	if err != nil {
		return nil, err
	}
	list := []TokenInfo{}
	err = m.manage(ctx, func() error {
		return m.administer(func(lib *pkcs11.Ctx) error {
			slots, sick, err := tokenSlots(lib)
			for _, s := range slots {
				list = append(list, s.info)
			}
			if err == nil && len(slots) == 0 {
				err = sick
			}
			return err
		})
	}, nil)
	if err != nil {
		return nil, err
	}
	return list, nil
}

// tokenSlots lists the slots with an initialised token. Sick is the error of tokens that cannot be read:
// they hide no other.
func tokenSlots(lib *pkcs11.Ctx) (slots []slot, sick, err error) {
	ids, err := slotIDs(lib)
	if err != nil {
		return nil, nil, err
	}
	for _, id := range ids {
		info, err := lib.GetTokenInfo(id)
		if code := codeOf(err); code == pkcs11.CKR_TOKEN_NOT_PRESENT || code == pkcs11.CKR_TOKEN_NOT_RECOGNIZED {
			continue // pulled out since the list was made, or nothing that we could use
		}
		if err != nil {
			sick = named("C_GetTokenInfo", err)
			continue
		}
		if info.Flags&pkcs11.CKF_TOKEN_INITIALIZED == 0 {
			continue
		}
		slots = append(slots, slot{
			id: id, flags: info.Flags, sessionsMax: info.MaxRwSessionCount,
			info: tokenInfo(info),
		})
	}
	return slots, sick, nil
}

// slotIDs lists the slots with a token in them.
func slotIDs(lib *pkcs11.Ctx) ([]uint, error) {
	ids, err := lib.GetSlotList(true)
	if err != nil {
		return nil, named("C_GetSlotList", err)
	}
	if len(ids) > slotsMax {
		return nil, fmt.Errorf("the PKCS#11 library has %d slots, more than %d", len(ids), slotsMax)
	}
	return ids, nil
}

// find returns the slot of the one token that uri selects. The caller holds m.admin.
func (m *module) find(uri URI) (found *slot, err error) {
	err = m.administer(func(lib *pkcs11.Ctx) error {
		found, err = findIn(lib, uri, m.path)
		return err
	})
	return found, err
}

func findIn(lib *pkcs11.Ctx, uri URI, path string) (*slot, error) {
	slots, sick, err := tokenSlots(lib)
	if err != nil {
		return nil, err
	}
	var found []slot
	for _, s := range slots {
		if (uri.Token == "" || uri.Token == s.info.Label) && (uri.Serial == "" || uri.Serial == s.info.Serial) &&
			(uri.Manufacturer == "" || uri.Manufacturer == s.info.Manufacturer) &&
			(uri.Model == "" || uri.Model == s.info.Model) {
			found = append(found, s)
		}
	}
	name := URI{Token: uri.Token, Serial: uri.Serial, Manufacturer: uri.Manufacturer, Model: uri.Model}
	switch {
	case len(found) == 0 && sick != nil:
		return nil, fmt.Errorf("no token %s in %s, but one that cannot be read: %w: %w", name, path, sick, ErrUnavailable)
	case len(found) == 0:
		return nil, fmt.Errorf("no token %s in %s: is it plugged in, and is the library's configuration the right one? %w",
			name, path, ErrUnavailable)
	case len(found) > 1:
		return nil, fmt.Errorf("%d tokens are %s: add serial= to the URI (serials %q, %q ...)",
			len(found), name, found[0].info.Serial, found[1].info.Serial)
	case found[0].info.Serial == "":
		return nil, fmt.Errorf("token %q has no serial number: it cannot be told from another", found[0].info.Label)
	}
	info, err := lib.GetSlotInfo(found[0].id)
	if err != nil {
		return nil, named("C_GetSlotInfo", err)
	}
	found[0].hardware = info.Flags&pkcs11.CKF_HW_SLOT != 0
	return &found[0], nil
}

// InitToken makes a token labelled label in a free slot of the library at modulePath and sets both
// its PINs, which the caller clears. A label that a token of the library has is refused.
func InitToken(ctx context.Context, modulePath, label string, soPIN, userPIN []byte) (TokenInfo, error) {
	if label == "" || len(label) > labelBytesMax || !utf8.ValidString(label) ||
		strings.ContainsFunc(label, unicode.IsControl) || strings.TrimSpace(label) != label {
		return TokenInfo{}, fmt.Errorf("token label %q is not 1 to %d bytes of printable text without outer spaces", label, labelBytesMax)
	}
	m, err := loadModule(modulePath)
	if err != nil {
		return TokenInfo{}, err
	}
	var made TokenInfo
	soPIN, userPIN = bytes.Clone(soPIN), bytes.Clone(userPIN) // it goes on when ctx has ended
	err = m.manage(ctx, func() error {
		defer clear(soPIN)
		defer clear(userPIN)
		return m.administer(func(lib *pkcs11.Ctx) (err error) {
			made, err = initToken(lib, label, soPIN, userPIN)
			return err
		})
	}, nil)
	if err != nil {
		return TokenInfo{}, fmt.Errorf("initialise token %q: %w", label, err)
	}
	return made, nil
}

func initToken(lib *pkcs11.Ctx, label string, soPIN, userPIN []byte) (TokenInfo, error) {
	slots, _, err := tokenSlots(lib)
	if err != nil {
		return TokenInfo{}, err
	}
	for _, s := range slots {
		if s.info.Label == label {
			return TokenInfo{}, fmt.Errorf("%w, with serial number %s", ErrTokenExists, s.info.Serial)
		}
	}
	id, err := freeSlot(lib, soPIN, userPIN)
	if err != nil {
		return TokenInfo{}, err
	}
	if err := lib.InitToken(id, textOf(soPIN), label); err != nil {
		return TokenInfo{}, named("C_InitToken", err)
	}
	if err := initPIN(lib, id, soPIN, userPIN); err != nil {
		return TokenInfo{}, fmt.Errorf("the token exists now, without a user PIN: %w", err)
	}
	// The list is read again, because a library may add a new free slot only then.
	slots, _, err = tokenSlots(lib)
	if err != nil {
		return TokenInfo{}, err
	}
	for _, s := range slots {
		if s.info.Label == label && s.info.UserPIN {
			return s.info, nil
		}
	}
	return TokenInfo{}, errors.New("the token is not there after it was made")
}

// freeSlot finds a slot with a token that is not initialised and takes both PINs.
func freeSlot(lib *pkcs11.Ctx, pins ...[]byte) (uint, error) {
	ids, err := slotIDs(lib)
	if err != nil {
		return 0, err
	}
	for _, id := range ids {
		info, err := lib.GetTokenInfo(id)
		if err != nil || info.Flags&pkcs11.CKF_TOKEN_INITIALIZED != 0 {
			continue
		}
		for _, pin := range pins {
			if err := pinLength(info, pin); err != nil {
				return 0, err
			}
		}
		return id, nil
	}
	return 0, errors.New("the library has no slot with a token that is not initialised")
}

func initPIN(lib *pkcs11.Ctx, id uint, soPIN, userPIN []byte) (err error) {
	sh, err := lib.OpenSession(id, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	if err != nil {
		return named("C_OpenSession", err)
	}
	// Closing the token's last session logs out.
	defer func() { err = errors.Join(err, named("C_CloseSession", lib.CloseSession(sh))) }()
	if err := lib.Login(sh, pkcs11.CKU_SO, textOf(soPIN)); err != nil {
		return named("C_Login", err)
	}
	return named("C_InitPIN", lib.InitPIN(sh, textOf(userPIN)))
}

// SoftHSMPath finds SoftHSM's PKCS#11 library: $SOFTHSM2_MODULE, or else the first of the places
// where distributions put it.
func SoftHSMPath() (string, error) {
	if path := os.Getenv("SOFTHSM2_MODULE"); path != "" {
		if _, err := os.Stat(path); err != nil {
			return "", fmt.Errorf("SOFTHSM2_MODULE: %w: %w", err, ErrUnavailable)
		}
		return path, nil
	}
	for _, path := range []string{
		"/usr/lib/softhsm/libsofthsm2.so",
		"/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
		"/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
		"/usr/lib64/softhsm/libsofthsm2.so",
		"/usr/lib64/pkcs11/libsofthsm2.so",
		"/usr/local/lib/softhsm/libsofthsm2.so",
		"/opt/homebrew/lib/softhsm/libsofthsm2.so",
	} {
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("SoftHSM 2 is not installed: run make setup, or apt-get install softhsm2, or set SOFTHSM2_MODULE to libsofthsm2.so: %w",
		ErrUnavailable)
}
