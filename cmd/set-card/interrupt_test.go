package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"filippo.io/age"
	"filippo.io/age/armor"
	"go.yaml.in/yaml/v3"

	"github.com/setkit/setkit/smartcard"
	"github.com/setkit/setkit/smartcard/piv"
	"github.com/setkit/setkit/smartcard/virtual"
)

// pulled is a card that is pulled at one of the commands that it gets: before the
// card has it, or before its answer arrives.
type pulled struct {
	*virtual.Card
	after     int // this many commands
	delivered bool
	sent      int
	gone      bool
}

func (p *pulled) Transmit(ctx context.Context, cmd []byte) ([]byte, error) {
	if p.sent++; p.sent <= p.after {
		return p.Card.Transmit(ctx, cmd)
	}
	if !p.gone && p.delivered {
		if _, err := p.Card.Transmit(ctx, cmd); err != nil {
			return nil, err
		}
	}
	p.gone = true
	p.Card.Reset()
	return nil, fmt.Errorf("test: %w", smartcard.ErrCardRemoved)
}

// issuer is a bank for these tests: its HSM is a function, its letters are sealed
// for identity.
type issuer struct {
	*issuance
	identity *age.X25519Identity
	dir      string
}

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	makers := x509.NewCertPool()
	maker, err := x509.ParseCertificate(virtual.NewCard().Maker())
	if err != nil {
		t.Fatal(err)
	}
	makers.AddCert(maker)
	master := make([]byte, 32)
	rand.Read(master)
	dir := t.TempDir()
	return &issuer{&issuance{
		signature: piv.ECDSAP256, unlocking: piv.ECDSAP256, makers: makers, progress: io.Discard,
		keys:     &managementKeys{algorithm: piv.AES256, name: "aes-256", master: goCMAC(t, master)},
		delivery: &delivery{dir: dir, recipients: []age.Recipient{identity.Recipient()}},
	}, identity, dir}
}

// issue personalises the card behind t.
func (i *issuer) issue(ctx context.Context, card smartcard.Card, resume bool) (*personaliser, error) {
	p := i.personaliser(piv.New(card, piv.Options{}), holder{Name: "Alice Andersen"})
	p.resume = resume
	return p, p.run(ctx)
}

