package issuer

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/setkit/setkit/roles/set"
)

// macs are what the database knows of a card in order to compare it.
type macs struct{ pan, card, holder, secret []byte }

// sum is the HMAC of parts, for one use.
func (i *Issuer) sum(use string, parts ...[]byte) ([]byte, error) {
	var data []byte
	defer func() { clear(data) }()
	for _, p := range append([][]byte{[]byte(use)}, parts...) {
		data = binary.BigEndian.AppendUint16(data, uint16(len(p)))
		data = append(data, p...)
	}
	mac, err := i.mac.Sum(data)
	if err != nil {
		return nil, fmt.Errorf("compute the %s MAC: %w", use, err)
	}
	return mac, nil
}

// cardMACs gives the MACs that an authorization needs.
func (i *Issuer) cardMACs(pan set.PAN, expiry set.CardExpiry) (m macs, err error) {
	if m.pan, err = i.sum("pan", pan); err != nil {
		return macs{}, err
	}
	m.card, err = i.sum("card", pan, expiry)
	return m, err
}

// allMACs gives the MACs that an account check needs. Those of the name and the secret include the
// number, so that equal ones of two accounts do not show.
func (i *Issuer) allMACs(pan set.PAN, expiry set.CardExpiry, holder string, secret []byte) (macs, error) {
	m, err := i.cardMACs(pan, expiry)
	if err != nil {
		return macs{}, err
	}
	if m.holder, err = i.sum("holder", pan, []byte(plainName(holder))); err != nil {
		return macs{}, err
	}
	m.secret, err = i.sum("secret", pan, secret)
	return m, err
}

// plainName is a name without what people write differently each time: case and spaces.
func plainName(name string) string {
	return strings.ToUpper(strings.Join(strings.Fields(name), " "))
}

// sealCard encrypts what identifies a card, for the account it belongs to.
func (i *Issuer) sealCard(id string, pan set.PAN, expiry set.CardExpiry, holder string) ([]byte, error) {
	plain := bytes.Join([][]byte{pan, expiry, []byte(holder)}, []byte{0})
	defer clear(plain)
	sealed, err := i.seal.Seal(plain, sealContext(id))
	if err != nil {
		return nil, fmt.Errorf("seal the card of account %s: %w", id, err)
	}
	return sealed, nil
}

func (i *Issuer) openCard(id string, sealed []byte) (pan set.PAN, holder string, err error) {
	plain, err := i.seal.Open(sealed, sealContext(id))
	if err != nil {
		return nil, "", fmt.Errorf("open the card of account %s: %w", id, err)
	}
	defer clear(plain)
	parts := bytes.SplitN(plain, []byte{0}, 3)
	if len(parts) != 3 {
		return nil, "", fmt.Errorf("open the card of account %s: %w", id, errors.New("it is not what an import seals"))
	}
	return set.PAN(bytes.Clone(parts[0])), string(parts[2]), nil
}

// sealContext binds a sealed card to its account, so that it cannot be moved to another.
func sealContext(id string) []byte { return []byte("issuer account " + id) }
