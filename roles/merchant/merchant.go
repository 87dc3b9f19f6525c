package merchant

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
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

// Gateway is a payment gateway as its merchants know it.
type Gateway struct {
	Certificate *pki.Certificate   // for key exchange; its brand is the brand that the gateway serves
	Chain       []*pki.Certificate // the CA certificates above it, without the root
	URL         string             // takes its SET messages
}

// Config is what a Merchant works with.
type Config struct {
	Endpoint  *set.Endpoint // with both keys and certificates
	Store     *Store
	Catalogue *Catalogue
	Gateways  []Gateway
	BaseURL   string // of the shop as customers reach it
	Log       *slog.Logger

	MerchData  set.MerchData
	CaptureNow bool // capture as soon as a payment is authorized; else Store.Capture asks for it

	// KeysReady, when set, tells whether the keys can be used at present.
	KeysReady func(context.Context) error

	Now           func() time.Time // nil means time.Now
	Client        sethttp.Client   // to the gateways; a zero Timeout means 45 s
	AnswerTimeout time.Duration    // how long a purchase request waits for its outcome; 0 means 50 s
}

// Merchant is a shop with its SET server. Its methods may be called by several goroutines.
type Merchant struct {
	Config
	base     *url.URL
	outcomes broadcast
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
	m.outcomes.next = make(chan struct{})
	return m, m.checkCertificates(c.Now())
}

// checkCertificates tells whether the merchant and a gateway for its brand can be relied on.
func (m *Merchant) checkCertificates(now time.Time) error {
	e := m.Endpoint
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
	_, err := m.gateway(set.BrandID(e.SignCert.Brand()), now)
	return err
}

// gateway finds the gateway of a brand, whose certificate is valid and not revoked by what is known now.
func (m *Merchant) gateway(brand set.BrandID, now time.Time) (*Gateway, error) {
	var refused []error
	for i, g := range m.Gateways {
		if g.Certificate.Use != pki.KeyExchange || !brand.Matches(set.BrandID(g.Certificate.Brand())) {
			continue
		}
		_, err := m.Endpoint.Verifier.Verify(g.Certificate, g.Chain, now, pki.Pgwy)
		if err == nil {
			return &m.Gateways[i], nil
		}
		refused = append(refused, fmt.Errorf("the gateway's %v: %w", g.Certificate, err))
	}
	if len(refused) > 0 {
		return nil, errors.Join(refused...)
	}
	return nil, fmt.Errorf("no gateway certificate for key exchange is of brand %s", brand)
}

// Run sends what must go to the gateways, until ctx ends. The merchant answers purchase requests only
// while it runs, here or in another process on the same database.
func (m *Merchant) Run(ctx context.Context) error {
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		m.expire(ctx)
	}()
	err := m.Store.db.RunJobs(ctx, m.Log, map[string]sqldb.Handler{jobAuthorize: m.authorize, jobCapture: m.captureJob})
	<-stopped
	return err
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
	errs := []error{m.Store.db.Ping(ctx), m.checkCertificates(m.Now())}
	if m.KeysReady != nil {
		errs = append(errs, m.KeysReady(ctx))
	}
	return errors.Join(errs...)
}
