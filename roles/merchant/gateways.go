package merchant

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/pki"
	"github.com/setkit/setkit/roles/sethttp"
)

// Gateway is a payment gateway as its merchants know it.
type Gateway struct {
	Certificate *pki.Certificate   // for key exchange; its brand is the brand that the gateway serves
	Chain       []*pki.Certificate // the CA certificates above it, without the root
	URL         string             // takes its SET messages
}

// Times of what gateways are asked for again and again (SET §5.11).
const (
	refreshInterval = time.Hour
	refreshPauseMin = time.Minute // also after a failure
)

// known is what the merchant knows of gateways at present.
type known struct {
	asking sync.Mutex // held while gateways are asked: an earlier answer must not take the place of a later one

	mu       sync.Mutex
	gateways []Gateway
	revoked  []error       // by gateway: why none of its certificates is relied on, nil if they are
	learnt   chan struct{} // gets a value when there are lists to store
	heard    chan heard    // gets the certificates that gateways name in their answers
}

// heard is a gateway's certificate, with others that came with it.
type heard struct {
	cert   *pki.Certificate
	others []*pki.Certificate
}

// endpoint is the merchant's side of the protocol as it is at present, which keeps the revocation lists that answers
// bring, and the certificates that gateways have meanwhile.
func (m *Merchant) endpoint() *set.Endpoint {
	e := *m.current.Load()
	e.Learnt = m.learn
	e.LearntGateway = func(cert *pki.Certificate, others []*pki.Certificate) {
		select {
		case m.known.heard <- heard{cert, others}:
		default: // it comes again: the thumbs of the next request show what is not known
		}
	}
	return &e
}

// learn takes revocation lists that came with an answer, unless what was learnt meanwhile is newer.
func (m *Merchant) learn(v *pki.Verifier) {
	m.known.mu.Lock()
	defer m.known.mu.Unlock()
	now, next := m.Endpoint.Verifier, v.Store()
	for _, bci := range now.Store().BCIs {
		if other := next.BCI(bci.Brand); other == nil || other.Sequence < bci.Sequence {
			return // they come again: the thumbs of the next request show what is not known
		}
	}
	if len(v.Roots()) < len(now.Roots()) {
		return
	}
	now.Adopt(v)
	select {
	case m.known.learnt <- struct{}{}:
	default: // there is a value already
	}
}

// gatewaysOf lists the gateways of a brand, in the order of the configuration.
func (m *Merchant) gatewaysOf(brand set.BrandID) (out []Gateway) {
	m.known.mu.Lock()
	defer m.known.mu.Unlock()
	for _, g := range m.known.gateways {
		if g.Certificate.Use == pki.KeyExchange && brand.Matches(set.BrandID(g.Certificate.Brand())) {
			out = append(out, g)
		}
	}
	return out
}

// offered finds the gateway for a new purchase, or for a batch: the first of the brand whose certificate is to be
// relied on at present.
func (m *Merchant) offered(brand set.BrandID) (Gateway, error) {
	var refused []error
	for _, g := range m.gatewaysOf(brand) {
		err := m.verifyGateway(g.Certificate)
		if err == nil {
			return g, nil
		}
		refused = append(refused, fmt.Errorf("the gateway's %v: %w", g.Certificate, err))
	}
	if refused == nil {
		return Gateway{}, fmt.Errorf("no gateway certificate for key exchange is of brand %s", brand)
	}
	return Gateway{}, errors.Join(refused...)
}

// holder finds the gateway that a certificate is of, as it is at present: what one gateway has authorized
// no other one captures.
func (m *Merchant) holder(raw []byte) (Gateway, error) {
	cert, err := pki.ParseCertificate(raw)
	if err != nil {
		return Gateway{}, err
	}
	m.known.mu.Lock()
	defer m.known.mu.Unlock()
	for _, g := range m.known.gateways {
		if string(g.Certificate.X509.RawSubject) == string(cert.X509.RawSubject) {
			return g, nil
		}
	}
	return Gateway{}, fmt.Errorf("gateway %s is not in the configuration any more", cert.Subject.CommonName)
}

// verifyGateway tells whether a gateway's key-exchange certificate is to be relied on at present.
func (m *Merchant) verifyGateway(cert *pki.Certificate) error {
	m.known.mu.Lock()
	var above []*pki.Certificate
	var revoked error
	for i, g := range m.known.gateways {
		if string(g.Certificate.X509.RawSubject) == string(cert.X509.RawSubject) {
			above, revoked = append(above, g.Chain...), m.known.revoked[i]
		}
	}
	m.known.mu.Unlock()
	if revoked != nil {
		return &pki.VerifyError{Reason: pki.Revoked, Thumb: cert.CertThumb(), Err: revoked}
	}
	_, err := m.Endpoint.Verifier.Verify(cert, above, m.Now(), pki.Pgwy)
	return err
}

