package piv_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/setkit/setkit/smartcard"
	"github.com/setkit/setkit/smartcard/iso7816"
	"github.com/setkit/setkit/smartcard/piv"
	"github.com/setkit/setkit/smartcard/virtual"
)

// unhex decodes what a test has written down.
func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// scripted is a card that has an answer for each instruction.
type scripted struct {
	smartcard.Card
	answers map[byte][]byte
}

func (s scripted) Transmit(_ context.Context, cmd []byte) ([]byte, error) {
	if answer, ok := s.answers[cmd[1]]; ok {
		return bytes.Clone(answer), nil
	}
	return []byte{0x6D, 0x00}, nil
}

// scriptedCard returns the application of a card that answers SELECT and GET
// DATA with these.
func scriptedCard(t testing.TB, selected, object string) *piv.Card {
	return piv.New(scripted{virtual.NewCard(), map[byte][]byte{
		0xA4: append(unhex(t, selected), 0x90, 0x00), 0xCB: append(unhex(t, object), 0x90, 0x00),
	}}, piv.Options{})
}

func TestApplication(t *testing.T) {
	label := hex.EncodeToString([]byte("PIV"))
	for _, tt := range []struct {
		name, answer string
		want         piv.Application
		malformed    bool
	}{
		{"least", "61 11 4F 06 000010000100 79 07 4F 05 A000000308",
			piv.Application{PIX: []byte{0, 0, 0x10, 0, 1, 0}}, false},
		{"full", "61 2A 4F 06 000010000100 79 07 4F 05 A000000308 50 03 " + label + "5F50 03" + label + "AC 0C 80 01 07 80 01 11 80 01 2E 06 01 00",
			piv.Application{PIX: []byte{0, 0, 0x10, 0, 1, 0}, Label: "PIV", URL: "PIV", Algorithms: []piv.Algorithm{piv.RSA2048, piv.ECDSAP256, 0x2E}}, false},
		{"nothing", "", piv.Application{}, true},
		{"no name", "61 00", piv.Application{}, true},
		{"cut off", "61 11 4F 06 0000", piv.Application{}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			do(t, scriptedCard(t, tt.answer, ""), func(tx *piv.Tx) error {
				got, err := tx.Application()
				if errors.Is(err, iso7816.ErrMalformed) != tt.malformed || err != nil && !tt.malformed {
					t.Errorf("got %v", err)
				}
				if diff := cmp.Diff(tt.want, got); diff != "" {
					t.Error(diff)
				}
				return nil
			})
		})
	}
	card, recorder := newCard(t)
	do(t, card, func(tx *piv.Tx) error {
		app, err := tx.Application()
		if len(app.PIX) < 4 {
			t.Errorf("got %+v", app)
		}
		return err
	})
	if n := len(recorder.Take()); n != 1 {
		t.Errorf("%d commands, want 1", n)
	}
}

func TestDiscovery(t *testing.T) {
	const id = "4F 0B A000000308000010000100"
	aid := unhex(t, id)[2:]
	for _, tt := range []struct {
		name, answer string
		want         piv.Discovery
		malformed    bool
	}{
		{"own PIN", "7E 12" + id + "5F2F 02 4000", piv.Discovery{ApplicationID: aid, PIN: true}, false},
		{"global first", "7E 12" + id + "5F2F 02 6020", piv.Discovery{ApplicationID: aid, PIN: true, GlobalPIN: true, GlobalFirst: true}, false},
		{"fingerprint", "7E 12" + id + "5F2F 02 7010", piv.Discovery{ApplicationID: aid, PIN: true, GlobalPIN: true, OnCardMatch: true}, false},
		{"no policy", "7E 0D" + id, piv.Discovery{}, true},
		{"short policy", "7E 11" + id + "5F2F 01 40", piv.Discovery{}, true},
		{"wrapped", "53 14 7E 12" + id + "5F2F 02 4000", piv.Discovery{}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			do(t, scriptedCard(t, "", tt.answer), func(tx *piv.Tx) error {
				got, err := tx.Discovery()
				if errors.Is(err, iso7816.ErrMalformed) != tt.malformed || err != nil && !tt.malformed {
					t.Errorf("got %v", err)
				}
				if diff := cmp.Diff(tt.want, got); diff != "" {
					t.Error(diff)
				}
				return nil
			})
		})
	}
	card, _ := newCard(t)
	do(t, card, func(tx *piv.Tx) error {
		d, err := tx.Discovery()
		if !d.PIN {
			t.Errorf("got %+v", d)
		}
		return err
	})
}

