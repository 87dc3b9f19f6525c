package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"time"

	"github.com/setkit/setkit/smartcard"
	"github.com/setkit/setkit/smartcard/piv"
)

// farFuture is RFC 5280's date for "no end": the placeholder certificates and the
// CHUID don't expire. What ends is the cardholder's certificate.
var farFuture = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)

// stepCount is how many steps a personalisation has.
const stepCount = 8

// factoryTries is how many tries PIN and PUK have on cards that are new.
const factoryTries = 3

// A personaliser takes one card from the factory's state to a cardholder's. The
// order of its steps is such that a card that is pulled between any two commands
// can be continued:
//
//	keys, attested    with the factory's management key and PIN, which
//	objects           lead back from here in any case
//	certificates      signed by 9c with the factory's PIN
//	secrets told      nothing of them is on the card yet
//	management key    it can be derived again; a random one has been told
//	PUK, then PIN     last. With a new PUK but the factory's PIN both are put back,
//	                  and others told: what was told first is void. With a new PIN
//	                  the card is complete, and what was told holds
type personaliser struct {
	*issuance
	card   *piv.Card
	holder holder
	serial string
	resume bool // what is done already is left
	force  bool

	// wrote is called when secrets have been told, before the card gets them.
	wrote func(serial, where string) error

	steps   int
	begun   bool // the card isn't as it was before
	own     piv.ManagementKey
	secrets *secrets
	outcome
}

// outcome is what is known at the end.
type outcome struct {
	Serial       string `json:"serial"`
	Secrets      string `json:"secrets,omitempty"`      // where they were told
	WasComplete  bool   `json:"wasComplete"`            // its PIN and PUK are those that were told before
	Attested     bool   `json:"attested"`               // by the maker of the card
	Unattested   string `json:"notAttested,omitempty"`  // why
	SignatureKey string `json:"signatureKeySHA256"`     // of the SubjectPublicKeyInfo
	UnlockingKey string `json:"keyManagementKeySHA256"` // the same
}

func (p *personaliser) step(format string, args ...any) {
	p.steps++
	fmt.Fprintf(p.progress, "[%d/%d] %s\n", p.steps, stepCount, fmt.Sprintf(format, args...))
}

// run does all of the work.
func (p *personaliser) run(ctx context.Context) error {
	if err := p.card.Do(ctx, p.look); err != nil {
		return err
	}
	var err error
	if p.own, err = p.keys.of(p.serial); err != nil {
		return err
	}
	defer clear(p.own.Key)
	if p.force {
		p.begun = true
		if err := p.card.Do(ctx, (*piv.Tx).FactoryReset); err != nil {
			return err
		}
		fmt.Fprintf(p.progress, "card %s reset\n", p.serial)
	}
	if err := p.card.Do(ctx, p.prepare); err != nil {
		return err
	}
	if !p.WasComplete {
		if p.secrets, err = p.sources.make(piv.ManagementKey{Algorithm: p.own.Algorithm, Key: bytes.Clone(p.own.Key)}); err != nil {
			return err
		}
		defer p.secrets.clear()
		if err := p.tell(); err != nil {
			return err
		}
		if err := p.card.Do(context.WithoutCancel(ctx), p.lock); err != nil {
			return err
		}
	}
	p.step("looking for factory secrets")
	return p.card.Do(ctx, p.verify)
}

// look refuses a card that is no fit for what was asked.
func (p *personaliser) look(tx *piv.Tx) (err error) {
	if p.serial, err = tx.Serial(); err != nil {
		return err
	}
	p.outcome.Serial, p.Unattested = p.serial, p.unattested
	if p.force {
		return nil
	}
	fresh, err := isFresh(tx)
	if err != nil {
		return err
	}
	if !fresh && !p.resume {
		return fmt.Errorf("card %s: %w", p.serial, errInUse)
	}
	return nil
}

// errInUse means that a card isn't new.
var errInUse = errors.New("the card is personalised already, or was begun")

// resetHint is what always helps, but for what is on the card.
const resetHint = "set-card reset makes it usable, without its keys"

// isFresh says if a card has neither keys nor a name, and the factory's PIN and PUK as
// far as it tells.
func isFresh(tx *piv.Tx) (bool, error) {
	_, err := tx.GUID()
	for _, slot := range []piv.Slot{piv.SlotSignature, piv.SlotKeyManagement} {
		if errors.Is(err, smartcard.StatusNotFound) {
			_, err = tx.KeyInfo(slot)
		}
	}
	if err == nil || !errors.Is(err, smartcard.StatusNotFound) {
		return false, err
	}
	pin, puk, err := factoryReferences(tx)
	if errors.Is(err, piv.ErrUnsupported) {
		return true, nil
	}
	return pin && puk, err
}

