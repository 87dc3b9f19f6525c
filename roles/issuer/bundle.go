package issuer

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/bundle"
	"github.com/setkit/setkit/roles/set/pki"
)

// BundlePath is where Handler gives out the wallet bundle.
const BundlePath = "/wallet-bundle"

// ErrNoBundle tells that no wallet bundle has been made.
var ErrNoBundle = errors.New("no wallet bundle has been made")

// MakeBundle signs b as the bank's next wallet bundle, valid from now for the given time, and gives it out
// from then on. The previous key is nil, or the one that handed over to key. Sequence is set here: it is
// one more than that of the bundle before.
func (i *Issuer) MakeBundle(ctx context.Context, b bundle.Bundle, valid time.Duration, root *pki.Certificate, key, previous crypto.Signer) (*bundle.Signed, error) {
	last, err := i.lastSequence(ctx)
	if err != nil {
		return nil, err
	}
	b.Sequence, b.NotBefore = set.Positive(last+1), i.now()
	b.NotAfter = b.NotBefore.Add(valid)
	if b.NotAfter.After(root.X509.NotAfter) {
		return nil, fmt.Errorf("wallet bundle until %s: the root ends before that, on %s", b.NotAfter.UTC().Format(time.DateOnly), root.X509.NotAfter.Format(time.DateOnly))
	}
	s, err := bundle.Sign(b, root, key, previous)
	if err != nil {
		return nil, err
	}
	err = i.db.Tx(ctx, func(tx *sql.Tx) error {
		done, err := tx.ExecContext(ctx, `INSERT INTO wallet_bundle (sequence, made_s, file) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`,
			int64(s.Sequence), i.now().Unix(), s.Raw)
		if err != nil {
			return err
		}
		if n, err := done.RowsAffected(); err != nil || n == 1 {
			return err
		}
		return errors.New("another was made at the same time: start again")
	})
	if err != nil {
		return nil, fmt.Errorf("store wallet bundle %d: %w", s.Sequence, err)
	}
	return s, nil
}

func (i *Issuer) lastSequence(ctx context.Context) (last int64, err error) {
	err = i.db.View(ctx, func(tx *sql.Tx) error {
		return tx.QueryRowContext(ctx, `SELECT COALESCE(MAX(sequence), 0) FROM wallet_bundle`).Scan(&last)
	})
	if err != nil {
		return 0, fmt.Errorf("last wallet bundle: %w", err)
	}
	return last, nil
}

// lastBundle gives the file that is given out, and when it was made.
func (i *Issuer) lastBundle(ctx context.Context) (file []byte, made time.Time, err error) {
	var seconds int64
	err = i.db.View(ctx, func(tx *sql.Tx) error {
		return tx.QueryRowContext(ctx, `SELECT file, made_s FROM wallet_bundle ORDER BY sequence DESC LIMIT 1`).Scan(&file, &seconds)
	})
	if errors.Is(err, sql.ErrNoRows) {
		err = ErrNoBundle
	}
	return file, time.Unix(seconds, 0), err
}

// giveBundle answers with the last wallet bundle. Whoever has it already asks with its ETag, and every
// time: an old one must not come from a cache while there is a new one.
func (i *Issuer) giveBundle(w http.ResponseWriter, r *http.Request) {
	file, made, err := i.lastBundle(r.Context())
	switch {
	case errors.Is(err, ErrNoBundle):
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	case err != nil:
		i.log.Error("wallet bundle cannot be read", "err", err)
		w.Header().Set("Retry-After", strconv.Itoa(int(readyTimeout.Seconds())))
		http.Error(w, "cannot answer now", http.StatusServiceUnavailable)
		return
	}
	h := w.Header()
	h.Set("Content-Type", bundle.MediaType)
	h.Set("Content-Disposition", `attachment; filename="bank`+bundle.Extension+`"`)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-cache")
	h.Set("ETag", fmt.Sprintf(`"%x"`, sha256.Sum256(file)))
	http.ServeContent(w, r, "", made, bytes.NewReader(file))
}
