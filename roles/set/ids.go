package set

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/der"
	"github.com/setkit/setkit/roles/set/pki"
)

// TransIDs identify a purchase (SET §2.6).
type TransIDs struct {
	LIDC     LocalID
	LIDM     LocalID `der:"[0] opt"`
	XID      XID
	PReqDate time.Time // set by the merchant in PInitRes, or by the cardholder in PReq
	PaySysID PaySysID  `der:"[1] opt"`
	Language Language
}

// PaySysID is the card network's identifier of a transaction.
type PaySysID string

// DERType gives the bounds of a PaySysID.
func (PaySysID) DERType() der.Type { return visible(64) }

// RRTags identify one request of a merchant, and are copied into its response (SET §2.6).
type RRTags struct {
	RRPID       RRPID
	MerTermIDs  MerTermIDs
	CurrentDate time.Time
}

// MerTermIDs say which merchant and which terminal asks (SET §2.6).
type MerTermIDs struct {
	MerchantID MerchantID // equal to merID of the merchant's signature certificate
	TerminalID TerminalID `der:"opt"`
	AgentNum   *Natural   `der:"opt"`
	ChainNum   *Natural   `der:"[0] opt"`
	StoreNum   *Natural   `der:"[1] opt"`
}

// TerminalID is a merchant's name for a terminal.
type TerminalID string

// DERType gives the bounds of a TerminalID.
func (TerminalID) DERType() der.Type { return visible(48) }

// Location is a place (SET §2.6).
type Location struct {
	CountryCode   CountryCode
	City          Text50 `der:"[0]e opt"`
	StateProvince Text50 `der:"[1]e opt"`
	PostalCode    Text14 `der:"[2]e opt"`
	LocationID    Text10 `der:"[3]e opt"`
}

// Thumbprints, as package pki makes them (SET §2.8).
type (
	Thumbs    = pki.Thumbs
	CertThumb = pki.CertThumb
)

// BackKeyData is a key that the sender made for messages that come back to it (SET §2.9, profile A6).
type BackKeyData struct {
	BackAlgID cms.AlgorithmIdentifier
	BackKey   BackKey
}

// BackKey is a symmetric key. It prints masked.
type BackKey []byte

// DERType gives the bounds of a BackKey: up to an AES-256 key.
func (BackKey) DERType() der.Type { return der.Type{Kind: der.Octets, Min: 1, Max: 32} }

func (BackKey) String() string     { return masked }
func (BackKeyData) String() string { return masked }

func (BackKey) LogValue() slog.Value     { return slog.StringValue(masked) }
func (BackKeyData) LogValue() slog.Value { return slog.StringValue(masked) }

// BackKeyData masks itself too: fmt forgets the Format methods of what is inside when it meets a pointer
// to it under a verb such as %s.
func (BackKey) Format(f fmt.State, _ rune)     { fmt.Fprint(f, masked) }
func (BackKeyData) Format(f fmt.State, _ rune) { fmt.Fprint(f, masked) }

func (BackKey) MarshalJSON() ([]byte, error)     { return []byte(`"` + masked + `"`), nil }
func (BackKeyData) MarshalJSON() ([]byte, error) { return []byte(`"` + masked + `"`), nil }

// InstallRecurData says that a purchase is paid in instalments or recurs (SET §2.10).
type InstallRecurData struct {
	InstallRecurInd InstallRecurInd
	Extensions      MsgExtensions `der:"[0] opt"`
}

// InstallRecurInd is either kind of repeated payment (SET §2.10).
type InstallRecurInd struct {
	der.Choice
	InstallTotalTrans *InstallTotalTrans `der:"[0]"`
	Recurring         *Recurring         `der:"[1]"`
}

// InstallTotalTrans is the most authorizations that the cardholder allows.
type InstallTotalTrans int64

// Recurring bounds recurring payments (SET §2.10).
type Recurring struct {
	RecurringFrequency RecurringFrequency
	RecurringExpiry    time.Time // no authorization after this
}

// RecurringFrequency is the least number of days between authorizations; 28 means monthly.
type RecurringFrequency int64

// DERType gives the bounds.
func (InstallTotalTrans) DERType() der.Type {
	return der.Type{Kind: der.Integer, Min: 2, Max: 1<<63 - 1}
}
func (RecurringFrequency) DERType() der.Type {
	return der.Type{Kind: der.Integer, Min: 1, Max: 300}
}
