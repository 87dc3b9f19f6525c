package bundle

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/der"
	"github.com/setkit/setkit/roles/set/pki"
)

// Open reads a file, verifies its signatures and checks its content. What is left to the caller is
// whether to believe the signer, CheckTime, and that no later bundle is known.
func Open(raw []byte) (*Signed, error) {
	s, err := open(raw)
	if err != nil {
		return nil, fmt.Errorf("wallet bundle: %w", err)
	}
	return s, nil
}

func open(raw []byte) (*Signed, error) {
	if len(raw) > SizeMax {
		return nil, fmt.Errorf("over %d octets", SizeMax)
	}
	var ci cms.ContentInfo
	if err := der.Unmarshal(raw, &ci); err != nil {
		return nil, fmt.Errorf("%w: %w", cms.ErrMalformed, err)
	}
	sd, err := cms.ParseSigned(ci, set.ContentWalletBundle)
	if err != nil {
		return nil, err
	}
	signers, err := verify(sd)
	if err != nil {
		return nil, err
	}
	s := &Signed{Raw: bytes.Clone(raw), content: sd.Content}
	if err := der.Unmarshal(sd.Content, &s.Bundle); err != nil {
		return nil, err
	}
	if s.RootCert, err = s.check(); err != nil {
		return nil, err
	}
	for key, cert := range signers {
		if err := s.checkCertificate(cert); err != nil {
			return nil, fmt.Errorf("certificate of the signer: %w", err)
		}
		if key == s.Signer {
			s.Cert = cert
		} else {
			s.Endorser = cert
		}
	}
	if s.Cert == nil {
		return nil, errors.New("not signed by the key that it names")
	}
	return s, nil
}

// verify checks every signature, under the certificates that came along: one for each signer, and no more.
func verify(sd *cms.SignedData) (map[pki.Digest]*x509.Certificate, error) {
	if len(sd.Certificates) != sd.Signers || sd.Signers == 0 || len(sd.CRLs) > 0 {
		return nil, fmt.Errorf("%w: want one certificate for each signer and no CRLs", cms.ErrMalformed)
	}
	signers := make(map[pki.Digest]*x509.Certificate)
	for i := range sd.Signers {
		cert := sd.SignerCertificate(i)
		if cert == nil {
			return nil, fmt.Errorf("%w: no certificate of signer %d", cms.ErrMalformed, i+1)
		}
		if err := sd.Verify(i, cert.PublicKey); err != nil {
			return nil, err
		}
		signers[sha256.Sum256(cert.RawSubjectPublicKeyInfo)] = cert
	}
	if len(signers) != sd.Signers {
		return nil, errors.New("signed twice by one key")
	}
	return signers, nil
}

var certificateAlgorithms = []x509.SignatureAlgorithm{x509.SHA256WithRSA, x509.ECDSAWithSHA256, x509.ECDSAWithSHA384}

// checkCertificate refuses a certificate that is not of the form that certify gives it. It lies outside
// of what the bundle's signature covers, and must not say anything else than the bundle does.
func (s *Signed) checkCertificate(c *x509.Certificate) error {
	id := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	switch {
	case !bytes.Equal(c.RawIssuer, c.RawSubject) || c.Subject.CommonName != string(s.Bank.Name) || len(c.Subject.Names) != 1:
		return errors.New("not self-signed in the name of the bank")
	case !c.NotBefore.Equal(s.NotBefore) || !c.NotAfter.Equal(s.NotAfter):
		return errors.New("validity is not that of the bundle")
	case c.KeyUsage != x509.KeyUsageDigitalSignature || !bytes.Equal(c.SubjectKeyId, id[:keyIDSize]) ||
		!bytes.Equal(c.AuthorityKeyId, id[:keyIDSize]) || len(c.Extensions) != 3:
		return errors.New("extensions other than keyUsage for digital signatures and the key's identifiers")
	case !slices.Contains(certificateAlgorithms, c.SignatureAlgorithm):
		return fmt.Errorf("signature algorithm %v is refused", c.SignatureAlgorithm)
	}
	return c.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature)
}
