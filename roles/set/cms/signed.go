package cms

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"math/big"
	"slices"

	"github.com/setkit/setkit/roles/set/der"
)

// RSABitsMin is the shortest RSA modulus accepted, for signatures and for key transport.
const RSABitsMin = 2048

// Signer is a private key with the certificate that names it. Without a certificate, the signature
// names an empty issuer and serial number 0, as a first certificate request does (SET §4.6).
type Signer struct {
	Key         crypto.Signer
	Certificate *x509.Certificate
}

type signedData struct {
	Version          int64
	DigestAlgorithms []AlgorithmIdentifier `der:"set size=1..2"`
	EncapContentInfo EncapsulatedContentInfo
	Certificates     []der.Raw    `der:"[0] set opt size=1..16"`
	CRLs             []der.Raw    `der:"[1] set opt size=1..16"`
	SignerInfos      []signerInfo `der:"set size=1..2"`
}

type signerInfo struct {
	Version            int64
	SID                issuerAndSerial
	DigestAlgorithm    AlgorithmIdentifier
	SignedAttrs        []attribute `der:"[0] set size=2..2"`
	SignatureAlgorithm AlgorithmIdentifier
	Signature          []byte `der:"size=1..1024"`
}

type issuerAndSerial struct {
	Issuer       der.Raw
	SerialNumber *big.Int
}

type attribute struct {
	Type   asn1.ObjectIdentifier
	Values []der.Raw `der:"set size=1..1"`
}

// Versions that RFC 5652 §5.1 and §5.3 ask for: an eContentType other than id-data, and a signer
// identified by issuer and serial number.
const (
	signedDataVersion = 3
	signerInfoVersion = 1
)

// emptyName is the issuer of a signature whose key has no certificate yet.
var emptyName = der.Raw{0x30, 0}

// Sign is SET's S: v, typed by contentType, signed by each signer in turn. Certificates and CRLs (DER)
// travel beside it; the signature does not cover them.
func Sign(contentType asn1.ObjectIdentifier, v any, certs []*x509.Certificate, crls [][]byte, signers ...Signer) (ContentInfo, error) {
	content, err := der.Marshal(v)
	if err != nil {
		return ContentInfo{}, err
	}
	return sign(contentType, content, false, certs, crls, signers)
}

// SignDetached is SET's SO: the signature alone, without v.
func SignDetached(contentType asn1.ObjectIdentifier, v any, certs []*x509.Certificate, crls [][]byte, signers ...Signer) (ContentInfo, error) {
	content, err := der.Marshal(v)
	if err != nil {
		return ContentInfo{}, err
	}
	return sign(contentType, content, true, certs, crls, signers)
}

func sign(contentType asn1.ObjectIdentifier, content []byte, detached bool, certs []*x509.Certificate, crls [][]byte, signers []Signer) (ContentInfo, error) {
	sd := signedData{Version: signedDataVersion, EncapContentInfo: EncapsulatedContentInfo{EContentType: contentType}}
	if !detached {
		sd.EncapContentInfo.EContent = &content
	}
	for _, c := range certs {
		sd.Certificates = append(sd.Certificates, c.Raw)
	}
	for _, c := range crls {
		sd.CRLs = append(sd.CRLs, c)
	}
	for _, s := range signers {
		info, err := signOne(contentType, content, s)
		if err != nil {
			return ContentInfo{}, err
		}
		sd.SignerInfos = append(sd.SignerInfos, info)
		if len(sd.DigestAlgorithms) == 0 || !sd.DigestAlgorithms[0].Algorithm.Equal(info.DigestAlgorithm.Algorithm) {
			sd.DigestAlgorithms = append(sd.DigestAlgorithms, info.DigestAlgorithm)
		}
	}
	raw, err := der.Marshal(sd)
	return ContentInfo{oidSignedData, raw}, err
}

