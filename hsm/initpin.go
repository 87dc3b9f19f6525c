package hsm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"unsafe"

	"github.com/miekg/pkcs11"
)

// InitPIN has the security officer, whose PIN is soPIN, set the user PIN of the token that uri names: of a
// token without one, or whose user PIN is locked or lost. The caller clears both PINs. The officer's is
// tried once: if the token refuses it, the error is a *PINError. No user may be logged in to the token in
// this process.
func InitPIN(ctx context.Context, uri URI, soPIN, userPIN []byte) (TokenInfo, error) {
	m, err := loadModule(uri.ModulePath)
	if err != nil {
		return TokenInfo{}, err
	}
	soPIN, userPIN = slices.Clone(soPIN), slices.Clone(userPIN) // a change that is under way outlives ctx
	var info TokenInfo
	err = m.manage(ctx, func() error {
		defer clear(soPIN)
		defer clear(userPIN)
		return m.administer(func(lib *pkcs11.Ctx) error {
			s, err := findIn(lib, uri, m.path)
			if err != nil {
				return err
			}
			if err := officerSetsPIN(lib, s, soPIN, userPIN); err != nil {
				return fmt.Errorf("set the user PIN of token %q: %w", s.info.Label, err)
			}
			after, err := lib.GetTokenInfo(s.id)
			if err != nil {
				return named("C_GetTokenInfo", err)
			}
			info = tokenInfo(after)
			return nil
		})
	}, nil)
	if err != nil {
		return TokenInfo{}, err
	}
	return info, nil
}

func officerSetsPIN(lib *pkcs11.Ctx, s *slot, soPIN, userPIN []byte) (err error) {
	limits, err := lib.GetTokenInfo(s.id)
	if err != nil {
		return named("C_GetTokenInfo", err)
	}
	if err := pinLength(limits, userPIN); err != nil {
		return err
	}
	if err := pinLength(limits, soPIN); err != nil {
		return fmt.Errorf("the security officer's PIN: %w", err)
	}
	sh, err := lib.OpenSession(s.id, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	if err != nil {
		return named("C_OpenSession", err)
	}
	// Closing the token's last session logs out.
	defer func() { err = errors.Join(err, named("C_CloseSession", lib.CloseSession(sh))) }()
	if err := lib.Login(sh, pkcs11.CKU_SO, unsafe.String(unsafe.SliceData(soPIN), len(soPIN))); err != nil {
		return officerRefused(lib, s, err)
	}
	return named("C_InitPIN", lib.InitPIN(sh, unsafe.String(unsafe.SliceData(userPIN), len(userPIN))))
}

// officerRefused is the error of the officer's login.
func officerRefused(lib *pkcs11.Ctx, s *slot, err error) error {
	code := codeOf(err)
	switch code {
	case pkcs11.CKR_PIN_INCORRECT, pkcs11.CKR_PIN_INVALID, pkcs11.CKR_PIN_LEN_RANGE:
	case pkcs11.CKR_PIN_LOCKED:
		return errors.New("the security officer's PIN is locked (CKR_PIN_LOCKED): nobody can set the user PIN any more")
	default:
		return named("C_Login", err)
	}
	e := &PINError{Token: s.info.Label, Code: codeName(code)}
	if info, err := lib.GetTokenInfo(s.id); err == nil {
		switch {
		case info.Flags&pkcs11.CKF_SO_PIN_FINAL_TRY != 0:
			e.Tries = TriesOneLeft
		case info.Flags&pkcs11.CKF_SO_PIN_COUNT_LOW != 0:
			e.Tries = TriesReduced
		}
	}
	return fmt.Errorf("the security officer's PIN: %w", e)
}
