package main

import (
	"bytes"
	"fmt"
	"time"

	"github.com/setkit/setkit/hsm"
)

// expiryDaysMin is how long a certificate should last.
const expiryDaysMin = 60

func (d *diagnosis) checkCertificates(list []hsm.Certificate) {
	for i, c := range list {
		fine := len(d.Findings)
		if c.X509 == nil {
			d.add(severityWarning, "certificate", c.Label, "cannot be read as an X.509 certificate", "delete it", d.deleteCertificate(c))
			continue
		}
		if i > 0 && list[i-1].Label == c.Label { // they are sorted by label
			d.add(severityWarning, "certificate", c.Label, "another certificate has this label: neither can be told by it",
				"delete one of them by its serial number with the token's own tool")
		}
		d.checkPair(c)
		d.checkValidity(c)
		if len(d.Findings) == fine {
			d.add(severityOK, "certificate", c.Label, "belongs to a key of the token, and ends on "+day(c.X509.NotAfter), "")
		}
	}
}

// checkPair compares a certificate with the key that others would take for its own.
func (d *diagnosis) checkPair(c hsm.Certificate) {
	for _, k := range d.keys {
		if len(k.SPKI) > 0 && k.Label == c.Label && !bytes.Equal(k.SPKI, c.X509.RawSubjectPublicKeyInfo) {
			d.add(severityError, "certificate", c.Label, "the key with this label has another public key than the certificate",
				"get a certificate for the key, and put it in this one's place", d.deleteCertificate(c), d.importCertificate(c))
			return
		}
	}
	switch {
	case c.Mismatch:
		d.add(severityError, "certificate", c.Label, "the key with its CKA_ID has another public key: programs that pair them by CKA_ID fail",
			"import it anew, which gives it another CKA_ID", d.command("certs export", "--label", c.Label, "--out", c.Label+".pem"),
			d.deleteCertificate(c), d.importCertificate(c))
	case !c.HasKey:
		d.add(severityNote, "certificate", c.Label, "the token does not have its key: it is an issuer's, or its key is gone", "")
	}
}

func (d *diagnosis) checkValidity(c hsm.Certificate) {
	bad := severity(severityWarning)
	if c.HasKey {
		bad = severityError
	}
	renew := func(s severity, text string) {
		d.add(s, "certificate", c.Label, text, "get a new certificate for the key, and put it in this one's place", d.deleteCertificate(c), d.importCertificate(c))
	}
	x := c.X509
	switch {
	case d.now.After(x.NotAfter):
		renew(bad, "has expired on "+day(x.NotAfter))
	case d.now.Before(x.NotBefore):
		d.add(severityWarning, "certificate", c.Label, "is valid only from "+day(x.NotBefore), "see that the host's clock is right", "timedatectl")
	case d.now.AddDate(0, 0, expiryDaysMin).After(x.NotAfter):
		renew(severityWarning, fmt.Sprintf("expires on %s, in %d days", day(x.NotAfter), int(x.NotAfter.Sub(d.now).Hours()/24)))
	}
}

func (d *diagnosis) deleteCertificate(c hsm.Certificate) string {
	return d.command("certs delete", "--label", c.Label)
}

func (d *diagnosis) importCertificate(c hsm.Certificate) string {
	return d.command("certs import", "--label", c.Label, "--in", c.Label+".pem")
}

func day(t time.Time) string { return t.UTC().Format(time.DateOnly) }
