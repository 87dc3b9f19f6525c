package gateway

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/setkit/setkit/roles/finnet"
	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/pki"
	"github.com/setkit/setkit/roles/sethttp"
	"github.com/setkit/setkit/roles/sqldb"
)

const (
	issuerTimeout     = 30 * time.Second // SET §7.10
	claimTimeout      = 45 * time.Second // after that nobody is deciding any more
	answersKept       = 24 * time.Hour
	requestsAtOnceMax = 64
	readyTimeout      = 5 * time.Second
)

// AnswerTimeout is the longest that a merchant waits for an answer to one request.
const AnswerTimeout = claimTimeout

// Issuer is the way to the issuer, as finnet.Client is. Its errors match finnet.ErrNoReply when the
// outcome is unknown and finnet.ErrUnavailable when nothing was sent; any other error says what is
// wrong with the request, which was not sent either. All but Authorize may be repeated.
type Issuer interface {
	Authorize(ctx context.Context, a *finnet.Authorization) (finnet.Answer, error)
	Reverse(ctx context.Context, r *finnet.Reversal) (finnet.ResponseCode, error)
	Clear(ctx context.Context, c *finnet.Clearing) (finnet.ResponseCode, error)
	Refund(ctx context.Context, r *finnet.Refund) (finnet.ResponseCode, error)
	Withdraw(ctx context.Context, w *finnet.Withdrawal) (finnet.ResponseCode, error)
	Reconcile(ctx context.Context, r *finnet.Reconciliation) (finnet.Balance, error)
	Echo(ctx context.Context) error
}

// Sealer encrypts and authenticates account data with a key that does not leave its HSM. Open undoes Seal
// for the same aad only.
type Sealer interface {
	Seal(plaintext, aad []byte) ([]byte, error)
	Open(sealed, aad []byte) ([]byte, error)
}

// Config is what a Gateway needs. All of it is required but Now.
type Config struct {
	Endpoint *set.Endpoint
	DB       *sqldb.DB // from OpenDB
	Issuer   Issuer
	Sealer   Sealer
	Acquirer set.BIN // the acquirer whose merchants are served
	Log      *slog.Logger
	Now      func() time.Time // nil means time.Now
}

// Gateway is a payment gateway of one acquirer and one brand. Several may share a database.
type Gateway struct {
	Config
	current atomic.Pointer[set.Endpoint]
	slots   chan struct{}
}

// endpoint is the gateway's side of the protocol as it is at present.
func (g *Gateway) endpoint() *set.Endpoint { return g.current.Load() }

// New makes a gateway. It refuses certificates that are not a gateway's, or not of the keys.
func New(c Config) (*Gateway, error) {
	if c.Now == nil {
		c.Now = time.Now
	}
	if err := check(c.Endpoint, c.Now()); err != nil {
		return nil, err
	}
	g := &Gateway{Config: c, slots: make(chan struct{}, requestsAtOnceMax)}
	g.current.Store(c.Endpoint)
	return g, nil
}

// Renew has the gateway go on with the certificates and keys of a renewal. Requests under way are finished. It
// refuses what New does, and the certificates of another gateway.
func (g *Gateway) Renew(e *set.Endpoint) error {
	if err := check(e, g.Now()); err != nil {
		return err
	}
	if before := g.endpoint().SignCert; string(e.SignCert.X509.RawSubject) != string(before.X509.RawSubject) {
		return fmt.Errorf("the new certificates are of gateway %s, not of %s", e.SignCert.Subject.CommonName, before.Subject.CommonName)
	}
	g.current.Store(e)
	return nil
}

// check tells whether an endpoint is a gateway's.
func check(e *set.Endpoint, now time.Time) error {
	for _, k := range []struct {
		what string
		cert *pki.Certificate
		use  pki.Use
		key  crypto.PublicKey
	}{{"signature", e.SignCert, pki.Signature, e.SignKey.Public()}, {"key-exchange", e.ExchangeCert, pki.KeyExchange, e.ExchangeKey.Public()}} {
		public, ok := k.cert.X509.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
		switch {
		case k.cert.Type != pki.Pgwy || k.cert.Use != k.use:
			return fmt.Errorf("%s certificate: it is a %v certificate for %v", k.what, k.cert.Type, k.cert.Use)
		case !ok || !public.Equal(k.key):
			return fmt.Errorf("%s certificate: it is not of the configured key", k.what)
		}
		if _, err := e.Verifier.Verify(k.cert, e.Chain, now, pki.Pgwy); err != nil {
			return fmt.Errorf("%s certificate: %w", k.what, err)
		}
	}
	return nil
}

