package party

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/setkit/setkit/cmd/internal/keyring"
	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/pki"
	"github.com/setkit/setkit/roles/sethttp"
)

// Parts of the file of what a CA has sent, beside the certificates.
const (
	listsSuffix   = ".lists"
	listsBytesMax = 8 << 20
	bciPEM        = "SETKIT BRAND CRL IDENTIFIER"
	crlPEM        = "X509 CRL"
	rootPEM       = "CERTIFICATE"
)

// How often a party asks its CA what is new.
const (
	refreshPause   = 15 * time.Minute
	refreshRetry   = time.Minute
	refreshTimeout = 10 * time.Second
)

// lookPause is how often a party looks whether its certificates were renewed.
const lookPause = 2 * time.Second

// Refresher keeps a serving party up to date: what it knows of revocation and of the root that takes over, and
// its own certificates. For the first it begins a registration at its CA, whose answer has all that the
// thumbprints in the request do not show (SET §6.6), and goes no further with it.
type Refresher struct {
	Endpoint  *set.Endpoint
	Identity  Identity
	Trust     Trust
	Ring      *keyring.Ring
	Enrolment Enrolment
	Type      set.RequestType
	Who       set.IDData
	Log       *slog.Logger

	seen  os.FileInfo // the file of certificates as it was looked at
	again time.Time   // not before this it is looked at after a failure
}

// Once asks once, unless there is no CA in the configuration.
func (r *Refresher) Once(ctx context.Context) error {
	if r.Enrolment.CA == "" {
		return r.forgetRevoked()
	}
	m, err := set.NewMeAqEnrolment(r.Enrolment.Brand, r.Enrolment.Language, r.Type, r.Who)
	if err != nil {
		return err
	}
	req, err := m.InitReq(r.Endpoint, time.Now())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, refreshTimeout)
	defer cancel()
	res, err := (&sethttp.Client{Tries: 1}).Post(ctx, r.Enrolment.CA, sethttp.MediaRegistration, req)
	if err != nil {
		return err
	}
	var referral *set.ReferralError // the lists are in it as well
	if _, err := m.OpenInitRes(r.Endpoint, time.Now(), res); err != nil && !errors.As(err, &referral) {
		return err
	}
	before := r.Endpoint.Verifier.Store()
	r.Endpoint.Verifier.Adopt(m.Verifier())
	r.tell(before)
	return errors.Join(keepLists(r.Identity.Certificates+listsSuffix, r.Endpoint.Verifier), r.forgetRevoked())
}

// tell writes to the log what is new.
func (r *Refresher) tell(before pki.Store) {
	for _, b := range r.Endpoint.Verifier.Store().BCIs {
		if old := before.BCI(b.Brand); old == nil || old.Sequence != b.Sequence {
			r.Log.Info("BrandCRLIdentifier taken into use", "brand", b.Brand, "sequence", b.Sequence, "until", b.Validity.NotAfter)
		}
	}
}

// Run asks and looks again and again, until ctx ends. It hands renewed certificates to renew.
func (r *Refresher) Run(ctx context.Context, renew func(*set.Endpoint) error) {
	ask, look := time.NewTimer(refreshPause), time.NewTicker(lookPause)
	defer ask.Stop()
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
			r.look(ctx, renew)
		case <-ask.C:
			pause := refreshPause
			if err := r.Once(ctx); err != nil && ctx.Err() == nil {
				r.Log.Warn("the CA was asked for revocation lists in vain: what is known is used until it is out of date", "error", err)
				pause = refreshRetry
			}
			ask.Reset(pause)
		}
	}
}

// Start asks once, before the party looks at its own certificates and serves. What it gives adds the asking
// to the party's jobs, and the looking after its certificates, which go to renew. That the CA is away is no
// reason not to serve.
func (r *Refresher) Start(ctx context.Context) (beside func(jobs func(context.Context) error, renew func(*set.Endpoint) error) func(context.Context) error) {
	if err := r.Once(ctx); err != nil {
		r.Log.Warn("the CA was asked for revocation lists in vain: what is known is used until it is out of date", "error", err)
	}
	r.tellLost()
	return func(jobs func(context.Context) error, renew func(*set.Endpoint) error) func(context.Context) error {
		return func(ctx context.Context) error {
			ctx, cancel := context.WithCancel(ctx)
			var beside sync.WaitGroup
			beside.Go(func() { r.Run(ctx, renew) })
			defer beside.Wait()
			defer cancel()
			return jobs(ctx)
		}
	}
}

// keepLists writes what a verifier knows beyond its configuration.
func keepLists(path string, v *pki.Verifier) error {
	var b bytes.Buffer
	add := func(typ string, der []byte) { pem.Encode(&b, &pem.Block{Type: typ, Bytes: der}) }
	for _, root := range v.Roots() {
		add(rootPEM, root.X509.Raw)
	}
	store := v.Store()
	for _, bci := range store.BCIs {
		add(bciPEM, bci.Raw)
	}
	for _, l := range store.CRLs {
		add(crlPEM, l.X509.Raw)
	}
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, b.Bytes()) {
		return nil
	}
	return replace(path, func(w io.Writer) error {
		_, err := w.Write(b.Bytes())
		return err
	})
}

// replace writes a file, whole or not at all.
func replace(path string, write func(io.Writer) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-")
	if err != nil {
		return err
	}
	err = write(f)
	if err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// readLists adds what keepLists wrote to a store, and gives the roots. The lists were verified when the CA
// sent them; the file is to be as safe as that of the root.
func readLists(path string, store *pki.Store) (roots []*pki.Certificate, err error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if len(text) > listsBytesMax {
		return nil, fmt.Errorf("%s: larger than %d bytes", path, listsBytesMax)
	}
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if err := addKept(&roots, store, block); err != nil {
			return nil, fmt.Errorf("%s: %w: remove the file, and the CA sends it again", path, err)
		}
	}
	return roots, nil
}

func addKept(roots *[]*pki.Certificate, store *pki.Store, block *pem.Block) error {
	switch block.Type {
	case rootPEM:
		c, err := pki.ParseCertificate(block.Bytes)
		*roots = append(*roots, c)
		return err
	case bciPEM:
		b, err := pki.ParseBCI(block.Bytes)
		if err == nil {
			addBCI(store, b)
		}
		return err
	case crlPEM:
		l, err := pki.ParseCRL(block.Bytes)
		store.CRLs = append(store.CRLs, l)
		return err
	}
	return fmt.Errorf("unknown PEM block %q", block.Type)
}

// addBCI keeps the newer of two BrandCRLIdentifiers of a brand.
func addBCI(store *pki.Store, b *pki.BrandCRLIdentifier) {
	old := store.BCI(b.Brand)
	if old != nil && old.Sequence > b.Sequence {
		return
	}
	store.BCIs = append(slices.DeleteFunc(store.BCIs, func(o *pki.BrandCRLIdentifier) bool { return o == old }), b)
}
