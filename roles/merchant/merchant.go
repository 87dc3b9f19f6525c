package merchant

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/pki"
	"github.com/setkit/setkit/roles/sethttp"
	"github.com/setkit/setkit/roles/sqldb"
)

const (
	initiatedLife = 30 * time.Minute // a started transaction waits so long for its purchase request (SET §7.10)
	initiatedMax  = 20               // started transactions of one order
	answerLife    = 24 * time.Hour   // far over the freshness window of a message

	// answerTimeout is how long a purchase request waits for its outcome, less than the 60 s after which
	// the cardholder gives up (SET §7.10).
	answerTimeout = 50 * time.Second

	gatewayTimeout = 45 * time.Second // of one try (SET §7.10)
	expiryInterval = 5 * time.Minute
)

// Capture says when a payment is captured.
type Capture string

// When a payment is captured.
const (
	CaptureManually    Capture = "manual"    // when the operator asks for it
	CaptureImmediately Capture = "immediate" // as soon as it is authorized
	CaptureWithSale    Capture = "sale"      // by the request that authorizes it (SET §7.4, captureNow)
)

// Config is what a Merchant works with.
type Config struct {
	Endpoint  *set.Endpoint // with both keys and certificates
	Store     *Store
	Catalogue *Catalogue
	Gateways  []Gateway
	BaseURL   string // of the shop as customers reach it
	Log       *slog.Logger

	MerchData set.MerchData
	Capture   Capture

	// KeysReady, when set, tells whether the keys can be used at present.
	KeysReady func(context.Context) error

	Now           func() time.Time // nil means time.Now
	Client        sethttp.Client   // to the gateways; a zero Timeout means 45 s
	AnswerTimeout time.Duration    // how long a purchase request waits for its outcome; 0 means 50 s
}

// Merchant is a shop with its SET server. Its methods may be called by several goroutines.
type Merchant struct {
	Config
	current  atomic.Pointer[set.Endpoint]
	base     *url.URL
	outcomes broadcast
	known    known
}

// New checks the configuration.
func New(c Config) (*Merchant, error) {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Client.Timeout == 0 {
		c.Client.Timeout = gatewayTimeout
	}
	if c.AnswerTimeout == 0 {
		c.AnswerTimeout = answerTimeout
	}
	base, err := url.Parse(c.BaseURL)
	if err != nil || base.Scheme != "http" && base.Scheme != "https" || base.Host == "" || base.User != nil || base.RawQuery != "" {
		return nil, fmt.Errorf("base URL %q: want an http or https address without query", c.BaseURL)
	}
	if err := c.Catalogue.check(); err != nil {
		return nil, err
	}
	m := &Merchant{Config: c, base: base}
	m.current.Store(c.Endpoint)
	m.outcomes.next = make(chan struct{})
	m.known = known{
		gateways: slices.Clone(c.Gateways), revoked: make([]error, len(c.Gateways)), learnt: make(chan struct{}, 1), heard: make(chan heard, 1),
	}
	if err := checkOwnCertificates(c.Endpoint, c.Now()); err != nil {
		return nil, err
	}
	if c.Store != nil {
		if err := m.restore(context.Background()); err != nil {
			return nil, err
		}
	}
	return m, m.checkGateway()
}

// Renew has the merchant go on with the certificates and keys of a renewal. Its verifier must be the one that the
// merchant has. It refuses what New does, and the certificates of another merchant.
func (m *Merchant) Renew(e *set.Endpoint) error {
	if err := checkOwnCertificates(e, m.Now()); err != nil {
		return err
	}
	before := m.current.Load().SignCert
	if string(e.SignCert.X509.RawSubject) != string(before.X509.RawSubject) || e.SignCert.Merchant.MerchantID != before.Merchant.MerchantID {
		return fmt.Errorf("the new certificates are of merchant %s, not of %s", e.SignCert.Merchant.MerchantID, before.Merchant.MerchantID)
	}
	m.current.Store(e)
	return nil
}

// checkOwnCertificates tells whether the merchant itself can be relied on.
func checkOwnCertificates(e *set.Endpoint, now time.Time) error {
	for _, own := range []struct {
		cert *pki.Certificate
		use  pki.Use
	}{{e.SignCert, pki.Signature}, {e.ExchangeCert, pki.KeyExchange}} {
		if own.cert == nil || own.cert.Use != own.use {
			return fmt.Errorf("the merchant's %v certificate is missing: enrol first", own.use)
		}
		if _, err := e.Verifier.Verify(own.cert, e.Chain, now, pki.Mer); err != nil {
			return fmt.Errorf("the merchant's %v: %w", own.cert, err)
		}
	}
	return nil
}

// checkGateway tells whether there is a gateway for the merchant's brand. One whose certificate has expired or
// was revoked can still be asked for a new one.
func (m *Merchant) checkGateway() error {
	_, err := m.offered(set.BrandID(m.Endpoint.SignCert.Brand()))
	var v *pki.VerifyError
	if errors.As(err, &v) && v.Reason != pki.Invalid && m.Store != nil {
		m.Log.Warn("a gateway's certificate is not to be relied on, and a new one is asked for", "error", err)
		return nil
	}
	return err
}

// Run sends what must go to the gateways, until ctx ends. The merchant answers purchase requests only
// while it runs, here or in another process on the same database.
func (m *Merchant) Run(ctx context.Context) error {
	var beside sync.WaitGroup
	defer beside.Wait()
	beside.Go(func() { m.expire(ctx) })
	beside.Go(func() { m.keepGateways(ctx) })
	return m.Store.db.RunJobs(ctx, m.Log, map[string]sqldb.Handler{jobOperate: m.operate})
}

func (m *Merchant) expire(ctx context.Context) {
	t := time.NewTicker(expiryInterval)
	defer t.Stop()
	for {
		if err := m.Store.expire(ctx, m.Now()); err != nil && ctx.Err() == nil {
			m.Log.Error("old answers cannot be removed", "error", err)
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
}

// Ready tells what the merchant lacks to sell at present.
func (m *Merchant) Ready(ctx context.Context) error {
	_, gatewayErr := m.offered(set.BrandID(m.Endpoint.SignCert.Brand()))
	errs := []error{m.Store.db.Ping(ctx), checkOwnCertificates(m.endpoint(), m.Now()), gatewayErr}
	if m.KeysReady != nil {
		errs = append(errs, m.KeysReady(ctx))
	}
	return errors.Join(errs...)
}