// factoryReferences says if PIN and PUK are the factory's.
func factoryReferences(tx *piv.Tx) (pin, puk bool, err error) {
	pinInfo, err := tx.PINInfo()
	if err != nil {
		return false, false, err
	}
	pukInfo, err := tx.PUKInfo()
	return pinInfo.Default, pukInfo.Default, err
}

// errForeign means that the card has a management key that isn't known here.
var errForeign = errors.New("its management key is neither the factory's nor the issuer's")

// authenticate proves the factory's management key if the card has that, or else
// own, and says which. No try is counted.
func authenticate(tx *piv.Tx, own piv.ManagementKey) (factory bool, err error) {
	info, err := tx.ManagementKeyInfo()
	switch {
	case errors.Is(err, piv.ErrUnsupported):
		err = tx.Authenticate(piv.ManagementKey{Key: piv.FactoryManagementKey()})
		if !refusedKey(err) {
			return true, err
		}
	case err != nil:
		return false, err
	case info.Default:
		return true, tx.Authenticate(piv.ManagementKey{Key: piv.FactoryManagementKey()})
	}
	if len(own.Key) == 0 {
		return false, errForeign
	}
	if err = tx.Authenticate(own); refusedKey(err) {
		return false, fmt.Errorf("%w: %w", errForeign, err)
	}
	return false, err
}

// refusedKey says if the card has another management key, or one of another cipher.
func refusedKey(err error) bool {
	return errors.Is(err, smartcard.StatusSecurity) || errors.Is(err, smartcard.StatusWrongParameters)
}

// prepare makes keys, objects and certificates.
func (p *personaliser) prepare(tx *piv.Tx) error {
	factory, err := authenticate(tx, p.own)
	if err != nil {
		return fmt.Errorf("card %s: %w", p.serial, err)
	}
	if p.resume {
		if err := p.checkReferences(tx, factory); err != nil {
			return fmt.Errorf("card %s: %w: %s", p.serial, err, resetHint)
		}
	}
	p.begun = p.begun || !p.WasComplete
	signature, err := p.key(tx, piv.SlotSignature, p.signature)
	if err != nil {
		return err
	}
	unlocking, err := p.key(tx, piv.SlotKeyManagement, p.unlocking)
	if err != nil {
		return err
	}
	if p.Attested = p.makers != nil; !p.Attested {
		fmt.Fprintln(p.progress, "that the keys were made on the card is not checked: no --attestation-root")
	}
	if p.SignatureKey, err = keyDigest(signature); err != nil {
		return err
	}
	if p.UnlockingKey, err = keyDigest(unlocking); err != nil {
		return err
	}
	if err := p.identify(tx); err != nil {
		return err
	}
	return p.certify(tx, signature, unlocking)
}

// checkReferences finds out how far an interrupted personalisation has come with
// PUK and PIN.
func (p *personaliser) checkReferences(tx *piv.Tx, factory bool) error {
	pin, puk, err := factoryReferences(tx)
	switch {
	case errors.Is(err, piv.ErrUnsupported):
		return fmt.Errorf("it doesn't tell whether its PIN and PUK are the factory's: %w", err)
	case err != nil:
		return err
	case pin && puk:
		return nil
	case pin: // nobody may know the new PUK, but the management key and the factory's PIN undo it
		if err := verifyFactoryPIN(tx); err != nil {
			return err
		}
		fmt.Fprintf(p.progress, "card %s has a PUK but no PIN yet: both are set anew, and what was told of them is void\n", p.serial)
		return tx.SetTries(factoryTries, factoryTries)
	case puk || factory:
		return errors.New("its PIN was changed, but not by a personalisation")
	}
	p.WasComplete = true
	fmt.Fprintf(p.progress, "card %s has its PIN and PUK already: what was told of them holds\n", p.serial)
	return nil
}

// verifyFactoryPIN proves the factory's PIN, with which certificates are signed,
// but never with the last try.
func verifyFactoryPIN(tx *piv.Tx) error {
	n, err := tx.PINTries()
	if err == nil && n >= 0 && n <= 1 {
		err = fmt.Errorf("%d tries are left for the PIN", n)
	}
	if err == nil {
		err = tx.VerifyPIN([]byte(factoryPIN))
	}
	if err != nil {
		return fmt.Errorf("with the factory's PIN: %w", err)
	}
	return nil
}