// keepGateways asks the gateways for their certificates and for what is revoked, at once and then before any of
// it expires, and stores what was learnt, until ctx ends.
func (m *Merchant) keepGateways(ctx context.Context) {
	due := time.NewTimer(0)
	defer due.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.known.learnt:
			if err := m.storeLists(ctx); err != nil && ctx.Err() == nil {
				m.Log.Error("lists of what is revoked cannot be stored", "error", err)
			}
		case h := <-m.known.heard:
			if err := m.replaceGateway(ctx, h); err != nil && ctx.Err() == nil {
				m.Log.Error("the new certificate of a gateway cannot be stored", "error", err)
			}
		case <-due.C:
			pause := m.refreshPause(m.Now())
			if err := m.RefreshGateways(ctx); err != nil {
				pause = refreshPauseMin
				if ctx.Err() == nil {
					m.Log.Warn("gateways do not tell their certificates", "error", err)
				}
			}
			due.Reset(pause)
		}
	}
}

// refreshPause is half of the time until something expires, at most an hour.
func (m *Merchant) refreshPause(now time.Time) time.Duration {
	m.known.mu.Lock()
	defer m.known.mu.Unlock()
	first := now.Add(2 * refreshInterval)
	earlier := func(t time.Time) {
		if t.Before(first) {
			first = t
		}
	}
	for _, g := range m.known.gateways {
		earlier(g.Certificate.X509.NotAfter)
	}
	lists := m.Endpoint.Verifier.Store()
	for _, l := range lists.CRLs {
		earlier(l.X509.NextUpdate)
	}
	for _, b := range lists.BCIs {
		earlier(b.Validity.NotAfter)
	}
	return max(first.Sub(now)/2, refreshPauseMin)
}

// RefreshGateways asks every gateway for its certificate and for the lists of what is revoked (SET §5.11).
func (m *Merchant) RefreshGateways(ctx context.Context) error {
	m.known.asking.Lock()
	defer m.known.asking.Unlock()
	var errs []error
	for i := range m.Gateways {
		errs = append(errs, m.refreshGateway(ctx, i))
	}
	return errors.Join(errs...)
}

func (m *Merchant) refreshGateway(ctx context.Context, i int) error {
	m.known.mu.Lock()
	g := m.known.gateways[i]
	m.known.mu.Unlock()
	e, now := m.endpoint(), m.Now()
	held := append([]*pki.Certificate{g.Certificate}, g.Chain...)
	lists := e.Verifier.Store()
	thumbs := pki.NewThumbs(held, lists.CRLs, lists.BCIs)
	brand := set.BrandID(g.Certificate.Brand())
	r := &set.GatewayCertRequest{RRPID: set.NewRRPID(), Brands: []set.BrandAndBIN{{BrandID: brand}}, Thumbs: &thumbs}
	req, err := e.PCertReq(now, r)
	if err != nil {
		return err
	}
	answer, err := m.Client.Post(ctx, g.URL, sethttp.MediaPayment, req)
	if err != nil {
		return err
	}
	certs, err := e.OpenPCertRes(m.Now(), r, answer, held...)
	var p *set.ProtocolError
	switch {
	case errors.As(err, &p) && p.Code == set.RevokedCertificate:
		m.known.mu.Lock()
		m.known.revoked[i] = err
		m.known.mu.Unlock()
		return fmt.Errorf("gateway %s: %w", g.URL, err)
	case err != nil:
		return fmt.Errorf("gateway %s: %w", g.URL, err)
	case certs.Items[0].Code != set.PCertSuccess:
		return fmt.Errorf("gateway %s has no certificate for brand %s: %v", g.URL, brand, certs.Items[0].Code)
	}
	return m.setGateway(ctx, i, g, heard{certs.Items[0].Certificate, certs.Above})
}

// setGateway has the certificate of gateway i, which is g so far, in the place of the former one. The caller holds
// m.known.asking.
func (m *Merchant) setGateway(ctx context.Context, i int, g Gateway, h heard) error {
	next := Gateway{Certificate: h.cert, Chain: authorities(slices.Concat(h.others, g.Chain)), URL: g.URL}
	if err := m.storeGateway(ctx, set.BrandID(g.Certificate.Brand()), m.Gateways[i].Certificate, next); err != nil {
		return err
	}
	m.known.mu.Lock()
	m.known.gateways[i], m.known.revoked[i] = next, nil
	m.known.mu.Unlock()
	if next.Certificate.Thumbprint() != g.Certificate.Thumbprint() {
		m.Log.Info("the gateway has a new certificate", "certificate", next.Certificate.String(), "gateway", g.URL)
	}
	return nil
}

// replaceGateway takes the certificate that a gateway has named in an answer, unless one as new is known.
func (m *Merchant) replaceGateway(ctx context.Context, h heard) error {
	m.known.asking.Lock()
	defer m.known.asking.Unlock()
	for i := range m.Gateways {
		m.known.mu.Lock()
		g := m.known.gateways[i]
		m.known.mu.Unlock()
		known, cert := g.Certificate.X509, h.cert.X509
		if string(known.RawSubject) != string(cert.RawSubject) || bytes.Equal(known.Raw, cert.Raw) || cert.NotBefore.Before(known.NotBefore) {
			continue
		}
		if err := m.setGateway(ctx, i, g, h); err != nil {
			return err
		}
	}
	return nil
}

