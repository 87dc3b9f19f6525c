package main

import (
	"errors"
	"fmt"
	"slices"
	"time"

	urfave "github.com/urfave/cli/v2"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/roles/set/pki"
)

// shownCRL is a CRL as --json prints it.
type shownCRL struct {
	Signer     string    `json:"signer"`
	Number     int64     `json:"number"`
	ThisUpdate time.Time `json:"thisUpdate"`
	NextUpdate time.Time `json:"nextUpdate"`
	InUse      bool      `json:"inUse"`
	Revoked    []revoked `json:"revoked"`
}

type revoked struct {
	Serial string    `json:"serial"`
	At     time.Time `json:"at"`
}

// shownBCI is a BrandCRLIdentifier as --json prints it.
type shownBCI struct {
	Brand     string    `json:"brand"`
	Sequence  int64     `json:"sequence"`
	NotBefore time.Time `json:"notBefore"`
	NotAfter  time.Time `json:"notAfter"`
	CRLs      []crlRef  `json:"crls"`
}

type crlRef struct {
	Signer string `json:"signer"`
	Number int64  `json:"number"`
}

func (l *lists) printCRL(c *urfave.Context, crl *pki.CRL) error {
	store, err := l.op.Lists(c.Context, l.known)
	if err != nil {
		return err
	}
	shown := l.describe(crl, store)
	if c.Bool("json") {
		return cli.PrintJSON(c.App.Writer, shown)
	}
	use := "it is in use"
	if !shown.InUse {
		use = "it is in use once a BrandCRLIdentifier names it: set-ca bci issue"
	}
	_, err = fmt.Fprintf(c.App.Writer, "CRL %d of %s: %d revoked, to be replaced by %s; %s\n",
		shown.Number, shown.Signer, len(shown.Revoked), shown.NextUpdate.Format(time.DateOnly), use)
	return err
}

func (l *lists) describe(crl *pki.CRL, store pki.Store) shownCRL {
	out := shownCRL{
		Number: crl.Number, ThisUpdate: crl.X509.ThisUpdate, NextUpdate: crl.X509.NextUpdate, Revoked: []revoked{}, Signer: crl.Issuer.Unit,
	}
	if s := of(l.signers, crl.X509.AuthorityKeyId); s != nil {
		out.Signer = s.Name
		out.InUse = s.cert.Type.Has(pki.RCA)
	}
	if bci := store.BCI(crl.Issuer.Brand); bci != nil {
		out.InUse = out.InUse || slices.ContainsFunc(bci.CRLs, func(id pki.CRLID) bool {
			return string(id.RawIssuer) == string(crl.X509.RawIssuer) && id.Number == crl.Number
		})
	}
	for _, e := range crl.X509.RevokedCertificateEntries {
		out.Revoked = append(out.Revoked, revoked{fmt.Sprintf("%x", e.SerialNumber.Bytes()), e.RevocationTime})
	}
	return out
}

// newest gives the newest CRL of each signer, in their order.
func (l *lists) newest(store pki.Store) (out []*pki.CRL) {
	for _, s := range l.signers {
		var best *pki.CRL
		for _, crl := range store.CRLs {
			if string(crl.X509.AuthorityKeyId) == string(s.cert.X509.SubjectKeyId) && (best == nil || crl.Number > best.Number) {
				best = crl
			}
		}
		if best != nil {
			out = append(out, best)
		}
	}
	return out
}

func showCRLs(c *urfave.Context) error {
	cfg, err := load(c)
	if err != nil {
		return err
	}
	return withLists(c, cfg, func(l *lists) error {
		store, err := l.op.Lists(c.Context, l.known)
		if err != nil {
			return err
		}
		shown := []shownCRL{}
		for _, crl := range l.newest(store) {
			shown = append(shown, l.describe(crl, store))
		}
		if c.Bool("json") {
			return cli.PrintJSON(c.App.Writer, shown)
		}
		var rows, entries [][]string
		for _, s := range shown {
			use := "yes"
			if !s.InUse {
				use = "no: set-ca bci issue"
			}
			rows = append(rows, []string{s.Signer, fmt.Sprint(s.Number), s.ThisUpdate.Format(time.RFC3339), due(s.NextUpdate), fmt.Sprint(len(s.Revoked)), use})
			for _, r := range s.Revoked {
				entries = append(entries, []string{s.Signer, r.Serial, r.At.Format(time.RFC3339)})
			}
		}
		err = cli.Table(c.App.Writer, []string{"SIGNER", "NUMBER", "ISSUED", "REPLACE BY", "REVOKED", "IN USE"}, rows)
		if err != nil || len(entries) == 0 {
			return err
		}
		fmt.Fprintln(c.App.Writer)
		return cli.Table(c.App.Writer, []string{"SIGNER", "SERIAL", "REVOKED ON"}, entries)
	})
}

// due tells a date, and whether it is past.
func due(at time.Time) string {
	if time.Now().After(at) {
		return at.Format(time.DateOnly) + " (out of date)"
	}
	return at.Format(time.DateOnly)
}

func (l *lists) printBCI(c *urfave.Context, bci *pki.BrandCRLIdentifier) error {
	shown := shownBCI{Brand: bci.Brand, Sequence: bci.Sequence, NotBefore: bci.Validity.NotBefore, NotAfter: bci.Validity.NotAfter, CRLs: []crlRef{}}
	for _, id := range bci.CRLs {
		name := "unknown"
		for _, s := range l.signers {
			if string(s.cert.X509.RawSubject) == string(id.RawIssuer) {
				name = s.Name
			}
		}
		shown.CRLs = append(shown.CRLs, crlRef{name, id.Number})
	}
	if c.Bool("json") {
		return cli.PrintJSON(c.App.Writer, shown)
	}
	fmt.Fprintf(c.App.Writer, "BrandCRLIdentifier %d of brand %s, valid from %s, to be replaced by %s\n",
		shown.Sequence, cli.Printable(shown.Brand), shown.NotBefore.Format(time.RFC3339), due(shown.NotAfter))
	var rows [][]string
	for _, n := range shown.CRLs {
		rows = append(rows, []string{n.Signer, fmt.Sprint(n.Number)})
	}
	return cli.Table(c.App.Writer, []string{"SIGNER", "CRL"}, rows)
}

func showBCI(c *urfave.Context) error {
	cfg, err := load(c)
	if err != nil {
		return err
	}
	return withLists(c, cfg, func(l *lists) error {
		bci, err := l.current(c)
		if err != nil {
			return err
		}
		return l.printBCI(c, bci)
	})
}

func (l *lists) current(c *urfave.Context) (*pki.BrandCRLIdentifier, error) {
	store, err := l.op.Lists(c.Context, l.known)
	if err != nil {
		return nil, err
	}
	s, err := brand(l.signers)
	if err != nil {
		return nil, err
	}
	bci := store.BCI(s.cert.Brand())
	if bci == nil {
		return nil, errors.New("there is no BrandCRLIdentifier yet: set-ca bci issue")
	}
	return bci, nil
}