// key returns the public key of a slot, which the card has generated, and for
// which its maker vouches if there is one.
func (p *personaliser) key(tx *piv.Tx, slot piv.Slot, a piv.Algorithm) (crypto.PublicKey, error) {
	public, err := p.keyThere(tx, slot, a)
	switch {
	case err != nil:
		return nil, err
	case public != nil:
		p.step("the %v key of slot %v is there", a, slot)
	case p.WasComplete:
		return nil, fmt.Errorf("card %s has no %v key of its own in slot %v: %s", p.serial, a, slot, resetHint)
	default:
		p.step("generating the %v key of slot %v", a, slot)
		if public, err = tx.Generate(slot, a, piv.PINPolicyDefault); err != nil {
			return nil, err
		}
	}
	if p.makers == nil {
		return public, nil
	}
	if err := p.checkAttestation(tx, slot, public); err != nil {
		return nil, fmt.Errorf("card %s: %w: slot %v: %w", p.serial, errNotAttested, slot, err)
	}
	return public, nil
}

// keyThere is the key that an interrupted personalisation has generated; nil if
// there is none, or another.
func (p *personaliser) keyThere(tx *piv.Tx, slot piv.Slot, a piv.Algorithm) (crypto.PublicKey, error) {
	if !p.resume {
		return nil, nil
	}
	info, err := tx.KeyInfo(slot)
	switch {
	case errors.Is(err, smartcard.StatusNotFound):
		return nil, nil
	case err != nil:
		return nil, err
	case !info.GeneratedOnCard || info.Algorithm != a || info.PINPolicy != wantedPolicy(slot):
		return nil, nil
	}
	return info.Public, nil
}

// wantedPolicy is the one that a slot has without a choice.
func wantedPolicy(slot piv.Slot) piv.PINPolicy {
	if slot == piv.SlotSignature {
		return piv.PINPolicyAlways
	}
	return piv.PINPolicyOnce
}

// errNotAttested means that a card isn't what its maker's cards are.
var errNotAttested = errors.New("the card is refused, its key is not attested by its maker")

// checkAttestation has the card vouch for the key of a slot, and its maker for the
// card.
func (p *personaliser) checkAttestation(tx *piv.Tx, slot piv.Slot, public crypto.PublicKey) error {
	statement, err := tx.Attest(slot)
	if err != nil {
		return err
	}
	own, err := tx.Certificate(piv.SlotAttestation)
	if err != nil {
		return err
	}
	said, err := piv.VerifyAttestation(statement, []*x509.Certificate{own}, p.makers)
	switch {
	case err != nil:
		return err
	case !samePublicKey(statement.PublicKey, public):
		return errors.New("the statement is about another key")
	case said.Serial != p.serial:
		return fmt.Errorf("the statement is of card %q", said.Serial)
	case said.PINPolicy != wantedPolicy(slot):
		return fmt.Errorf("the key wants the PIN %v, not %v", said.PINPolicy, wantedPolicy(slot))
	}
	return nil
}

func samePublicKey(a, b crypto.PublicKey) bool {
	k, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(b)
}

// keyDigest is the SHA-256 of the SubjectPublicKeyInfo, in hexadecimal.
func keyDigest(public crypto.PublicKey) (string, error) {
	spki, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return "", err
	}
	digest := sha256.Sum256(spki)
	return hex.EncodeToString(digest[:]), nil
}

// identify gives the card a GUID, in CHUID and CCC.
func (p *personaliser) identify(tx *piv.Tx) error {
	p.step("writing CHUID and CCC")
	guid, err := tx.GUID()
	if !p.resume || errors.Is(err, smartcard.StatusNotFound) {
		guid = piv.NewGUID()
		err = tx.PutObject(piv.ObjectCHUID, piv.NewCHUID(guid, farFuture))
	}
	if err != nil {
		return err
	}
	if _, err = tx.CCC(); !p.resume || errors.Is(err, smartcard.StatusNotFound) {
		err = tx.PutObject(piv.ObjectCCC, piv.NewCCC(guid))
	}
	return err
}

