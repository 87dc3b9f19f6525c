package wallet

import (
	"context"
	"database/sql"
	"fmt"
	"slices"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/pki"
)

// heldMax is how many certificates of a brand are kept, and shown to merchants by their thumbprints.
const heldMax = 16

// held gives the certificates of gateways and CAs that merchants need not send again (SET §2.8). They are verified
// whenever they are used.
func (w *Wallet) held(ctx context.Context, brand set.BrandID) (certs []*pki.Certificate, err error) {
	err = w.db.View(ctx, func(tx *sql.Tx) error {
		certs = nil
		rows, err := tx.QueryContext(ctx, `SELECT der FROM certificate WHERE brand = $1 ORDER BY used_s DESC, thumb LIMIT $2`, string(brand), heldMax)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var raw []byte
			if err := rows.Scan(&raw); err != nil {
				return err
			}
			c, err := pki.ParseCertificate(raw)
			if err != nil {
				return err
			}
			if w.cfg.Now().Before(c.X509.NotAfter) {
				certs = append(certs, c)
			}
		}
		return rows.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("read certificates that merchants have sent: %w", err)
	}
	return certs, nil
}

// remember keeps the certificates of an offer that others of the brand need too.
func (w *Wallet) remember(ctx context.Context, brand set.BrandID, o *set.Offer) error {
	err := w.db.Tx(ctx, func(tx *sql.Tx) error {
		for _, c := range slices.Concat(o.Others, []*pki.Certificate{o.Gateway}) {
			if c.Type == pki.RCA || c.Use != pki.Authority && c.Thumbprint() != o.Gateway.Thumbprint() {
				continue
			}
			_, err := tx.ExecContext(ctx, `INSERT INTO certificate (brand, thumb, der, used_s) VALUES ($1, $2, $3, $4)
				ON CONFLICT (brand, thumb) DO UPDATE SET used_s = $4`, string(brand), c.Thumbprint().String(), c.X509.Raw, w.cfg.Now().Unix())
			if err != nil {
				return err
			}
		}
		_, err := tx.ExecContext(ctx, `DELETE FROM certificate WHERE brand = $1 AND thumb NOT IN
			(SELECT thumb FROM certificate WHERE brand = $1 ORDER BY used_s DESC, thumb LIMIT $2)`, string(brand), heldMax)
		return err
	})
	if err != nil {
		return fmt.Errorf("keep certificates that a merchant has sent: %w", err)
	}
	return nil
}
