package cms

import (
	"encoding/asn1"
	"fmt"
	"math/big"

	"github.com/setkit/setkit/roles/set/der"
)

// Identifier is how a CMS value names a key: by the issuer and serial number of its certificate. A
// first certificate request is signed by a key without one: an empty issuer and 0.
type Identifier struct {
	Issuer       der.Raw // DER Name
	SerialNumber *big.Int
}

// Inspected is a CMS value as it can be shown to a person. Nothing in it is verified.
type Inspected struct {
	ContentType asn1.ObjectIdentifier // of what is signed, encrypted or digested
	Structure   any                   // the decoded structure, whose fields are exported

	Signers   []Identifier // of a SignedData
	Content   []byte       // what they signed; nil when detached
	Recipient *Identifier  // of an AuthEnvelopedData; nil when it is under a back key
}

// Inspect decodes the SignedData, AuthEnvelopedData or DigestedData in a ContentInfo. With the error of
// a malformed one it gives a Structure that has what stands before the fault.
func Inspect(ci ContentInfo) (*Inspected, error) {
	switch {
	case ci.ContentType.Equal(oidSignedData):
		var sd signedData
		err := der.Unmarshal(ci.Content, &sd)
		in := &Inspected{ContentType: sd.EncapContentInfo.EContentType, Structure: sd}
		if sd.EncapContentInfo.EContent != nil {
			in.Content = *sd.EncapContentInfo.EContent
		}
		if err == nil {
			for _, s := range sd.SignerInfos {
				in.Signers = append(in.Signers, Identifier(s.SID))
			}
		}
		return in, err
	case ci.ContentType.Equal(oidAuthEnvelopedData):
		var body authEnvelopedData
		err := der.Unmarshal(ci.Content, &body)
		in := &Inspected{ContentType: body.EncryptedInfo.ContentType, Structure: body}
		if err == nil {
			if to := body.RecipientInfos[0].KeyTrans; to != nil {
				in.Recipient = &Identifier{to.RID.Issuer, to.RID.SerialNumber}
			}
		}
		return in, err
	case ci.ContentType.Equal(oidDigestedData):
		var dd DigestedData
		err := der.Unmarshal(ci.Content, &dd)
		return &Inspected{ContentType: dd.EncapContentInfo.EContentType, Structure: dd}, err
	}
	return nil, fmt.Errorf("%w: content type %v is none of SET's", ErrMalformed, ci.ContentType)
}