// certify stores a certificate for each key, signed by the card. They are
// placeholders, by which any PIV program finds the public keys; nobody trusts
// them.
func (p *personaliser) certify(tx *piv.Tx, signature, unlocking crypto.PublicKey) error {
	done, err := p.certified(tx, signature, unlocking)
	switch {
	case err != nil:
		return err
	case done:
		p.step("the certificates are there")
		return nil
	case p.WasComplete:
		return fmt.Errorf("card %s has no certificates for its keys: %s", p.serial, resetHint)
	}
	p.step("signing and storing certificates")
	signer, err := tx.Signer(piv.SlotSignature, signature)
	if err != nil {
		return err
	}
	if err := verifyFactoryPIN(tx); err != nil {
		return err
	}
	parent := p.template(piv.SlotSignature, x509.KeyUsageDigitalSignature|x509.KeyUsageContentCommitment)
	first, err := issue(parent, parent, signature, signer)
	if err != nil {
		return fmt.Errorf("certificate of slot 9c: %w", err)
	}
	if err := tx.VerifyPIN([]byte(factoryPIN)); err != nil { // 9c wants it before each use
		return err
	}
	second, err := issue(p.template(piv.SlotKeyManagement, x509.KeyUsageKeyEncipherment), first, unlocking, signer)
	if err != nil {
		return fmt.Errorf("certificate of slot 9d: %w", err)
	}
	if err := tx.PutCertificate(piv.SlotSignature, first); err != nil {
		return err
	}
	return tx.PutCertificate(piv.SlotKeyManagement, second)
}

// certified says if an interrupted personalisation has stored both certificates.
func (p *personaliser) certified(tx *piv.Tx, signature, unlocking crypto.PublicKey) (bool, error) {
	if !p.resume {
		return false, nil
	}
	var certificates [2]*x509.Certificate
	for i, slot := range []piv.Slot{piv.SlotSignature, piv.SlotKeyManagement} {
		var err error
		if certificates[i], err = tx.Certificate(slot); errors.Is(err, smartcard.StatusNotFound) {
			return false, nil
		} else if err != nil {
			return false, err
		}
	}
	parent, child := certificates[0], certificates[1]
	return p.WasComplete || samePublicKey(parent.PublicKey, signature) && samePublicKey(child.PublicKey, unlocking) &&
		parent.CheckSignature(child.SignatureAlgorithm, child.RawTBSCertificate, child.Signature) == nil, nil
}

func (p *personaliser) template(slot piv.Slot, usage x509.KeyUsage) *x509.Certificate {
	return &x509.Certificate{
		Subject:      pkix.Name{CommonName: fmt.Sprintf("Card %s slot %v", p.serial, slot)},
		SerialNumber: new(big.Int).SetBytes(randomSerial()),
		NotBefore:    time.Now().UTC().Truncate(time.Second),
		NotAfter:     farFuture,
		KeyUsage:     usage,
	}
}

// randomSerial makes a positive certificate serial number of 16 bytes.
func randomSerial() []byte {
	b := make([]byte, 16)
	rand.Read(b) // never fails
	b[0] = b[0]&0x7F | 0x40
	return b
}

func issue(template, parent *x509.Certificate, public crypto.PublicKey, signer crypto.Signer) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, signer)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// tell passes the random secrets on.
func (p *personaliser) tell() (err error) {
	if p.Secrets, err = p.delivery.deliver(p.secrets, p.serial, p.holder, p.keys.name); err != nil {
		return stationError(err)
	}
	switch p.Secrets {
	case "":
		p.step("no secret is random")
	case "-":
		p.step("letters printed")
	default:
		p.step("secrets written to %s", p.Secrets)
	}
	return p.wrote(p.serial, p.Secrets)
}

// lock sets the secrets.
func (p *personaliser) lock(tx *piv.Tx) error {
	factory, err := authenticate(tx, p.own)
	if err != nil {
		return err
	}
	p.step("setting the management key")
	if factory {
		if err := tx.SetManagementKey(p.secrets.management); err != nil {
			return err
		}
	}
	p.step("setting PUK and PIN")
	if err := tx.ChangePUK([]byte(factoryPUK), p.secrets.puk); err != nil {
		return fmt.Errorf("with the factory's PUK: %w", err)
	}
	if err := tx.ChangePIN([]byte(factoryPIN), p.secrets.pin); err != nil {
		return fmt.Errorf("with the factory's PIN: %w", err)
	}
	return nil
}

// verify makes sure that none of the factory's secrets is left.
func (p *personaliser) verify(tx *piv.Tx) error {
	left, err := factorySecrets(tx)
	if err == nil && len(left) > 0 {
		err = fmt.Errorf("card %s still has the factory's %s", p.serial, strings.Join(left, ", "))
	}
	return err
}
