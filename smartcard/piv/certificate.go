package piv

import (
	"bytes"
	"compress/gzip"
	"crypto/x509"
	"fmt"
	"io"

	"github.com/setkit/setkit/smartcard/iso7816"
)

const (
	certificateBytesMax = 16384 // after decompression

	// containerBytes is what SP 800-73-4 gives a certificate: part 1, table 10.
	containerBytes = 1856

	infoCompressed = 0x01
)

// Certificate reads the certificate that is stored for a slot. The error wraps
// smartcard.StatusNotFound if there is none.
func (tx *Tx) Certificate(slot Slot) (*x509.Certificate, error) {
	id, err := slot.certificateObject()
	if err != nil {
		return nil, err
	}
	value, err := tx.Object(id)
	if err != nil {
		return nil, err
	}
	cert, err := parseCertificate(value)
	if err != nil {
		return nil, fmt.Errorf("piv: certificate of slot %v: %w", slot, err)
	}
	return cert, nil
}

// PutCertificate stores a certificate for a slot, compressed if it would not fit
// otherwise. Authenticate comes first.
func (tx *Tx) PutCertificate(slot Slot, cert *x509.Certificate) error {
	id, err := slot.certificateObject()
	if err != nil {
		return err
	}
	if len(cert.Raw) > certificateBytesMax {
		return fmt.Errorf("piv: certificate of %d bytes for slot %v, at most %d are read back", len(cert.Raw), slot, certificateBytesMax)
	}
	body, info := cert.Raw, byte(0)
	if len(body) > containerBytes {
		if body, err = compress(body); err != nil {
			return fmt.Errorf("piv: certificate of slot %v: %w", slot, err)
		}
		info = infoCompressed
	}
	value := iso7816.AppendTLV(nil, 0x70, body)
	value = iso7816.AppendTLV(value, 0x71, []byte{info})
	value = iso7816.AppendTLV(value, 0xFE, nil) // error detection code, not used
	return tx.PutObject(id, value)
}

// DeleteCertificate removes the certificate of a slot; the key stays.
// Authenticate comes first.
func (tx *Tx) DeleteCertificate(slot Slot) error {
	id, err := slot.certificateObject()
	if err != nil {
		return err
	}
	return tx.PutObject(id, nil)
}

// parseCertificate reads 70 certificate, 71 information: SP 800-73-4 part 1,
// table 10. Bit 1 of the information says that the certificate is compressed.
func parseCertificate(object []byte) (*x509.Certificate, error) {
	parts, err := iso7816.ParseTLVs(object)
	if err != nil {
		return nil, err
	}
	der, ok := iso7816.Find(parts, 0x70)
	if !ok {
		return nil, fmt.Errorf("no tag 70: %w", iso7816.ErrMalformed)
	}
	if info, ok := iso7816.Find(parts, 0x71); ok && len(info) == 1 && info[0]&infoCompressed != 0 {
		if der, err = gunzip(der); err != nil {
			return nil, err
		}
	}
	return x509.ParseCertificate(der)
}

func compress(b []byte) ([]byte, error) {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func gunzip(b []byte) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, fmt.Errorf("decompress: %w", err)
	}
	out, err := io.ReadAll(io.LimitReader(r, certificateBytesMax+1))
	if err != nil {
		return nil, fmt.Errorf("decompress: %w", err)
	}
	if len(out) > certificateBytesMax {
		return nil, fmt.Errorf("larger than %d bytes: %w", certificateBytesMax, iso7816.ErrMalformed)
	}
	return out, nil
}
