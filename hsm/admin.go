package hsm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/miekg/pkcs11"
)

// slotsMax bounds the slots of a library that are looked at.
const slotsMax = 4096

// TokenInfo tells which token something is.
type TokenInfo struct {
	Label        string `json:"label"`
	Serial       string `json:"serial"`
	Manufacturer string `json:"manufacturer"`
	Model        string `json:"model"`
	UserPIN      bool   `json:"userPIN"`   // a user PIN is set
	PINLocked    bool   `json:"pinLocked"` // too many wrong user PINs
}

// slot is a slot with an initialised token in it, as long as the library stays initialised.
type slot struct {
	id          uint
	flags       uint
	sessionsMax uint
	info        TokenInfo
}

// Tokens lists the initialised tokens of the PKCS#11 library at modulePath. It needs no PIN.
func Tokens(ctx context.Context, modulePath string) ([]TokenInfo, error) {
	m, err := loadModule(modulePath)
	if err != nil {
		return nil, err
	}
	if err := m.admin.lock(ctx); err != nil {
		return nil, err
	}
	defer m.admin.unlock()
	list := []TokenInfo{}
	err = m.administer(func(lib *pkcs11.Ctx) error {
		slots, err := tokenSlots(lib)
		for _, s := range slots {
			list = append(list, s.info)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return list, nil
}

func tokenSlots(lib *pkcs11.Ctx) ([]slot, error) {
	ids, err := slotIDs(lib)
	if err != nil {
		return nil, err
	}
	var slots []slot
	for _, id := range ids {
		info, err := lib.GetTokenInfo(id)
		if code := codeOf(err); code == pkcs11.CKR_TOKEN_NOT_PRESENT || code == pkcs11.CKR_TOKEN_NOT_RECOGNIZED {
			continue // pulled out since the list was made, or nothing that we could use
		}
		if err != nil {
			return nil, named("C_GetTokenInfo", err)
		}
		if info.Flags&pkcs11.CKF_TOKEN_INITIALIZED == 0 {
			continue
		}
		slots = append(slots, slot{
			id: id, flags: info.Flags, sessionsMax: info.MaxRwSessionCount,
			info: TokenInfo{
				Label: info.Label, Serial: info.SerialNumber,
				Manufacturer: info.ManufacturerID, Model: info.Model,
				UserPIN:   info.Flags&pkcs11.CKF_USER_PIN_INITIALIZED != 0,
				PINLocked: info.Flags&pkcs11.CKF_USER_PIN_LOCKED != 0,
			},
		})
	}
	return slots, nil
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
func (m *module) find(uri URI) (*slot, error) {
	var found []slot
	err := m.administer(func(lib *pkcs11.Ctx) error {
		slots, err := tokenSlots(lib)
		for _, s := range slots {
			if (uri.Token == "" || uri.Token == s.info.Label) && (uri.Serial == "" || uri.Serial == s.info.Serial) &&
				(uri.Manufacturer == "" || uri.Manufacturer == s.info.Manufacturer) &&
				(uri.Model == "" || uri.Model == s.info.Model) {
				found = append(found, s)
			}
		}
		return err
	})
	name := URI{Token: uri.Token, Serial: uri.Serial, Manufacturer: uri.Manufacturer, Model: uri.Model}
	switch {
	case err != nil:
		return nil, err
	case len(found) == 0:
		return nil, fmt.Errorf("no token %s in %s: is it plugged in, and is the library's configuration the right one? %w",
			name, m.path, ErrUnavailable)
	case len(found) > 1:
		return nil, fmt.Errorf("%d tokens are %s: add serial= to the URI (serials %q, %q ...)",
			len(found), name, found[0].info.Serial, found[1].info.Serial)
	case found[0].info.Serial == "":
		return nil, fmt.Errorf("token %q has no serial number: it cannot be told from another", found[0].info.Label)
	}
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
	if err := m.admin.lock(ctx); err != nil {
		return TokenInfo{}, err
	}
	defer m.admin.unlock()
	var made TokenInfo
	err = m.administer(func(lib *pkcs11.Ctx) error {
		made, err = initToken(lib, label, soPIN, userPIN)
		return err
	})
	if err != nil {
		return TokenInfo{}, fmt.Errorf("initialise token %q: %w", label, err)
	}
	return made, nil
}

func initToken(lib *pkcs11.Ctx, label string, soPIN, userPIN []byte) (TokenInfo, error) {
	slots, err := tokenSlots(lib)
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
	if err := lib.InitToken(id, string(soPIN), label); err != nil {
		return TokenInfo{}, named("C_InitToken", err)
	}
	if err := initPIN(lib, id, soPIN, userPIN); err != nil {
		return TokenInfo{}, fmt.Errorf("the token exists now, without a user PIN: %w", err)
	}
	// The list is read again, because a library may add a new free slot only then.
	slots, err = tokenSlots(lib)
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
			if n := uint(len(pin)); n < info.MinPinLen || n > info.MaxPinLen || n == 0 {
				return 0, fmt.Errorf("a PIN of %d bytes: the token takes %d to %d", n, info.MinPinLen, info.MaxPinLen)
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
	if err := lib.Login(sh, pkcs11.CKU_SO, string(soPIN)); err != nil {
		return named("C_Login", err)
	}
	return named("C_InitPIN", lib.InitPIN(sh, string(userPIN)))
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
