package finnet

import (
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/moov-io/iso8583"

	"github.com/setkit/setkit/roles/set"
)

// Description is a message as it may be shown and kept: without what an account is reached by.
type Description struct {
	MTI      string
	Name     string       // such as "authorization", of requests and responses alike; "" when unknown
	Match    string       // the same in a request and its response
	XID      set.XID      // zero when the message has none
	Response ResponseCode // of a response
	Fields   []FieldText
}

// FieldText is one field of a Description.
type FieldText struct {
	Number string // such as "4" or "48.01"
	Name   string
	Value  string
	Masked bool
}

// shownFields are the fields whose values may be seen. What is not here is masked.
var shownFields = []int{
	fieldMTI, fieldProcessing, fieldAmount, fieldTransmission, fieldSTAN, fieldCategory, fieldEntryMode, fieldCondition,
	fieldAcquirer, fieldRRN, fieldApproval, fieldResponse, fieldTerminal, fieldMerchant, fieldMerchantName, fieldCurrency,
	fieldBalance, fieldNetwork, fieldRefunds, fieldRefundsBack, fieldSales, fieldSalesBack, fieldRefundsSum, fieldRefundsBackSum,
	fieldSalesSum, fieldSalesBackSum, fieldOriginal, fieldReplacement, fieldNet,
}

// shownTags are those of field 48.
var shownTags = []string{tagXID, tagTransStain, tagSettlement}

// maskedField stands for a value that is not shown.
const maskedField = "***"

// Describe parses the octets of a message, without their frame, for a person to look at. Card numbers,
// expiry dates, names and secrets are masked; the error never quotes the message.
func Describe(octets []byte) (*Description, error) {
	m, err := unpack(octets)
	if err != nil {
		return nil, err
	}
	d := &Description{MTI: text(m, fieldMTI), Match: matchKey(m), Response: ResponseCode(text(m, fieldResponse))}
	for _, k := range kinds {
		// A response has the third digit of its request, one up.
		if len(d.MTI) == 4 && k.mti[:2] == d.MTI[:2] && k.processing == text(m, fieldProcessing) && (d.MTI[2] == k.mti[2] || d.MTI[2] == k.mti[2]+1) {
			d.Name = k.name
		}
	}
	for _, id := range slices.Sorted(maps.Keys(m.GetFields())) {
		if id == 1 {
			continue // the bitmap is the list of the others
		}
		if id == fieldPrivate {
			d.private(m)
			continue
		}
		f := FieldText{Number: strconv.Itoa(id), Name: m.GetSpec().Fields[id].Spec().Description, Value: maskedField, Masked: true}
		if slices.Contains(shownFields, id) {
			f.Value, f.Masked = text(m, id), false
		}
		if id == fieldPAN {
			f.Value = set.PAN(text(m, id)).Masked()
		}
		if id == fieldResponse {
			f.Value = d.Response.String()
		}
		d.Fields = append(d.Fields, f)
	}
	return d, nil
}

// private describes field 48.
func (d *Description) private(m *iso8583.Message) {
	tags := privateData(m)
	for _, tag := range slices.Sorted(maps.Keys(tags)) {
		f := FieldText{Number: fmt.Sprintf("%d.%s", fieldPrivate, tag), Name: tags[tag].Spec().Description, Value: maskedField, Masked: true}
		if b, err := tags[tag].Bytes(); err == nil && slices.Contains(shownTags, tag) {
			f.Value, f.Masked = hex.EncodeToString(b), false
			if tag == tagSettlement {
				f.Value = string(b)
			}
			if tag == tagXID && len(b) == len(d.XID) {
				d.XID = set.XID(b)
			}
		}
		d.Fields = append(d.Fields, f)
	}
}