// authorities are the CA certificates among others, each once, the newest that came first.
func authorities(certs []*pki.Certificate) (out []*pki.Certificate) {
	for _, c := range certs {
		if c.Use == pki.Authority && c.Type != pki.RCA && len(out) < pki.CandidatesMax/2 &&
			!slices.ContainsFunc(out, func(o *pki.Certificate) bool { return o.Thumbprint() == c.Thumbprint() }) {
			out = append(out, c)
		}
	}
	return out
}

// Kinds of what is stored of gateways.
const (
	learntGateway = "gateway" // by brand: its certificate and those of the CAs above
	learntInstead = "instead" // by brand: the certificate that the configuration had then
	learntLists   = "lists"
)

// storedLists are the lists of what is revoked, in DER.
type storedLists struct{ CRLs, BCIs [][]byte }

// storeGateway keeps what a gateway told of itself, and what the configuration has in its place: two certificates
// of one age are told apart by it.
func (m *Merchant) storeGateway(ctx context.Context, brand set.BrandID, configured *pki.Certificate, g Gateway) error {
	raw := [][]byte{g.Certificate.X509.Raw}
	for _, c := range g.Chain {
		raw = append(raw, c.X509.Raw)
	}
	return errors.Join(
		m.Store.putLearnt(ctx, learntInstead, string(brand), configured.X509.Raw),
		m.Store.putLearnt(ctx, learntGateway, string(brand), raw))
}

func (m *Merchant) storeLists(ctx context.Context) error {
	lists := m.Endpoint.Verifier.Store()
	var out storedLists
	for _, l := range lists.CRLs {
		out.CRLs = append(out.CRLs, l.X509.Raw)
	}
	for _, b := range lists.BCIs {
		out.BCIs = append(out.BCIs, b.Raw)
	}
	return m.Store.putLearnt(ctx, learntLists, "", out)
}

// restore takes what the database has of gateways and of revocation, where that is newer than the
// configuration. What has expired since is left.
func (m *Merchant) restore(ctx context.Context) error {
	for i, g := range m.known.gateways {
		var raw [][]byte
		if err := m.Store.getLearnt(ctx, learntGateway, g.Certificate.Brand(), &raw); err != nil {
			return err
		}
		var certs []*pki.Certificate
		for _, b := range raw {
			c, err := pki.ParseCertificate(b)
			if err != nil {
				return fmt.Errorf("stored certificate of a gateway: %w", err)
			}
			certs = append(certs, c)
		}
		same := len(certs) > 0 && string(certs[0].X509.RawSubject) == string(g.Certificate.X509.RawSubject)
		var configured []byte
		if err := m.Store.getLearnt(ctx, learntInstead, g.Certificate.Brand(), &configured); err != nil {
			return err
		}
		age := 0
		if same {
			age = certs[0].X509.NotBefore.Compare(g.Certificate.X509.NotBefore)
		}
		if age > 0 || same && age == 0 && bytes.Equal(configured, g.Certificate.X509.Raw) {
			m.known.gateways[i].Certificate = certs[0]
		}
		m.known.gateways[i].Chain = authorities(slices.Concat(g.Chain, certs))
	}
	var raw storedLists
	if err := m.Store.getLearnt(ctx, learntLists, "", &raw); err != nil {
		return err
	}
	var crls []*pki.CRL
	for _, b := range raw.CRLs {
		l, err := pki.ParseCRL(b)
		if err != nil {
			return fmt.Errorf("stored CRL: %w", err)
		}
		crls = append(crls, l)
	}
	above := slices.Clone(m.Endpoint.Chain)
	for _, g := range m.known.gateways {
		above = append(above, g.Chain...)
	}
	for _, b := range raw.BCIs {
		bci, err := pki.ParseBCI(b)
		if err != nil {
			return fmt.Errorf("stored BrandCRLIdentifier: %w", err)
		}
		v, err := m.Endpoint.Verifier.Update(bci, crls, above, m.Now())
		if err != nil {
			m.Log.Warn("a stored list of what is revoked is not taken", "error", err)
			continue
		}
		m.Endpoint.Verifier.Adopt(v)
	}
	return nil
}

func (s *Store) putLearnt(ctx context.Context, kind, name string, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return s.db.Tx(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO learnt (kind, name, value) VALUES ($1, $2, $3) ON CONFLICT (kind, name) DO UPDATE SET value = $3`, kind, name, raw)
		if err != nil {
			return fmt.Errorf("store what a gateway told: %w", err)
		}
		return nil
	})
}

// getLearnt leaves v as it is when nothing is stored.
func (s *Store) getLearnt(ctx context.Context, kind, name string, v any) error {
	var raw []byte
	err := s.db.View(ctx, func(tx *sql.Tx) error {
		err := tx.QueryRowContext(ctx, `SELECT value FROM learnt WHERE kind = $1 AND name = $2`, kind, name).Scan(&raw)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		return err
	})
	if err != nil || raw == nil {
		return err
	}
	return json.Unmarshal(raw, v)
}
