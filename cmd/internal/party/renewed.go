package party

import (
	"context"
	"crypto"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/setkit/setkit/cmd/internal/keyring"
	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/pki"
)

// oldSuffix is of the file with the certificates that renewals have replaced, the newest first.
const oldSuffix = ".old"

// holder is the type of the certificates that a registration is for.
func holder(t set.RequestType) pki.Type {
	if t == set.PgwyInitialBoth {
		return pki.Pgwy
	}
	return pki.Mer
}

// write writes the certificates as ReadHolder reads them.
func (h *Holder) write(w io.Writer) error {
	for _, c := range append([]*pki.Certificate{h.Sign, h.Exchange}, h.Chain...) {
		if err := pem.Encode(w, &pem.Block{Type: "CERTIFICATE", Bytes: c.X509.Raw}); err != nil {
			return err
		}
	}
	return nil
}

func (h *Holder) same(o *Holder) bool {
	return h.Sign.Thumbprint() == o.Sign.Thumbprint() && h.Exchange.Thumbprint() == o.Exchange.Thumbprint()
}

// readFormer reads the certificates that renewals have replaced, of which there may be none.
func (id Identity) readFormer(typ pki.Type) ([]*Holder, error) {
	path := id.Certificates + oldSuffix
	certs, err := ReadCertificates(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	out := []*Holder{{}}
	for _, c := range certs {
		h := out[len(out)-1]
		again := c.Use == pki.Signature && h.Sign != nil || c.Use == pki.KeyExchange && h.Exchange != nil
		if again {
			h = &Holder{}
			out = append(out, h)
		}
		switch {
		case c.Use == pki.Authority:
			h.Chain = append(h.Chain, c)
		case c.Type != typ:
			return nil, fmt.Errorf("%s: %v does not belong here", path, c)
		case c.Use == pki.Signature:
			h.Sign = c
		default:
			h.Exchange = c
		}
	}
	for _, h := range out {
		if h.Sign == nil || h.Exchange == nil {
			return nil, fmt.Errorf("%s: want pairs of certificates for signature and key exchange", path)
		}
	}
	return out, nil
}

func (id Identity) writeFormer(all []*Holder) error {
	return replace(id.Certificates+oldSuffix, func(w io.Writer) error {
		for _, h := range all {
			if err := h.write(w); err != nil {
				return err
			}
		}
		return nil
	})
}

// retire puts the certificates in use, if there are any, among the former ones.
func (id Identity) retire(typ pki.Type) error {
	now, err := ReadHolder(id.Certificates, typ)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	former, err := id.readFormer(typ)
	if err != nil || slices.ContainsFunc(former, now.same) {
		return err
	}
	return id.writeFormer(slices.Insert(former, 0, now)[:min(len(former)+1, generationsMax)])
}

// former opens the former keys that the token still has.
func (id Identity) former(ctx context.Context, ring *keyring.Ring, typ pki.Type, e *set.Endpoint) (out []*set.Endpoint, err error) {
	all, err := id.readFormer(typ)
	if err != nil {
		return nil, err
	}
	for _, h := range all {
		if h.Exchange.Thumbprint() == e.ExchangeCert.Thumbprint() {
			continue // what a renewal left that was interrupted
		}
		key, _, err := find(id.ExchangeKey, h.Exchange.X509.PublicKey, func(ref string) (crypto.Decrypter, error) { return ring.Decrypter(ctx, ref) })
		switch {
		case errors.Is(err, errNotItsKey):
		case err != nil:
			return nil, fmt.Errorf("%s: %w", id.Certificates+oldSuffix, err)
		default:
			out = append(out, &set.Endpoint{SignCert: h.Sign, ExchangeCert: h.Exchange, ExchangeKey: key, Chain: h.Chain})
		}
	}
	return out, nil
}

// tellLost writes to the log of which former certificates the token has the keys no more.
func (r *Refresher) tellLost() {
	all, err := r.Identity.readFormer(holder(r.Type))
	if err != nil {
		return // without what is in the file there is no endpoint
	}
	for _, h := range all {
		opens := func(e *set.Endpoint) bool { return e.ExchangeCert.Thumbprint() == h.Exchange.Thumbprint() }
		if !slices.ContainsFunc(append(r.Endpoint.Former, r.Endpoint), opens) {
			r.Log.Warn("the key of a former certificate is not in the token: what was made for it cannot be opened", "certificate", h.Exchange.String())
		}
	}
}

// forgetRevoked takes the former certificates that are revoked out of their file. Whoever stole their keys can make
// what they open; and CRLs name no certificate that has expired.
func (r *Refresher) forgetRevoked() error {
	all, err := r.Identity.readFormer(holder(r.Type))
	if err != nil {
		return err
	}
	good := slices.DeleteFunc(slices.Clone(all), func(h *Holder) bool { return r.revoked(h) })
	if len(good) == len(all) {
		return nil
	}
	r.Log.Warn("former certificates are revoked: what was made for them is worth nothing any more", "count", len(all)-len(good))
	if len(good) == 0 {
		return os.Remove(r.Identity.Certificates + oldSuffix)
	}
	return r.Identity.writeFormer(good)
}

func (r *Refresher) revoked(h *Holder) bool {
	for _, c := range []*pki.Certificate{h.Sign, h.Exchange} {
		var v *pki.VerifyError
		_, err := r.Endpoint.Verifier.Verify(c, slices.Concat(h.Chain, r.Endpoint.Chain), time.Now())
		if errors.As(err, &v) && v.Reason == pki.Revoked {
			return true
		}
	}
	return false
}

// look has the party go on with renewed certificates, once their file has changed.
func (r *Refresher) look(ctx context.Context, renew func(*set.Endpoint) error) {
	info, err := os.Stat(r.Identity.Certificates)
	if err != nil || time.Now().Before(r.again) || r.seen != nil && os.SameFile(info, r.seen) && info.ModTime().Equal(r.seen.ModTime()) {
		return
	}
	next, err := r.renewed(ctx)
	if err == nil && next != nil {
		err = renew(next)
	}
	switch {
	case ctx.Err() != nil:
	case err != nil:
		r.Log.Error("the certificates in the file are not taken into use: the former ones still are", "file", r.Identity.Certificates, "error", err)
		r.again = time.Now().Add(refreshRetry)
	case next != nil:
		r.Endpoint, r.seen = next, info
		r.Log.Info("renewed certificates are in use", "signature", next.SignCert.String(), "key-exchange", next.ExchangeCert.String())
	default:
		r.seen = info
	}
}

// renewed gives the endpoint of the certificates in the file, nil if these are in use. It has the verifier in use,
// which learns what the renewal has learnt.
func (r *Refresher) renewed(ctx context.Context) (*set.Endpoint, error) {
	h, err := ReadHolder(r.Identity.Certificates, holder(r.Type))
	if err != nil {
		return nil, err
	}
	if h.same(&Holder{Sign: r.Endpoint.SignCert, Exchange: r.Endpoint.ExchangeCert}) {
		return nil, nil
	}
	next, err := r.Identity.Endpoint(ctx, r.Ring, r.Trust, holder(r.Type))
	if err != nil {
		return nil, err
	}
	now := time.Now()
	v, store := r.Endpoint.Verifier.Succeed(next.Verifier.Roots(), now), next.Verifier.Store()
	if v, err = v.Update(nil, store.CRLs, next.Chain, now); err != nil {
		return nil, err
	}
	for _, bci := range store.BCIs {
		if v, err = v.Update(bci, store.CRLs, next.Chain, now); err != nil {
			return nil, err
		}
	}
	r.Endpoint.Verifier.Adopt(v)
	next.Verifier = r.Endpoint.Verifier
	return next, nil
}