// Handler serves SET messages on every path but /livez and /readyz.
func (g *Gateway) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", sethttp.Handler(sethttp.MediaPayment, g.Log, g.serve))
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", g.ready)
	return mux
}

// requests are what a gateway answers.
var requests = map[set.MessageType]func(g *Gateway, ctx context.Context, now time.Time, w *set.MessageWrapper, octets []byte) ([]byte, error){
	set.AuthReqType:       (*Gateway).authorize,
	set.AuthRevReqType:    (*Gateway).reverse,
	set.CapReqType:        (*Gateway).capture,
	set.CapRevReqType:     (*Gateway).adjust,
	set.CredReqType:       (*Gateway).adjust,
	set.CredRevReqType:    (*Gateway).adjust,
	set.PCertReqType:      (*Gateway).certificates,
	set.BatchAdminReqType: (*Gateway).administer,
}

// serve answers one message. Its error is a *set.ProtocolError, with the Error message for the peer, or
// says why there can be no answer now.
func (g *Gateway) serve(ctx context.Context, request []byte) ([]byte, error) {
	select {
	case g.slots <- struct{}{}:
		defer func() { <-g.slots }()
	default:
		return nil, fmt.Errorf("%d requests are being worked on already", requestsAtOnceMax)
	}
	now := g.Now()
	var response []byte
	w, err := g.endpoint().Receive(now, request, slices.Collect(maps.Keys(requests))...)
	if err == nil {
		// What is begun is finished, also when the merchant goes away.
		work, cancel := context.WithTimeout(context.WithoutCancel(ctx), claimTimeout)
		defer cancel()
		response, err = requests[w.Message.Type()](g, work, now, w, request)
	}
	if errors.Is(err, sqldb.ErrConflict) {
		err = &set.ProtocolError{Code: set.UnspecifiedFailure, Err: err}
	}
	var protocol *set.ProtocolError
	if errors.As(err, &protocol) {
		message, failed := g.endpoint().ErrorResponse(now, request, w, protocol)
		if failed != nil {
			return nil, fmt.Errorf("make the Error message: %w", failed)
		}
		return message, protocol
	}
	return response, err
}

// serves refuses merchants of other acquirers, with whom there is no contract.
func (g *Gateway) serves(merchant *pki.Certificate) error {
	if bin := merchant.Merchant.AcquirerBIN; bin != string(g.Acquirer) {
		thumb := merchant.CertThumb()
		return &set.ProtocolError{Code: set.InvalidCertificate, Thumb: &thumb, Err: fmt.Errorf("merchant of acquirer %s, not %s", bin, g.Acquirer)}
	}
	return nil
}

// need is one thing without which nothing can be answered.
type need struct {
	name string
	run  func(context.Context) error
}

func (g *Gateway) ready(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), readyTimeout)
	defer cancel()
	needs := []need{{"database", g.DB.Ping}, {"issuer", g.Issuer.Echo}, {"hsm", g.pingHSM}}
	status := http.StatusOK
	report := make(map[string]string)
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, c := range needs {
		wg.Go(func() {
			err := c.run(ctx)
			mu.Lock()
			defer mu.Unlock()
			report[c.name] = "ok"
			if err != nil {
				report[c.name], status = "not available", http.StatusServiceUnavailable
				g.Log.Warn("not ready", "what", c.name, "error", err)
			}
		})
	}
	wg.Wait()
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(report)
}

// pingHSM signs, which uses nothing up: the sealing key has a limited number of uses.
func (g *Gateway) pingHSM(context.Context) error {
	digest := sha256.Sum256([]byte("readiness"))
	_, err := g.endpoint().SignKey.Sign(rand.Reader, digest[:], crypto.SHA256)
	return err
}