func signOne(contentType asn1.ObjectIdentifier, content []byte, s Signer) (signerInfo, error) {
	alg, err := algorithmOf(s.Key.Public())
	if err != nil {
		return signerInfo{}, err
	}
	info := signerInfo{
		Version:            signerInfoVersion,
		SID:                identify(s.Certificate),
		DigestAlgorithm:    AlgorithmIdentifier{Algorithm: alg.digestOID},
		SignatureAlgorithm: alg.signature,
	}
	if info.SignedAttrs, err = signedAttributes(contentType, alg.digest(content)); err != nil {
		return signerInfo{}, err
	}
	toSign, err := der.MarshalSet(info.SignedAttrs)
	if err != nil {
		return signerInfo{}, err
	}
	info.Signature, err = s.Key.Sign(rand.Reader, alg.digest(toSign), alg.hash)
	if err != nil {
		return signerInfo{}, fmt.Errorf("sign content type %v: %w", contentType, err)
	}
	return info, nil
}

func identify(cert *x509.Certificate) issuerAndSerial {
	if cert == nil {
		return issuerAndSerial{emptyName, new(big.Int)}
	}
	return issuerAndSerial{cert.RawIssuer, cert.SerialNumber}
}

func (id issuerAndSerial) names(cert *x509.Certificate) bool {
	other := identify(cert)
	return bytes.Equal(id.Issuer, other.Issuer) && id.SerialNumber.Cmp(other.SerialNumber) == 0
}

func signedAttributes(contentType asn1.ObjectIdentifier, digest []byte) ([]attribute, error) {
	typ, err := der.Marshal(contentType)
	if err != nil {
		return nil, err
	}
	sum, err := der.Marshal(digest)
	return []attribute{{oidContentType, []der.Raw{typ}}, {oidMessageDigest, []der.Raw{sum}}}, err
}

// algorithm is how a kind of key signs.
type algorithm struct {
	hash      crypto.Hash
	digestOID asn1.ObjectIdentifier
	signature AlgorithmIdentifier
}

func (a algorithm) digest(b []byte) []byte {
	if a.hash == crypto.SHA384 {
		sum := sha512.Sum384(b)
		return sum[:]
	}
	sum := sha256.Sum256(b)
	return sum[:]
}

// algorithmOf gives the one signature algorithm of a key, or refuses the key by name.
func algorithmOf(pub crypto.PublicKey) (algorithm, error) {
	switch k := pub.(type) {
	case *rsa.PublicKey:
		if k.N.BitLen() < RSABitsMin {
			return algorithm{}, fmt.Errorf("RSA key of %d bits: %d is the least", k.N.BitLen(), RSABitsMin)
		}
		return algorithm{crypto.SHA256, oidSHA256, AlgorithmIdentifier{oidSHA256WithRSA, asn1.NullBytes}}, nil
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			return algorithm{crypto.SHA256, oidSHA256, AlgorithmIdentifier{Algorithm: oidECDSAWithSHA256}}, nil
		case elliptic.P384():
			return algorithm{crypto.SHA384, oidSHA384, AlgorithmIdentifier{Algorithm: oidECDSAWithSHA384}}, nil
		}
		return algorithm{}, fmt.Errorf("ECDSA key on %s: want P-256 or P-384", k.Params().Name)
	}
	return algorithm{}, fmt.Errorf("signature key of type %T: want RSA or ECDSA", pub)
}

// SignedData is a parsed SignedData. Nothing in it is to be believed before Verify.
type SignedData struct {
	ContentType  asn1.ObjectIdentifier
	Content      []byte // nil when detached
	Certificates []*x509.Certificate
	CRLs         [][]byte
	Signers      int

	infos []signerInfo
}

// ParseSigned reads a SignedData whose content has the given type.
func ParseSigned(ci ContentInfo, contentType asn1.ObjectIdentifier) (*SignedData, error) {
	if !ci.ContentType.Equal(oidSignedData) {
		return nil, fmt.Errorf("%w: content type %v where SignedData is expected", ErrMalformed, ci.ContentType)
	}
	var sd signedData
	if err := der.Unmarshal(ci.Content, &sd); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if sd.Version != signedDataVersion {
		return nil, fmt.Errorf("%w: SignedData version %d, want %d", ErrMalformed, sd.Version, signedDataVersion)
	}
	if !sd.digestsListed() {
		return nil, fmt.Errorf("%w: digestAlgorithms are not those of the signers", ErrMalformed)
	}
	if !sd.EncapContentInfo.EContentType.Equal(contentType) {
		return nil, fmt.Errorf("%w: signed content type %v, want %v", ErrMalformed, sd.EncapContentInfo.EContentType, contentType)
	}
	out := &SignedData{ContentType: contentType, Signers: len(sd.SignerInfos), infos: sd.SignerInfos}
	if sd.EncapContentInfo.EContent != nil {
		out.Content = *sd.EncapContentInfo.EContent
	}
	for _, raw := range sd.Certificates {
		cert, err := x509.ParseCertificate(raw)
		if err != nil {
			return nil, fmt.Errorf("%w: certificate: %w", ErrMalformed, err)
		}
		out.Certificates = append(out.Certificates, cert)
	}
	for _, raw := range sd.CRLs {
		out.CRLs = append(out.CRLs, raw)
	}
	return out, nil
}