func TestKeyHistory(t *testing.T) {
	card, _ := newCard(t)
	err := card.Do(t.Context(), func(tx *piv.Tx) error {
		_, err := tx.KeyHistory()
		return err
	})
	if !errors.Is(err, smartcard.StatusNotFound) {
		t.Errorf("fresh card: got %v, want 6A82", err)
	}
	for _, want := range []piv.KeyHistory{{}, {OnCard: 2}, {OnCard: 3, OffCard: 17, URL: "http://example.com/keys"}} {
		administer(t, card, func(tx *piv.Tx) error { return tx.PutKeyHistory(want) })
		do(t, card, func(tx *piv.Tx) error {
			got, err := tx.KeyHistory()
			if got != want || len(got.Slots()) != want.OnCard+want.OffCard {
				t.Errorf("got %+v, %v, want %+v", got, got.Slots(), want)
			}
			return err
		})
	}
	for _, bad := range []piv.KeyHistory{{OnCard: -1}, {OnCard: 21}, {OnCard: 20, OffCard: 1, URL: "x"}, {OffCard: 1}, {URL: strings.Repeat("x", 119)}} {
		if err := card.Do(t.Context(), func(tx *piv.Tx) error { return tx.PutKeyHistory(bad) }); err == nil || errors.Is(err, smartcard.StatusSecurity) {
			t.Errorf("%+v: got %v, want an error before the card is asked", bad, err)
		}
	}
	for _, answer := range []string{"53 03 C1 01 01", "53 08 C1 01 FF C2 01 01 FE 00", "53 08 C1 01 00 C2 01 01 FE 00", "53 09 C1 02 0001 C2 01 00 FE 00"} {
		do(t, scriptedCard(t, "", answer), func(tx *piv.Tx) error {
			if h, err := tx.KeyHistory(); !errors.Is(err, iso7816.ErrMalformed) {
				t.Errorf("%s: got %+v, %v, want ErrMalformed", answer, h, err)
			}
			return nil
		})
	}
}

func TestIdentity(t *testing.T) {
	card, _ := newCard(t)
	guid := piv.NewGUID()
	expires := time.Date(2030, 12, 31, 0, 0, 0, 0, time.UTC)
	administer(t, card, func(tx *piv.Tx) error {
		if err := tx.PutObject(piv.ObjectCHUID, piv.NewCHUID(guid, expires)); err != nil {
			return err
		}
		return tx.PutObject(piv.ObjectCCC, piv.NewCCC(guid))
	})
	do(t, card, func(tx *piv.Tx) error {
		chuid, err := tx.CHUID()
		if err != nil {
			return err
		}
		if chuid.GUID != guid || !chuid.Expires.Equal(expires) || len(chuid.FASCN) != 25 || len(chuid.Signature) != 0 || chuid.Holder != (piv.GUID{}) {
			t.Errorf("got %+v", chuid)
		}
		ccc, err := tx.CCC()
		if ccc.DataModel != 0x10 || len(ccc.CardID) != 21 {
			t.Errorf("got %+v", ccc)
		}
		return err
	})
	holder := "36 10 000102030405060708090A0B0C0D0E0F"
	do(t, scriptedCard(t, "", "53 2C 34 10 "+strings.Repeat("11", 16)+holder+"3E 02 3000 FE 00 41 00"), func(tx *piv.Tx) error {
		got, err := tx.CHUID()
		want := piv.CHUID{GUID: piv.GUID(bytes.Repeat([]byte{0x11}, 16)), Holder: piv.GUID(unhex(t, holder)[2:]), Signature: []byte{0x30, 0}}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		return err
	})
	for _, answer := range []string{"53 02 FE 00", "53 03 34 01 00", "53 16 34 10 " + strings.Repeat("11", 16) + "35 02 3030"} {
		do(t, scriptedCard(t, "", answer), func(tx *piv.Tx) error {
			if c, err := tx.CHUID(); !errors.Is(err, iso7816.ErrMalformed) {
				t.Errorf("%s: got %+v, %v, want ErrMalformed", answer, c, err)
			}
			if c, err := tx.CCC(); !errors.Is(err, iso7816.ErrMalformed) {
				t.Errorf("%s: got %+v, %v, want ErrMalformed", answer, c, err)
			}
			return nil
		})
	}
}

// TestLargeCertificate stores one that only fits compressed.
func TestLargeCertificate(t *testing.T) {
	card, _ := newCard(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{10, 1000, 5000, 12000} {
		template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: strings.Repeat("x", size)}, NotAfter: time.Now().Add(time.Hour)}
		der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		administer(t, card, func(tx *piv.Tx) error {
			err := tx.PutCertificate(piv.SlotAuthentication, cert)
			if tooLarge := len(der) > 16384; tooLarge {
				if err == nil {
					t.Errorf("%d bytes: no error", len(der))
				}
				return nil
			}
			if err != nil {
				return err
			}
			got, err := tx.Certificate(piv.SlotAuthentication)
			if err == nil && !got.Equal(cert) {
				t.Errorf("%d bytes: another certificate came back", len(der))
			}
			object, objectErr := tx.Object(0x5FC105)
			if compressed := len(object) < len(der); compressed != (len(der) > 1856) {
				t.Errorf("%d bytes of certificate became %d", len(der), len(object))
			}
			return errors.Join(err, objectErr)
		})
	}
	administer(t, card, func(tx *piv.Tx) error { return tx.DeleteCertificate(piv.SlotAuthentication) })
	err = card.Do(t.Context(), func(tx *piv.Tx) error {
		_, err := tx.Certificate(piv.SlotAuthentication)
		return err
	})
	if !errors.Is(err, smartcard.StatusNotFound) {
		t.Errorf("deleted: got %v, want 6A82", err)
	}
}
