package piv

import (
	"fmt"

	"github.com/setkit/setkit/smartcard"
	"github.com/setkit/setkit/smartcard/iso7816"
)

// An ObjectID names a data object, SP 800-73-4 part 1, table 3. It is the
// object's BER-TLV tag.
type ObjectID uint32

// Data objects that have no slot.
const (
	ObjectCHUID      ObjectID = 0x5FC102 // card holder unique identifier
	ObjectCCC        ObjectID = 0x5FC107 // card capability container
	ObjectSecurity   ObjectID = 0x5FC106 // hashes of the others, signed by the issuer
	ObjectPrinted    ObjectID = 0x5FC109 // what is printed on the card; read with the PIN
	ObjectKeyHistory ObjectID = 0x5FC10C
	ObjectDiscovery  ObjectID = 0x7E
)

const (
	tagTagList iso7816.Tag = 0x5C
	tagData    iso7816.Tag = 0x53
)

// Object reads a data object. The error wraps smartcard.StatusNotFound if the
// card doesn't have it.
func (tx *Tx) Object(id ObjectID) ([]byte, error) {
	what := fmt.Sprintf("read object %X", uint32(id))
	data, err := tx.command(what, iso7816.Command{
		INS: insGetData, P1: 0x3F, P2: 0xFF, Ne: neAll,
		Data: iso7816.AppendTLV(nil, tagTagList, iso7816.Tag(id).Bytes()),
	})
	if err != nil {
		return nil, err
	}
	outer := tagData
	if id == ObjectDiscovery { // comes without the wrapping
		outer = iso7816.Tag(ObjectDiscovery)
	}
	value, err := iso7816.ParseTLV(data, outer)
	if err == nil && len(value) == 0 {
		err = smartcard.StatusNotFound // some cards keep an empty object instead
	}
	if err != nil {
		return nil, fmt.Errorf("piv: %s: %w", what, err)
	}
	return value, nil
}

// PutObject writes a data object; without a value it deletes it. Authenticate
// comes first.
func (tx *Tx) PutObject(id ObjectID, value []byte) error {
	data := iso7816.AppendTLV(nil, tagTagList, iso7816.Tag(id).Bytes())
	data = iso7816.AppendTLV(data, tagData, value)
	_, err := tx.command(fmt.Sprintf("write object %X", uint32(id)), iso7816.Command{INS: insPutData, P1: 0x3F, P2: 0xFF, Data: data})
	return err
}
