package set

import (
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/der"
)

// MessageOctetsMax is the most octets of one encoded MessageWrapper.
const MessageOctetsMax = 1 << 20

// Version is the only version of MessageHeader that setkit speaks.
const Version = 1

// MessageWrapper is what travels (SET §2.1).
type MessageWrapper struct {
	MessageHeader MessageHeader
	Message       Message       `der:"[0]e"`
	MWExtensions  MsgExtensions `der:"[1] opt"`
}

// MessageHeader is in the clear and not signed: nothing in it is to be believed before the same value
// has been found inside the message (SET §2.1).
type MessageHeader struct {
	Version    int64
	Revision   int64 `der:"default=0"`
	Date       time.Time
	MessageIDs *MessageIDs `der:"[0] opt"`
	RRPID      *RRPID      `der:"[1] opt"` // absent only in an Error about something undecodable
	SWIdent    SWIdent
}

// MessageIDs are the identifiers of the transaction, as far as the sender knows them (SET §2.1).
type MessageIDs struct {
	LIDC LocalID `der:"[0] opt"`
	LIDM LocalID `der:"[1] opt"`
	XID  *XID    `der:"[2] opt"`
}

// Message is one of SET's messages (SET §2.2).
type Message struct {
	der.Choice
	PInitReq      *PInitReq        `der:"[0]e"`
	PInitRes      *PInitRes        `der:"[1]e"`
	PReq          *PReq            `der:"[2]e"`
	PRes          *PRes            `der:"[3]e"`
	InqReq        *InqReq          `der:"[4]e"`
	InqRes        *InqRes          `der:"[5]e"`
	AuthReq       *AuthReq         `der:"[6]e"`
	AuthRes       *AuthRes         `der:"[7]e"`
	AuthRevReq    *AuthRevReq      `der:"[8]e"`
	AuthRevRes    *AuthRevRes      `der:"[9]e"`
	CapReq        *CapReq          `der:"[10]e"`
	CapRes        *CapRes          `der:"[11]e"`
	CapRevReq     *CapRevOrCredReq `der:"[12]e"`
	CapRevRes     *CapRevOrCredRes `der:"[13]e"`
	CredReq       *CapRevOrCredReq `der:"[14]e"`
	CredRes       *CapRevOrCredRes `der:"[15]e"`
	CredRevReq    *CapRevOrCredReq `der:"[16]e"`
	CredRevRes    *CapRevOrCredRes `der:"[17]e"`
	PCertReq      *PCertReq        `der:"[18]e"`
	PCertRes      *PCertRes        `der:"[19]e"`
	BatchAdminReq *BatchAdminReq   `der:"[20]e"`
	BatchAdminRes *BatchAdminRes   `der:"[21]e"`
	CardCInitReq  *CardCInitReq    `der:"[22]e"`
	CardCInitRes  *CardCInitRes    `der:"[23]e"`
	MeAqCInitReq  *MeAqCInitReq    `der:"[24]e"`
	MeAqCInitRes  *MeAqCInitRes    `der:"[25]e"`
	RegFormReq    *RegFormReq      `der:"[26]e"`
	RegFormRes    *RegFormRes      `der:"[27]e"`
	CertReq       *CertReq         `der:"[28]e"`
	CertRes       *CertRes         `der:"[29]e"`
	CertInqReq    *CertInqReq      `der:"[30]e"`
	CertInqRes    *CertInqRes      `der:"[31]e"`
	Error         *Error           `der:"[999]e"`
}

// MessageType is the tag number of an alternative of Message (SET §2.2).
type MessageType int

// The alternatives of Message.
const (
	NoMessage         MessageType = -1
	PInitReqType      MessageType = 0
	PInitResType      MessageType = 1
	PReqType          MessageType = 2
	PResType          MessageType = 3
	InqReqType        MessageType = 4
	InqResType        MessageType = 5
	AuthReqType       MessageType = 6
	AuthResType       MessageType = 7
	AuthRevReqType    MessageType = 8
	AuthRevResType    MessageType = 9
	CapReqType        MessageType = 10
	CapResType        MessageType = 11
	CapRevReqType     MessageType = 12
	CapRevResType     MessageType = 13
	CredReqType       MessageType = 14
	CredResType       MessageType = 15
	CredRevReqType    MessageType = 16
	CredRevResType    MessageType = 17
	PCertReqType      MessageType = 18
	PCertResType      MessageType = 19
	BatchAdminReqType MessageType = 20
	BatchAdminResType MessageType = 21
	CardCInitReqType  MessageType = 22
	CardCInitResType  MessageType = 23
	MeAqCInitReqType  MessageType = 24
	MeAqCInitResType  MessageType = 25
	RegFormReqType    MessageType = 26
	RegFormResType    MessageType = 27
	CertReqType       MessageType = 28
	CertResType       MessageType = 29
	CertInqReqType    MessageType = 30
	CertInqResType    MessageType = 31
	ErrorType         MessageType = 999
)

