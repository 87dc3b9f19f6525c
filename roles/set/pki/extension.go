package pki

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"time"

	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/der"
)

// MerchantData is the extension merchantData (SET §6.3).
type MerchantData struct {
	MerchantID  string // 1 to 30 characters
	AcquirerBIN string // 6 digits
	Names       []MerchantNames
	Country     int // ISO 3166 numeric code
	// AuthFlag tells whether the acquirer may return card numbers to this merchant. Absent on the wire
	// means that it may, so the zero value is the one that is spelt out.
	AuthFlag bool
}

// MerchantNames is how the merchant is shown to a reader of one language.
type MerchantNames struct {
	Language      string // tag of RFC 1766, at most 35 characters
	Name          string // at most 50 characters, as the others but for the postal code
	City          string
	StateProvince string // optional
	PostalCode    string // optional, at most 14 characters
	CountryName   string
}

// Tunneling is the extension tunneling (SET §6.3): whether the holder passes messages that a third
// party encrypts for the cardholder, and under which content encryption, the preferred one first.
type Tunneling struct {
	Supported  bool                    `der:"default=true"`
	Algorithms []asn1.ObjectIdentifier `der:"size=0..16"`
}

// Period is a time span, both ends included, in whole seconds.
type Period struct {
	NotBefore time.Time `der:"[0]"`
	NotAfter  time.Time `der:"[1]"`
}

func (p Period) contains(at time.Time) bool { return !at.Before(p.NotBefore) && !at.After(p.NotAfter) }

type (
	setString14 string
	setString30 string
	setString50 string
	language    string
	bin         string
	countryCode int
	keyUsage    uint16
)

func (setString14) DERType() der.Type { return der.Type{Kind: der.SETString, Min: 1, Max: 14} }
func (setString30) DERType() der.Type { return der.Type{Kind: der.SETString, Min: 1, Max: 30} }
func (setString50) DERType() der.Type { return der.Type{Kind: der.SETString, Min: 1, Max: 50} }
func (language) DERType() der.Type    { return der.Type{Kind: der.Visible, Min: 1, Max: 35} }
func (bin) DERType() der.Type         { return der.Type{Kind: der.Numeric, Min: 6, Max: 6} }
func (countryCode) DERType() der.Type { return der.Type{Kind: der.Integer, Min: 1, Max: 999} }
func (keyUsage) DERType() der.Type    { return der.Type{Kind: der.NamedBits} }

// extension is X.509's Extension.
type extension struct {
	ID       asn1.ObjectIdentifier
	Critical bool `der:"default=false"`
	Value    []byte
}

type authorityKeyID struct {
	KeyID []byte `der:"[0] size=1..64"`
}

type basicConstraints struct {
	CA      bool   `der:"default=false"`
	PathLen *int64 `der:"opt"`
}

type policyInformation struct {
	Policy     asn1.ObjectIdentifier
	Qualifiers []policyQualifier `der:"opt size=1..4"`
}

type policyQualifier struct {
	ID        asn1.ObjectIdentifier
	Qualifier der.Raw
}

type hashedRootKey struct{ RootKeyThumbprint cms.DetachedDigest }

type merchantData struct {
	MerID       setString30
	AcquirerBIN bin
	Names       []merNames `der:"size=1..16"`
	Country     countryCode
	AuthFlag    bool `der:"default=true"`
}

type merNames struct {
	Language      language    `der:"[0] opt"`
	Name          setString50 `der:"[1]e"`
	City          setString50 `der:"[2]e"`
	StateProvince setString50 `der:"[3]e opt"`
	PostalCode    setString14 `der:"[4]e opt"`
	CountryName   setString50 `der:"[5]e"`
}

func (m *MerchantData) wire() merchantData {
	w := merchantData{
		MerID: setString30(m.MerchantID), AcquirerBIN: bin(m.AcquirerBIN),
		Country: countryCode(m.Country), AuthFlag: m.AuthFlag,
	}
	for _, n := range m.Names {
		w.Names = append(w.Names, merNames{
			language(n.Language), setString50(n.Name), setString50(n.City),
			setString50(n.StateProvince), setString14(n.PostalCode), setString50(n.CountryName),
		})
	}
	return w
}

func (w *merchantData) plain() *MerchantData {
	m := &MerchantData{
		MerchantID: string(w.MerID), AcquirerBIN: string(w.AcquirerBIN),
		Country: int(w.Country), AuthFlag: w.AuthFlag,
	}
	for _, n := range w.Names {
		m.Names = append(m.Names, MerchantNames{
			string(n.Language), string(n.Name), string(n.City),
			string(n.StateProvince), string(n.PostalCode), string(n.CountryName),
		})
	}
	return m
}

// check refuses what a person could not be shown. Every set of names says its language: it is
// optional on the wire, yet without it nobody can choose.
func (m *MerchantData) check() error {
	for _, n := range m.Names {
		if n.Language == "" {
			return errors.New("merchantData: names without their language")
		}
		for _, s := range []string{n.Name, n.City, n.StateProvince, n.PostalCode, n.CountryName} {
			if !isDisplayable(s) {
				return errors.New("merchantData: a name has a character that cannot be displayed")
			}
		}
	}
	if !isDisplayable(m.MerchantID) {
		return errors.New("merchantData: the merchant ID has a character that cannot be displayed")
	}
	return nil
}

// decoded is the extensions of one certificate.
type decoded struct {
	subjectKeyID   []byte
	authorityKeyID []byte
	usage          x509.KeyUsage
	constraints    basicConstraints
	certType       Type
	period         *Period
	nextRootKey    *cms.DetachedDigest
	merchant       *MerchantData
	cardCert       *bool
	tunneling      *Tunneling
	setExtensions  []asn1.ObjectIdentifier // nil if absent
}

