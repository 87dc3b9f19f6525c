package pki

import "encoding/asn1"

// Object identifiers of SET (SET §1.5 to 1.7).
var (
	oidRootKeyThumb = asn1.ObjectIdentifier{2, 23, 42, 3, 0, 0}
	oidPolicyRoot   = asn1.ObjectIdentifier{2, 23, 42, 5, 0}

	oidHashedRootKey    = asn1.ObjectIdentifier{2, 23, 42, 7, 0}
	oidCertificateType  = asn1.ObjectIdentifier{2, 23, 42, 7, 1}
	oidMerchantData     = asn1.ObjectIdentifier{2, 23, 42, 7, 2}
	oidCardCertRequired = asn1.ObjectIdentifier{2, 23, 42, 7, 3}
	oidTunneling        = asn1.ObjectIdentifier{2, 23, 42, 7, 4}
	oidSETExtensions    = asn1.ObjectIdentifier{2, 23, 42, 7, 5}
)

// Extensions and attributes of X.509.
var (
	oidSubjectKeyID     = asn1.ObjectIdentifier{2, 5, 29, 14}
	oidKeyUsage         = asn1.ObjectIdentifier{2, 5, 29, 15}
	oidPrivateKeyPeriod = asn1.ObjectIdentifier{2, 5, 29, 16}
	oidBasicConstraints = asn1.ObjectIdentifier{2, 5, 29, 19}
	oidCRLNumber        = asn1.ObjectIdentifier{2, 5, 29, 20}
	oidPolicies         = asn1.ObjectIdentifier{2, 5, 29, 32}
	oidAuthorityKeyID   = asn1.ObjectIdentifier{2, 5, 29, 35}

	oidCommonName   = asn1.ObjectIdentifier{2, 5, 4, 3}
	oidCountry      = asn1.ObjectIdentifier{2, 5, 4, 6}
	oidOrganization = asn1.ObjectIdentifier{2, 5, 4, 10}
	oidUnit         = asn1.ObjectIdentifier{2, 5, 4, 11}
)

var (
	oidSHA256WithRSA   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11}
	oidSHA384WithRSA   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 12}
	oidECDSAWithSHA256 = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}
	oidECDSAWithSHA384 = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 3}
)
