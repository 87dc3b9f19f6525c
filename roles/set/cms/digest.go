package cms

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/asn1"
	"fmt"

	"github.com/setkit/setkit/roles/set/der"
)

// AlgorithmIdentifier names an algorithm and carries its parameters as they stand.
type AlgorithmIdentifier struct {
	Algorithm  asn1.ObjectIdentifier
	Parameters der.Raw `der:"opt"`
}

// ContentInfo is the outer structure of every CMS value (RFC 5652 §3).
type ContentInfo struct {
	ContentType asn1.ObjectIdentifier
	Content     der.Raw `der:"[0]e"`
}

// DetachedDigest is SET's DD: the digest of a typed value that stands elsewhere (SET §3.2), as a
// ContentInfo that holds a DigestedData without eContent (RFC 5652 §7).
type DetachedDigest struct {
	ContentType asn1.ObjectIdentifier
	Content     DigestedData `der:"[0]e"`
}

// DigestedData is RFC 5652 §7.
type DigestedData struct {
	Version          int64
	DigestAlgorithm  AlgorithmIdentifier
	EncapContentInfo EncapsulatedContentInfo
	Digest           []byte `der:"size=1..64"`
}

// EncapsulatedContentInfo is RFC 5652 §5.2; EContent is absent in detached forms.
type EncapsulatedContentInfo struct {
	EContentType asn1.ObjectIdentifier
	EContent     *[]byte `der:"[0]e opt"`
}

// Linked is SET's L(t1, t2): t1 with the detached digest of t2 (SET §3.2).
type Linked[T any] struct {
	Value T
	DD    DetachedDigest
}

// digestedDataVersion is RFC 5652's for an eContentType other than id-data.
const digestedDataVersion = 2

// SHA256 is the digest algorithm of thumbprints and detached digests.
func SHA256() AlgorithmIdentifier { return AlgorithmIdentifier{Algorithm: oidSHA256} }

// Digest is SET's H(t): SHA-256 over the DER of v.
func Digest(v any) ([]byte, error) {
	b, err := der.Marshal(v)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(b)
	return sum[:], nil
}

// DD makes the detached digest of v, whose type is named by contentType.
func DD(contentType asn1.ObjectIdentifier, v any) (DetachedDigest, error) {
	digest, err := Digest(v)
	return DetachedDigest{
		ContentType: oidDigestedData,
		Content: DigestedData{
			Version:          digestedDataVersion,
			DigestAlgorithm:  SHA256(),
			EncapContentInfo: EncapsulatedContentInfo{EContentType: contentType},
			Digest:           digest,
		},
	}, err
}

// Check tells, in constant time, whether d is DD(contentType, v).
func (d DetachedDigest) Check(contentType asn1.ObjectIdentifier, v any) error {
	want, err := DD(contentType, v)
	if err != nil {
		return err
	}
	return d.Equal(want)
}

// Equal tells, in constant time, whether two detached digests are the same.
func (d DetachedDigest) Equal(other DetachedDigest) error {
	a, err := der.Marshal(d)
	if err != nil {
		return err
	}
	b, err := der.Marshal(other)
	if err != nil {
		return err
	}
	if subtle.ConstantTimeCompare(a, b) != 1 {
		return fmt.Errorf("%w: of content type %v", ErrDigest, other.Content.EncapContentInfo.EContentType)
	}
	return nil
}
