package main

import (
	"bytes"
	"fmt"
	"time"

	"github.com/setkit/setkit/hsm"
)

// expiryDaysMin is how long a certificate should last.
const expiryDaysMin = 60

func (d *diagnosis) checkCertificates(list []hsm.Certificate, keys []hsm.KeyInfo) {
	for i, c := range list {
		fine := len(d.Findings)
		if c.X509 == nil {
			d.add(severityWarning, "certificate", c.Label, "cannot be read as an X.509 certificate", d.deleteCertificate(c))
			continue
		}
		if i > 0 && list[i-1].Label == c.Label { // they are sorted by label
			d.add(severityWarning, "certificate", c.Label, "another certificate has this label: neither can be told by it",
				"delete one of them by its serial number with the token's own tool")
		}
		d.checkPair(c, keys)
		d.checkValidity(c)
		if len(d.Findings) == fine {
			d.add(severityOK, "certificate", c.Label, "belongs to a key of the token, and ends on "+day(c.X509.NotAfter), "")
		}
	}
}

// checkPair compares a certificate with the key that others would take for its own.
func (d *diagnosis) checkPair(c hsm.Certificate, keys []hsm.KeyInfo) {
	for _, k := range keys {
		if len(k.SPKI) > 0 && k.Label == c.Label && !bytes.Equal(k.SPKI, c.X509.RawSubjectPublicKeyInfo) {
			d.add(severityError, "certificate", c.Label, "the key with this label has another public key than the certificate",
				d.deleteCertificate(c)+", then get one for the key and "+d.command("certs import", "--label", c.Label, "--in", c.Label+".pem"))
			return
		}
	}
	switch {
	case c.Mismatch:
		d.add(severityError, "certificate", c.Label, "the key with its CKA_ID has another public key: programs that pair them by CKA_ID fail",
			d.command("certs export", "--label", c.Label, "--out", "saved.pem")+" && "+d.deleteCertificate(c)+" && "+
				d.command("certs import", "--label", c.Label, "--in", "saved.pem"))
	case !c.HasKey:
		d.add(severityNote, "certificate", c.Label, "the token does not have its key: it is an issuer's, or its key is gone", "")
	}
}

func (d *diagnosis) checkValidity(c hsm.Certificate) {
	bad := severity(severityWarning)
	if c.HasKey {
		bad = severityError
	}
	renew := "get a new certificate, then " + d.deleteCertificate(c) + " && " + d.command("certs import", "--label", c.Label, "--in", c.Label+".pem")
	x := c.X509
	switch {
	case d.now.After(x.NotAfter):
		d.add(bad, "certificate", c.Label, "has expired on "+day(x.NotAfter), renew)
	case d.now.Before(x.NotBefore):
		d.add(severityWarning, "certificate", c.Label, "is valid only from "+day(x.NotBefore), "see with timedatectl that the host's clock is right")
	case d.now.AddDate(0, 0, expiryDaysMin).After(x.NotAfter):
		d.add(severityWarning, "certificate", c.Label, fmt.Sprintf("expires on %s, in %d days", day(x.NotAfter), int(x.NotAfter.Sub(d.now).Hours()/24)), renew)
	}
}

func (d *diagnosis) deleteCertificate(c hsm.Certificate) string {
	return d.command("certs delete", "--label", c.Label)
}

func day(t time.Time) string { return t.UTC().Format(time.DateOnly) }