// open returns the secrets in a sealed file.
func (i *issuer) open(t *testing.T, path string) secretsFile {
	t.Helper()
	sealed, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	r, err := age.Decrypt(armor.NewReader(bytes.NewReader(sealed)), i.identity)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	var s secretsFile
	if err := yaml.Unmarshal(text, &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// good checks that a card is complete, and that its PIN and PUK are those that
// were told last.
func (i *issuer) good(t *testing.T, card *virtual.Card, what, told string) bool {
	t.Helper()
	s := i.open(t, told)
	serial := strconv.FormatUint(uint64(card.Serial()), 10)
	own, err := i.keys.of(serial)
	if err != nil {
		t.Fatal(err)
	}
	err = piv.New(card, piv.Options{}).Do(t.Context(), func(tx *piv.Tx) error {
		if left, err := factorySecrets(tx); err != nil || len(left) > 0 {
			return fmt.Errorf("factory's %q is left, %w", left, err)
		}
		if pin, err := tx.PINInfo(); err != nil || pin.TriesLeft != 3 || pin.Tries != 3 {
			return fmt.Errorf("PIN %+v, %w", pin, err)
		}
		if puk, err := tx.PUKInfo(); err != nil || puk.TriesLeft != 3 || puk.Tries != 3 {
			return fmt.Errorf("PUK %+v, %w", puk, err)
		}
		if err := tx.Authenticate(own); err != nil {
			return err
		}
		if _, err := tx.GUID(); err != nil {
			return err
		}
		if _, err := tx.CCC(); err != nil {
			return err
		}
		parent, err := tx.Certificate(piv.SlotSignature)
		if err != nil {
			return err
		}
		child, err := tx.Certificate(piv.SlotKeyManagement)
		if err != nil {
			return err
		}
		if err := parent.CheckSignature(child.SignatureAlgorithm, child.RawTBSCertificate, child.Signature); err != nil {
			return err
		}
		if err := tx.UnblockPIN([]byte(s.PUK), []byte(s.PIN)); err != nil {
			return err
		}
		return i.uses(tx, s.PIN, parent, child)
	})
	if err != nil || s.Serial != serial {
		t.Errorf("%s: card %s, told of card %s: %v", what, serial, s.Serial, err)
		return false
	}
	return true
}

// uses uses both keys.
func (i *issuer) uses(tx *piv.Tx, pin string, parent, child *x509.Certificate) error {
	signer, err := tx.Signer(piv.SlotSignature, parent.PublicKey)
	if err != nil {
		return err
	}
	if err := tx.VerifyPIN([]byte(pin)); err != nil {
		return err
	}
	digest := sha256.Sum256([]byte("order"))
	sig, err := signer.Sign(nil, digest[:], crypto.SHA256)
	if err != nil || !ecdsa.VerifyASN1(parent.PublicKey.(*ecdsa.PublicKey), digest[:], sig) {
		return fmt.Errorf("signature: %w", err)
	}
	key, err := tx.KeyExchanger(piv.SlotKeyManagement, child.PublicKey)
	if err != nil {
		return err
	}
	peer, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	want, err := peer.ECDH(key.PublicKey())
	if err != nil {
		return err
	}
	if got, err := key.ECDH(peer.PublicKey()); err != nil || !bytes.Equal(got, want) {
		return fmt.Errorf("agreement: %w", err)
	}
	return nil
}

// TestInterrupted pulls the card at every single command of a personalisation,
// before the card has it and after, and continues. Then it does the same with
// every command of what continues a card that has its PUK but not its PIN, which
// is the one that has something to undo.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	bank := newIssuer(t)
	whole := &pulled{Card: virtual.NewCard(), after: 1 << 20}
	if p, err := bank.issue(t.Context(), whole, false); err != nil || !p.Attested || p.WasComplete {
		t.Fatalf("uninterrupted: %v, attested %v, complete before %v", err, p.Attested, p.WasComplete)
	}
	count, complete, twice := 0, 0, 0
	for n := range whole.sent {
		for _, delivered := range []bool{false, true} {
			card := virtual.NewCard()
			what := fmt.Sprintf("command %d of %d, delivered %v", n+1, whole.sent, delivered)
			first, err := bank.issue(t.Context(), &pulled{Card: card, after: n, delivered: delivered}, false)
			if err != nil && !errors.Is(err, smartcard.ErrCardRemoved) {
				t.Fatalf("%s: %v, want ErrCardRemoved", what, err)
			}
			state := halfWay(t, card)
			again, err := bank.issue(t.Context(), card, true)
			if err != nil {
				t.Fatalf("%s: continued: %v", what, err)
			}
			told := again.Secrets
			if again.WasComplete {
				complete++
				told = first.Secrets
			}
			if !bank.good(t, card, what, told) {
				return
			}
			count++
			if state == "PUK only" {
				twice += bank.continuedTwice(t, n, delivered)
			}
		}
	}
	t.Logf("%d interruptions of %d commands, each continued; %d cards were complete; and %d interruptions of what continues", count, whole.sent, complete, twice)
	if count != 2*whole.sent || whole.sent < 40 || complete == 0 || twice == 0 {
		t.Errorf("%d interruptions of %d commands, %d complete, %d twice", count, whole.sent, complete, twice)
	}
}

// halfWay says how far PUK and PIN of a card are.
func halfWay(t *testing.T, card *virtual.Card) string {
	t.Helper()
	var pin, puk bool
	err := piv.New(card, piv.Options{}).Do(t.Context(), func(tx *piv.Tx) (err error) {
		pin, puk, err = factoryReferences(tx)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	switch {
	case pin && !puk:
		return "PUK only"
	case pin:
		return "neither"
	}
	return "both"
}

// continuedTwice pulls the card again at every command of what continues it.
func (i *issuer) continuedTwice(t *testing.T, n int, delivered bool) (count int) {
	t.Helper()
	for m := 0; ; m++ {
		for _, again := range []bool{false, true} {
			card := virtual.NewCard()
			what := fmt.Sprintf("command %d, delivered %v, then %d, %v", n+1, delivered, m+1, again)
			if _, err := i.issue(t.Context(), &pulled{Card: card, after: n, delivered: delivered}, false); !errors.Is(err, smartcard.ErrCardRemoved) {
				t.Fatalf("%s: %v", what, err)
			}
			transport := &pulled{Card: card, after: m, delivered: again}
			second, err := i.issue(t.Context(), transport, true)
			if !transport.gone {
				return count
			}
			if err != nil && !errors.Is(err, smartcard.ErrCardRemoved) {
				t.Fatalf("%s: %v, want ErrCardRemoved", what, err)
			}
			third, err := i.issue(t.Context(), card, true)
			if err != nil {
				t.Fatalf("%s: continued: %v", what, err)
			}
			told := third.Secrets
			if third.WasComplete {
				told = second.Secrets
			}
			if !i.good(t, card, what, told) {
				t.FailNow()
			}
			count++
		}
	}
}

// Cards that no personalisation has begun are not continued.
func TestResumeRefuses(t *testing.T) {
	t.Parallel()
	bank := newIssuer(t)
	wanted := map[string]string{"PIN": "not by a personalisation", "management key": errForeign.Error(), "PIN tries": "1 tries are left"}
	for name, spoil := range map[string]func(*piv.Tx) error{
		"PIN": func(tx *piv.Tx) error { return tx.ChangePIN([]byte(factoryPIN), []byte("864209")) },
		"management key": func(tx *piv.Tx) error {
			if err := tx.Authenticate(piv.ManagementKey{Key: piv.FactoryManagementKey()}); err != nil {
				return err
			}
			return tx.SetManagementKey(piv.ManagementKey{Algorithm: piv.AES256, Key: bytes.Repeat([]byte{7}, 32)})
		},
		"PIN tries": func(tx *piv.Tx) error {
			return errors.Join(ignore(tx.VerifyPIN([]byte("000000"))), ignore(tx.VerifyPIN([]byte("000000"))))
		},
	} {
		card := virtual.NewCard()
		if err := piv.New(card, piv.Options{}).Do(t.Context(), spoil); err != nil {
			t.Fatal(err)
		}
		if _, err := bank.issue(t.Context(), card, true); err == nil || !strings.Contains(err.Error(), wanted[name]) {
			t.Errorf("a card with another %s: %v, want %q", name, err, wanted[name])
		}
		if entries, err := os.ReadDir(bank.dir); err != nil || len(entries) > 0 {
			t.Errorf("%s: %d files of secrets, %v; want none for a card that was refused", name, len(entries), err)
		}
		// A reset makes it usable.
		p := bank.personaliser(piv.New(card, piv.Options{}), holder{})
		p.force = true
		if err := p.run(t.Context()); err != nil {
			t.Errorf("%s: after a reset: %v", name, err)
		} else {
			bank.good(t, card, name, p.Secrets)
			if err := os.Remove(p.Secrets); err != nil {
				t.Error(err)
			}
		}
	}
}

func ignore(error) error { return nil }

// A maker vouches for its cards' keys only.
func TestAttestation(t *testing.T) {
	t.Parallel()
	bank := newIssuer(t)
	bank.makers = x509.NewCertPool() // of another maker
	card := virtual.NewCard()
	_, err := bank.issue(t.Context(), card, false)
	if !errors.Is(err, errNotAttested) {
		t.Errorf("got %v, want errNotAttested", err)
	}
	if got := halfWay(t, card); got != "neither" {
		t.Errorf("the card that was refused has new secrets: %s", got)
	}
	if entries, err := filepath.Glob(filepath.Join(bank.dir, "*")); err != nil || len(entries) > 0 {
		t.Errorf("secrets were told of a card that was refused: %q, %v", entries, err)
	}
}

// relaying is a false card that has a real one vouch for its keys.
type relaying struct {
	*virtual.Card
	real    *virtual.Card
	relayed bool // the answer that is being fetched is the real one's
}

func (r *relaying) Transmit(ctx context.Context, cmd []byte) ([]byte, error) {
	if cmd[1] == 0xA4 {
		if _, err := r.real.Transmit(ctx, cmd); err != nil {
			return nil, err
		}
	}
	r.relayed = cmd[1] == 0xF9 || bytes.Contains(cmd, []byte{0x5F, 0xFF, 0x01}) || cmd[1] == 0xC0 && r.relayed
	if r.relayed {
		return r.real.Transmit(ctx, cmd)
	}
	return r.Card.Transmit(ctx, cmd)
}

// A true statement about another card's key is none about this one's.
func TestRelayedAttestation(t *testing.T) {
	t.Parallel()
	bank := newIssuer(t)
	real := virtual.NewCard()
	if _, err := bank.issue(t.Context(), real, false); err != nil {
		t.Fatal(err)
	}
	_, err := bank.issue(t.Context(), &relaying{Card: virtual.NewCard(), real: real}, false)
	if !errors.Is(err, errNotAttested) || !strings.Contains(err.Error(), "another key") {
		t.Errorf("got %v, want errNotAttested for another key", err)
	}
}