// messageNames are in the order of Message's fields, where Error stands last.
var messageNames = names{list: []string{
	"PInitReq", "PInitRes", "PReq", "PRes", "InqReq", "InqRes", "AuthReq", "AuthRes",
	"AuthRevReq", "AuthRevRes", "CapReq", "CapRes", "CapRevReq", "CapRevRes", "CredReq", "CredRes",
	"CredRevReq", "CredRevRes", "PCertReq", "PCertRes", "BatchAdminReq", "BatchAdminRes",
	"CardCInitReq", "CardCInitRes", "Me-AqCInitReq", "Me-AqCInitRes", "RegFormReq", "RegFormRes",
	"CertReq", "CertRes", "CertInqReq", "CertInqRes",
}}

// String gives the name of the message's type, such as "PInitReq".
func (t MessageType) String() string {
	switch t {
	case NoMessage:
		return "none"
	case ErrorType:
		return "Error"
	}
	return messageNames.of(int(t))
}

// Type tells which alternative m is; NoMessage if it is none.
func (m *Message) Type() MessageType {
	if m.Error != nil {
		return ErrorType
	}
	v := reflect.ValueOf(m).Elem()
	for i := range messageNames.list {
		if !v.Field(i + 1).IsNil() { // field 0 is the Choice
			return MessageType(i)
		}
	}
	return NoMessage
}

// Encode gives the DER of w.
func Encode(w MessageWrapper) ([]byte, error) {
	b, err := der.Marshal(w)
	if err != nil {
		return nil, err
	}
	if len(b) > MessageOctetsMax {
		return nil, fmt.Errorf("%v of %d octets: %d is the most", w.Message.Type(), len(b), MessageOctetsMax)
	}
	return b, nil
}

// Decode reads a MessageWrapper. Its error is a *ProtocolError: messageTooBig or decodingFailure.
// Version, date and extensions are still to be checked.
func Decode(b []byte) (*MessageWrapper, error) {
	if len(b) > MessageOctetsMax {
		return nil, &ProtocolError{Code: MessageTooBig, Err: fmt.Errorf("message of %d octets: %d is the most", len(b), MessageOctetsMax)}
	}
	w := new(MessageWrapper)
	if err := Unmarshal(b, w); err != nil {
		return nil, &ProtocolError{Code: DecodingFailure, Err: err}
	}
	return w, nil
}

// Unmarshal decodes one structure of SET into v, which is a pointer, and checks what its type alone does
// not say: values that SET reserves, and fields that need each other. Its error never quotes contents.
func Unmarshal(b []byte, v any) error {
	if err := der.Unmarshal(b, v); err != nil {
		return err
	}
	if err := check(reflect.ValueOf(v)); err != nil {
		return fmt.Errorf("%s: %w", reflect.TypeOf(v).Elem().Name(), err)
	}
	return nil
}

// checker is a type whose values are not all allowed that its ASN.1 type allows.
type checker interface{ check() error }

// check asks every checker in v.
func check(v reflect.Value) error {
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return nil
		}
		return check(v.Elem())
	}
	if c, ok := v.Interface().(checker); ok {
		if err := c.check(); err != nil {
			return err
		}
	}
	switch v.Kind() {
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			return nil
		}
		for i := range v.NumField() {
			if err := check(v.Field(i)); err != nil {
				return err
			}
		}
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return nil
		}
		for i := range v.Len() {
			if err := check(v.Index(i)); err != nil {
				return err
			}
		}
	}
	return nil
}

// Failures of checks.
var (
	errReserved = errors.New("a value that SET reserves")
	errEmpty    = errors.New("an empty sequence where one element is the least")
)

// EncB is SET's EncB(s, r, t, b): Enc of L(t, b) with the baggage b beside it (SET §3.2).
type EncB[B any] struct {
	Enc     cms.ContentInfo
	Baggage B
}

// EncBX is SET's EncBX(s, r, t, b, p): EncX of L(t, b) and p, with the baggage b beside it (SET §3.2).
type EncBX[B any] struct {
	EncX    cms.ContentInfo
	Baggage B
}
