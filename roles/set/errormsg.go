package set

import (
	"encoding/asn1"
	"fmt"

	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/der"
)

// Error answers a message that cannot be processed (SET §2.3). It is no Go error: see ProtocolError.
type Error struct {
	der.Choice
	SignedError   *SignedError `der:"[0]e"`
	UnsignedError *ErrorTBS    `der:"[1]e"`
}

// SignedError is S(EE, ErrorTBS).
type SignedError cms.ContentInfo

// ErrorTBS says what was wrong with which message (SET §2.3).
type ErrorTBS struct {
	ErrorCode  ErrorCode
	ErrorNonce Nonce                 // so that the signature covers unpredictable data
	ErrorOID   asn1.ObjectIdentifier `der:"[0] opt"`  // the critical extension not known
	ErrorThumb *CertThumb            `der:"[1]e opt"` // the certificate at fault
	ErrorMsg   ErrorMsg              `der:"[2]e"`
}

// ErrorMsg shows the message at fault: its header when it was readable (SET §2.3).
type ErrorMsg struct {
	der.Choice
	MessageHeader *MessageHeader `der:"[0]e"`
	BadWrapper    *BadWrapper    `der:"[1]"`
}

// BadWrapperOctetsMax is the most of an unreadable message that an Error repeats.
const BadWrapperOctetsMax = 20 << 10

// BadWrapper is the beginning of an unreadable message.
type BadWrapper []byte

// DERType gives the bounds of a BadWrapper.
func (BadWrapper) DERType() der.Type { return der.Type{Kind: der.Octets, Max: BadWrapperOctetsMax} }

// ErrorCode tells why a message cannot be processed (SET §2.3).
type ErrorCode int

// The codes of an Error.
const (
	UnspecifiedFailure    ErrorCode = 1
	MessageNotSupported   ErrorCode = 2
	DecodingFailure       ErrorCode = 3
	InvalidCertificate    ErrorCode = 4
	ExpiredCertificate    ErrorCode = 5
	RevokedCertificate    ErrorCode = 6
	MissingCertificate    ErrorCode = 7
	SignatureFailure      ErrorCode = 8
	BadMessageHeader      ErrorCode = 9
	WrapperMsgMismatch    ErrorCode = 10
	VersionTooOld         ErrorCode = 11
	VersionTooNew         ErrorCode = 12
	UnrecognizedExtension ErrorCode = 13
	MessageTooBig         ErrorCode = 14
	SignatureRequired     ErrorCode = 15
	MessageTooOld         ErrorCode = 16
	MessageTooNew         ErrorCode = 17
	ThumbsMismatch        ErrorCode = 18
	UnknownRRPID          ErrorCode = 19
	UnknownXID            ErrorCode = 20
	UnknownLID            ErrorCode = 21
	ChallengeMismatch     ErrorCode = 22
)

var errorCodeNames = names{1, []string{
	"unspecifiedFailure", "messageNotSupported", "decodingFailure", "invalidCertificate",
	"expiredCertificate", "revokedCertificate", "missingCertificate", "signatureFailure",
	"badMessageHeader", "wrapperMsgMismatch", "versionTooOld", "versionTooNew",
	"unrecognizedExtension", "messageTooBig", "signatureRequired", "messageTooOld", "messageTooNew",
	"thumbsMismatch", "unknownRRPID", "unknownXID", "unknownLID", "challengeMismatch",
}}

func (c ErrorCode) String() string  { return errorCodeNames.of(int(c)) }
func (ErrorCode) DERType() der.Type { return errorCodeNames.derType() }

// ProtocolError is a failure that a party answers with an Error message of the same Code, OID and Thumb.
// Err tells the operator more; the peer never sees it.
type ProtocolError struct {
	Code  ErrorCode
	OID   asn1.ObjectIdentifier // of an extension not known
	Thumb *CertThumb            // of the certificate at fault
	Err   error                 // may be nil; holds no secret
}

// Error gives the code, the extension or certificate at fault, and what Err says.
func (e *ProtocolError) Error() string {
	s := e.Code.String()
	if e.OID != nil {
		s += fmt.Sprintf(", extension %v", e.OID)
	}
	if e.Thumb != nil {
		s += fmt.Sprintf(", certificate with thumbprint %v", e.Thumb.Thumbprint)
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap gives Err.
func (e *ProtocolError) Unwrap() error { return e.Err }
