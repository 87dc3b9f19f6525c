package set

import (
	"encoding/asn1"
	"fmt"
	"log/slog"

	"github.com/setkit/setkit/roles/set/der"
)

// AcctInfo is the account that a certificate is for: a cardholder's card, or account data of a merchant
// or gateway (SET §4.1).
type AcctInfo struct {
	der.Choice
	PANData0 *PANData0 `der:"[0]e"`
	AcctData *AcctData `der:"[1]e"`
}

// IDData says which merchant or gateway asks for a certificate (SET §4.1).
type IDData struct {
	der.Choice
	MerchantAcquirerID *MerchantAcquirerID `der:"[0]"`
	AcquirerID         *AcquirerID         `der:"[1]"`
}

// MerchantAcquirerID is a merchant at its acquirer (SET §4.1).
type MerchantAcquirerID struct {
	MerchantBIN BIN
	MerchantID  MerchantID
}

// AcquirerID is an acquirer (SET §4.1).
type AcquirerID struct {
	AcquirerBIN        BIN
	AcquirerBusinessID AcquirerBusinessID `der:"opt"`
}

// AcquirerBusinessID is a number of 1 to 32 digits.
type AcquirerBusinessID string

// DERType gives the bounds.
func (AcquirerBusinessID) DERType() der.Type { return der.Type{Kind: der.Numeric, Min: 1, Max: 32} }

// RequestType says who asks for which certificates, and whether for the first time (SET §4.1).
type RequestType int

// The request types. SET reserves the numbers between them.
const (
	CardInitialSig  RequestType = 1
	MerInitialSig   RequestType = 4
	MerInitialEnc   RequestType = 5
	MerInitialBoth  RequestType = 6
	PgwyInitialSig  RequestType = 7
	PgwyInitialEnc  RequestType = 8
	PgwyInitialBoth RequestType = 9
	CardRenewalSig  RequestType = 10
	MerRenewalSig   RequestType = 13
	MerRenewalEnc   RequestType = 14
	MerRenewalBoth  RequestType = 15
	PgwyRenewalSig  RequestType = 16
	PgwyRenewalEnc  RequestType = 17
	PgwyRenewalBoth RequestType = 18
)

var requestTypeNames = names{1, []string{
	"cardInitialSig", "", "", "merInitialSig", "merInitialEnc", "merInitialBoth",
	"pgwyInitialSig", "pgwyInitialEnc", "pgwyInitialBoth",
	"cardRenewalSig", "", "", "merRenewalSig", "merRenewalEnc", "merRenewalBoth",
	"pgwyRenewalSig", "pgwyRenewalEnc", "pgwyRenewalBoth",
}}

func (t RequestType) String() string  { return requestTypeNames.of(int(t)) }
func (RequestType) DERType() der.Type { return requestTypeNames.derType() }

func (t RequestType) check() error {
	if !requestTypeNames.known(int(t)) {
		return fmt.Errorf("RequestType %d: %w", int(t), errReserved)
	}
	return nil
}

// RegFormOrReferral is a form to fill in, or where else to go (SET §4.1).
type RegFormOrReferral struct {
	der.Choice
	RegFormData  *RegFormData  `der:"[0]"`
	ReferralData *ReferralData `der:"[1]"`
}

// RegFormData is a registration form and the policy that the requester must accept (SET §4.1).
type RegFormData struct {
	RegTemplate *RegTemplate `der:"opt"`
	Policy      PolicyText
}

// PolicyText is a CA's policy for people to read.
type PolicyText string

// DERType gives the bounds of a PolicyText.
func (PolicyText) DERType() der.Type { return setString(20000) }

// RegTemplate is a registration form (SET §4.1).
type RegTemplate struct {
	RegFormID    Natural    // assigned by the CA
	BrandLogoURL URL        `der:"[0] opt"`
	CardLogoURL  URL        `der:"[1] opt"`
	RegFieldSeq  []RegField `der:"opt size=1..50"`
}

// RegField is one field of a registration form (SET §4.1).
type RegField struct {
	FieldID        asn1.ObjectIdentifier `der:"[0] opt"`  // one of the Field identifiers
	FieldName      []Text128             `der:"size=1.."` // lines of text
	FieldDesc      Text200               `der:"[1]e opt"`
	FieldLen       FieldLen              `der:"default=128"` // required: there is no field of length 0
	FieldRequired  bool                  `der:"[2] default=false"`
	FieldInvisible bool                  `der:"[3] default=false"` // the input is not to be shown
}

// FieldLen is the most characters of an answer. FieldLenMax is the default.
type FieldLen int64

// FieldLenMax is the most characters that an answer can have.
const FieldLenMax FieldLen = 128

// DERType gives the bounds of a FieldLen.
func (FieldLen) DERType() der.Type {
	return der.Type{Kind: der.Integer, Min: 1, Max: int64(FieldLenMax)}
}

// ReferralData says why the CA has no form, and who may (SET §4.1).
type ReferralData struct {
	Reason         Text512 `der:"opt"`
	ReferralURLSeq []URL   `der:"opt"` // the preferred one first
}

// RegFormItem is the answer to one field (SET §4.5).
type RegFormItem struct {
	FieldName  []Text128 // as in the form
	FieldValue FieldValue
}

// FieldValue is what the requester filled in. It prints masked: it may be a secret that the requester
// shares with the issuer (SET §4.5).
type FieldValue struct {
	der.Choice
	Text   *FieldText
	Octets *FieldOctets
}

// FieldText is an answer of 1 to 128 characters. It prints masked.
type FieldText string

// FieldOctets is an answer of 1 to 128 octets. It prints masked.
type FieldOctets []byte

// DERType gives the bounds.
func (FieldText) DERType() der.Type   { return setString(128) }
func (FieldOctets) DERType() der.Type { return der.Type{Kind: der.Octets, Min: 1, Max: 128} }

func (FieldText) String() string   { return masked }
func (FieldOctets) String() string { return masked }

func (FieldText) LogValue() slog.Value   { return slog.StringValue(masked) }
func (FieldOctets) LogValue() slog.Value { return slog.StringValue(masked) }

func (FieldText) Format(f fmt.State, _ rune)   { fmt.Fprint(f, masked) }
func (FieldOctets) Format(f fmt.State, _ rune) { fmt.Fprint(f, masked) }

func (FieldText) MarshalJSON() ([]byte, error)   { return []byte(`"` + masked + `"`), nil }
func (FieldOctets) MarshalJSON() ([]byte, error) { return []byte(`"` + masked + `"`), nil }
