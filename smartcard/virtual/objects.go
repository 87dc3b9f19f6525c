package virtual

import (
	"slices"

	"github.com/setkit/setkit/smartcard"
	"github.com/setkit/setkit/smartcard/iso7816"
)

// objectBytesMax is the size of the largest data object, objectsMax how many a
// card has room for: more than the standard knows.
const (
	objectBytesMax = 3072
	objectsMax     = 64
)

const (
	tagDiscovery iso7816.Tag = 0x7E
	tagList      iso7816.Tag = 0x5C
	tagData      iso7816.Tag = 0x53
)

// pinObjects are read only with the PIN: fingerprints, facial image, printed
// information, iris images.
var pinObjects = []iso7816.Tag{0x5FC103, 0x5FC108, 0x5FC109, 0x5FC121}

// objectPath says if cmd addresses the objects of the application.
func objectPath(cmd iso7816.Command) bool { return cmd.P1 == 0x3F && cmd.P2 == 0xFF }

// getData reads an object.
func (c *Card) getData(cmd iso7816.Command) ([]byte, smartcard.Status) {
	if !objectPath(cmd) {
		return nil, smartcard.StatusWrongParameters
	}
	name, err := iso7816.ParseTLV(cmd.Data, tagList)
	if err != nil || len(name) == 0 || len(name) > 3 {
		return nil, smartcard.StatusWrongData
	}
	tag := tagOf(name)
	if tag == tagDiscovery {
		return discovery(), smartcard.StatusOK
	}
	if slices.Contains(pinObjects, tag) && !c.state.pinVerified {
		return nil, smartcard.StatusSecurity
	}
	object, ok := c.objects[tag]
	if !ok {
		return nil, smartcard.StatusNotFound
	}
	return iso7816.AppendTLV(nil, tagData, object), smartcard.StatusOK
}

// putData writes an object, or deletes it if there is nothing to write.
func (c *Card) putData(cmd iso7816.Command) smartcard.Status {
	if !objectPath(cmd) {
		return smartcard.StatusWrongParameters
	}
	if !c.state.authenticated {
		return smartcard.StatusSecurity
	}
	parts, err := iso7816.ParseTLVs(cmd.Data)
	if err != nil || len(parts) != 2 || parts[0].Tag != tagList || parts[1].Tag != tagData {
		return smartcard.StatusWrongData
	}
	tag, object := tagOf(parts[0].Value), parts[1].Value
	if len(parts[0].Value) != 3 || (tag>>8 != 0x5FC1 && tag>>8 != 0x5FFF) {
		return smartcard.StatusWrongData
	}
	if len(object) > objectBytesMax {
		return smartcard.StatusFull
	}
	if len(object) == 0 {
		delete(c.objects, tag)
	} else if c.objects[tag] == nil && len(c.objects) == objectsMax {
		return smartcard.StatusFull
	} else {
		c.objects[tag] = slices.Clone(object)
	}
	return c.keep()
}

// discovery is the discovery object: the application's name, and that its own
// PIN is the one to use.
func discovery() []byte {
	body := iso7816.AppendTLV(nil, 0x4F, applicationID)
	body = iso7816.AppendTLV(body, 0x5F2F, []byte{0x40, 0x00})
	return iso7816.AppendTLV(nil, tagDiscovery, body)
}

func tagOf(b []byte) iso7816.Tag {
	var tag iso7816.Tag
	for _, x := range b {
		tag = tag<<8 | iso7816.Tag(x)
	}
	return tag
}