// digestsListed tells whether digestAlgorithms and the digest algorithms of the signers are the same set.
func (sd *signedData) digestsListed() bool {
	uses := func(infos []signerInfo, a AlgorithmIdentifier) bool {
		return slices.ContainsFunc(infos, func(i signerInfo) bool { return sameAlgorithm(i.DigestAlgorithm, a) })
	}
	for _, a := range sd.DigestAlgorithms {
		if !uses(sd.SignerInfos, a) {
			return false
		}
	}
	for _, i := range sd.SignerInfos {
		if !slices.ContainsFunc(sd.DigestAlgorithms, func(a AlgorithmIdentifier) bool { return sameAlgorithm(a, i.DigestAlgorithm) }) {
			return false
		}
	}
	return true
}

// Names tells whether signer i says that it is the key of cert; nil asks for the signer without a
// certificate.
func (s *SignedData) Names(i int, cert *x509.Certificate) bool {
	return i < len(s.infos) && s.infos[i].SID.names(cert)
}

// SignerCertificate finds, among the certificates that came along and the others given, the one that
// signer i names. It is not verified.
func (s *SignedData) SignerCertificate(i int, others ...*x509.Certificate) *x509.Certificate {
	for _, certs := range [][]*x509.Certificate{s.Certificates, others} {
		for _, c := range certs {
			if s.Names(i, c) {
				return c
			}
		}
	}
	return nil
}

// Verify checks signer i over the content that came, under pub.
func (s *SignedData) Verify(i int, pub crypto.PublicKey) error {
	if s.Content == nil {
		return fmt.Errorf("%w: no content", ErrMalformed)
	}
	return s.verify(i, s.Content, pub)
}

// VerifyDetached checks signer i of an SO over v, under pub.
func (s *SignedData) VerifyDetached(i int, v any, pub crypto.PublicKey) error {
	if s.Content != nil {
		return fmt.Errorf("%w: content where a signature alone is expected", ErrMalformed)
	}
	content, err := der.Marshal(v)
	if err != nil {
		return err
	}
	return s.verify(i, content, pub)
}

func (s *SignedData) verify(i int, content []byte, pub crypto.PublicKey) error {
	if i >= len(s.infos) {
		return fmt.Errorf("%w: %d signers, want %d", ErrSignature, len(s.infos), i+1)
	}
	info := s.infos[i]
	alg, err := algorithmOf(pub)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrSignature, err)
	}
	if info.Version != signerInfoVersion || !sameAlgorithm(info.DigestAlgorithm, AlgorithmIdentifier{Algorithm: alg.digestOID}) ||
		!sameAlgorithm(info.SignatureAlgorithm, alg.signature) {
		return fmt.Errorf("%w: algorithm %v does not fit the key", ErrSignature, info.SignatureAlgorithm.Algorithm)
	}
	want, err := signedAttributes(s.ContentType, alg.digest(content))
	if err != nil {
		return err
	}
	wantSet, err := der.MarshalSet(want)
	if err != nil {
		return err
	}
	gotSet, err := der.MarshalSet(info.SignedAttrs)
	if err != nil {
		return err
	}
	if !bytes.Equal(gotSet, wantSet) {
		return fmt.Errorf("%w: signed attributes are not those of the content", ErrSignature)
	}
	if !checkSignature(pub, alg, gotSet, info.Signature) {
		return ErrSignature
	}
	return nil
}

func checkSignature(pub crypto.PublicKey, alg algorithm, signed, signature []byte) bool {
	switch k := pub.(type) {
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(k, alg.hash, alg.digest(signed), signature) == nil
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(k, alg.digest(signed), signature)
	}
	return false
}