// known are the extensions of the profile, with their criticality.
var known = []struct {
	name     string
	id       asn1.ObjectIdentifier
	critical bool
	required bool // in every certificate; of the others the profile of the holder decides
	decode   func(*decoded, []byte) error
}{
	{"subjectKeyIdentifier", oidSubjectKeyID, false, true, decodeSubjectKeyID},
	{"authorityKeyIdentifier", oidAuthorityKeyID, false, true, decodeAuthorityKeyID},
	{"keyUsage", oidKeyUsage, true, true, decodeKeyUsage},
	{"privateKeyUsagePeriod", oidPrivateKeyPeriod, false, false, decodePeriod},
	{"certificatePolicies", oidPolicies, true, true, decodePolicies},
	{"basicConstraints", oidBasicConstraints, true, true, decodeBasicConstraints},
	{"hashedRootKey", oidHashedRootKey, true, false, decodeHashedRootKey},
	{"certificateType", oidCertificateType, true, true, decodeCertificateType},
	{"merchantData", oidMerchantData, false, false, decodeMerchantData},
	{"cardCertRequired", oidCardCertRequired, false, false, decodeCardCertRequired},
	{"tunneling", oidTunneling, false, false, decodeTunneling},
	{"setExtensions", oidSETExtensions, false, false, decodeSETExtensions},
}

// decodeExtensions reads the extensions of a certificate. Unknown ones are ignored unless critical.
func decodeExtensions(list []extension) (*decoded, error) {
	d := &decoded{}
	seen := make(map[string]bool)
	for _, e := range list {
		i := indexOfKnown(e.ID)
		if i < 0 {
			if e.Critical {
				return nil, fmt.Errorf("unknown critical extension %v", e.ID)
			}
			continue
		}
		k := known[i]
		if e.Critical != k.critical {
			return nil, fmt.Errorf("extension %s has critical %t, want %t", k.name, e.Critical, k.critical)
		}
		if seen[k.name] {
			return nil, fmt.Errorf("extension %s twice", k.name)
		}
		seen[k.name] = true
		if err := k.decode(d, e.Value); err != nil {
			return nil, fmt.Errorf("extension %s: %w", k.name, err)
		}
	}
	for _, k := range known {
		if k.required && !seen[k.name] {
			return nil, fmt.Errorf("no extension %s", k.name)
		}
	}
	return d, nil
}

func indexOfKnown(id asn1.ObjectIdentifier) int {
	for i, k := range known {
		if k.id.Equal(id) {
			return i
		}
	}
	return -1
}

func decodeSubjectKeyID(d *decoded, b []byte) error {
	if err := der.Unmarshal(b, &d.subjectKeyID); err != nil {
		return err
	}
	if n := len(d.subjectKeyID); n == 0 || n > 64 {
		return fmt.Errorf("%d octets, want 1 to 64", n)
	}
	return nil
}

func decodeAuthorityKeyID(d *decoded, b []byte) error {
	var id authorityKeyID
	err := der.Unmarshal(b, &id)
	d.authorityKeyID = id.KeyID
	return err
}

func decodeKeyUsage(d *decoded, b []byte) error {
	var usage keyUsage
	err := der.Unmarshal(b, &usage)
	d.usage = x509.KeyUsage(usage)
	return err
}

func decodePeriod(d *decoded, b []byte) error {
	d.period = &Period{}
	if err := der.Unmarshal(b, d.period); err != nil {
		return err
	}
	if d.period.NotAfter.Before(d.period.NotBefore) {
		return errors.New("ends before it starts")
	}
	return nil
}

func decodePolicies(_ *decoded, b []byte) error {
	var list []policyInformation
	if err := der.Unmarshal(b, &list); err != nil {
		return err
	}
	if len(list) == 0 || !list[0].Policy.Equal(oidPolicyRoot) {
		return fmt.Errorf("SET's policy %v does not come first", oidPolicyRoot)
	}
	return nil
}

func decodeBasicConstraints(d *decoded, b []byte) error {
	if err := der.Unmarshal(b, &d.constraints); err != nil {
		return err
	}
	if p := d.constraints.PathLen; p != nil && (*p < 0 || *p > ChainLengthMax || !d.constraints.CA) {
		return errors.New("path length negative, too large or not of a CA")
	}
	return nil
}

func decodeHashedRootKey(d *decoded, b []byte) error {
	var h hashedRootKey
	if err := der.Unmarshal(b, &h); err != nil {
		return err
	}
	want, err := cms.DD(oidRootKeyThumb, der.Null{})
	if err != nil {
		return err
	}
	want.Content.Digest = h.RootKeyThumbprint.Content.Digest
	if len(want.Content.Digest) != sha256.Size || h.RootKeyThumbprint.Equal(want) != nil {
		return errors.New("not a SHA-256 digest of a root key")
	}
	d.nextRootKey = &h.RootKeyThumbprint
	return nil
}

func decodeCertificateType(d *decoded, b []byte) error { return der.Unmarshal(b, &d.certType) }

func decodeMerchantData(d *decoded, b []byte) error {
	var w merchantData
	if err := der.Unmarshal(b, &w); err != nil {
		return err
	}
	d.merchant = w.plain()
	return nil
}

func decodeCardCertRequired(d *decoded, b []byte) error {
	d.cardCert = new(bool)
	return der.Unmarshal(b, d.cardCert)
}

func decodeTunneling(d *decoded, b []byte) error {
	d.tunneling = &Tunneling{}
	return der.Unmarshal(b, d.tunneling)
}

func decodeSETExtensions(d *decoded, b []byte) error {
	d.setExtensions = []asn1.ObjectIdentifier{}
	return der.Unmarshal(b, &d.setExtensions)
}
