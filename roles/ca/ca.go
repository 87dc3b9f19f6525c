package ca

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/setkit/setkit/roles/finnet"
	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/pki"
	"github.com/setkit/setkit/roles/sethttp"
	"github.com/setkit/setkit/roles/sqldb"
)

const (
	registrationLife  = 30 * time.Minute    // SET §7.10
	outcomeLife       = 30 * 24 * time.Hour // of a registration's record; SET §7.10
	answerLife        = 24 * time.Hour
	answerTimeout     = 45 * time.Second
	requestsAtOnceMax = 64
	registrationsMax  = 100_000 // open ones of one CA
	housekeepingPause = 10 * time.Minute
	listsWarning      = 14 * 24 * time.Hour // before revocation lists are out of date
)

// AnswerTimeout is the longest that a requester waits for an answer to one request.
const AnswerTimeout = answerTimeout

// Issuer is the way to the issuers of cards, as finnet.Client is. Its errors match finnet.ErrNoReply or
// finnet.ErrUnavailable when the issuer is away; any other says what is wrong with the check.
type Issuer interface {
	Verify(ctx context.Context, a *finnet.AccountCheck) (finnet.ResponseCode, error)
	Echo(ctx context.Context) error
}

// MAC computes HMACs with a key that does not leave its HSM.
type MAC interface {
	Sum(data []byte) ([]byte, error)
}

// Config is what a CA needs. All of it is required but Now.
type Config struct {
	DB         *sqldb.DB // from OpenDB
	Issuer     Issuer
	PANMAC     MAC
	Cardholder CardholderCA
	Merchant   MerchantCA
	Payment    PaymentCA
	Log        *slog.Logger
	Now        func() time.Time // nil means time.Now
}

// CA is the server.
type CA struct {
	Config
	cca, mca, pca *authority
	slots         chan struct{}

	mu      sync.Mutex
	working map[sqldb.AnswerKey]bool // requests that are being answered

	learning   sync.Mutex
	listsKnown int // how many revocation lists of the database are in use
}

// New checks the configuration: that the keys are those of the certificates, and the certificates those
// of the CAs, valid, and of one brand.
func New(c Config) (*CA, error) {
	if c.Now == nil {
		c.Now = time.Now
	}
	s := &CA{Config: c, slots: make(chan struct{}, requestsAtOnceMax), working: make(map[sqldb.AnswerKey]bool), listsKnown: -1}
	if err := s.learn(context.Background(), c.Now()); err != nil {
		return nil, err
	}
	for _, a := range []struct {
		name string
		typ  pki.Type
		Authority
		form Form
		at   **authority
	}{
		{"cca", pki.CCA, c.Cardholder.Authority, c.Cardholder.Form, &s.cca},
		{"mca", pki.MCA, c.Merchant.Authority, c.Merchant.Form, &s.mca},
		{"pca", pki.PCA, c.Payment.Authority, c.Payment.Form, &s.pca},
	} {
		made, err := newAuthority(a.name, a.typ, a.Authority, c.Payment.Certificate, a.form.template(), c.Now())
		if err != nil {
			return nil, err
		}
		*a.at = made
	}
	for _, a := range []*authority{s.mca, s.pca} {
		if a.Certificate.Brand() != s.cca.Certificate.Brand() {
			return nil, fmt.Errorf("%s is of brand %q, and cca of brand %q", a.name, a.Certificate.Brand(), s.cca.Certificate.Brand())
		}
	}
	return s, errors.Join(c.Cardholder.check(), c.Merchant.check(), c.Payment.check())
}

// Handler serves the CAs' SET messages, /livez and /readyz.
func (s *CA) Handler() http.Handler {
	mux := http.NewServeMux()
	for a, h := range map[*authority]handlers{
		s.cca: {set.CardCInitReqType: s.cardInit, set.RegFormReqType: s.regForm, set.CertReqType: s.certifyCard, set.CertInqReqType: s.inquire(s.cca)},
		s.mca: {set.MeAqCInitReqType: s.entityInit(s.mca), set.CertReqType: s.certifyEntity(s.mca), set.CertInqReqType: s.inquire(s.mca)},
		s.pca: {set.MeAqCInitReqType: s.entityInit(s.pca), set.CertReqType: s.certifyEntity(s.pca), set.CertInqReqType: s.inquire(s.pca)},
	} {
		log := s.Log.With("ca", a.name)
		mux.Handle("/"+a.name, sethttp.Handler(sethttp.MediaRegistration, log, func(ctx context.Context, request []byte) ([]byte, error) {
			return s.serve(ctx, a, h, request)
		}))
	}
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", s.ready)
	return mux
}

// request is a message that was received.
type request struct {
	now    time.Time
	w      *set.MessageWrapper
	key    sqldb.AnswerKey
	digest [sha256.Size]byte
}

// handlers answer the messages that a CA serves. A handler stores its answer.
type handlers map[set.MessageType]func(ctx context.Context, r *request) ([]byte, error)

func (h handlers) types() []set.MessageType {
	var out []set.MessageType
	for t := range h {
		out = append(out, t)
	}
	slices.Sort(out)
	return out
}

// serve answers one message. Its error is a *set.ProtocolError, with the Error message for the peer, or
// says why there can be no answer now.
func (s *CA) serve(ctx context.Context, a *authority, h handlers, octets []byte) ([]byte, error) {
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	default:
		return nil, fmt.Errorf("%d requests are being worked on already", requestsAtOnceMax)
	}
	now := s.Now()
	if err := s.learn(ctx, now); err != nil {
		return nil, err
	}
	w, err := a.Endpoint.Receive(now, octets, h.types()...)
	var response []byte
	if err == nil {
		// What is begun is finished, also when the requester goes away.
		work, cancel := context.WithTimeout(context.WithoutCancel(ctx), answerTimeout)
		defer cancel()
		response, err = s.once(work, &request{
			now: now, w: w, digest: sha256.Sum256(octets),
			key: sqldb.AnswerKey{Peer: a.name, Message: w.Message.Type().String(), RRPID: *w.MessageHeader.RRPID},
		}, h[w.Message.Type()])
	}
	var protocol *set.ProtocolError
	if !errors.As(err, &protocol) {
		return response, err
	}
	message, failed := a.Endpoint.ErrorResponse(now, octets, w, protocol)
	if failed != nil {
		return nil, fmt.Errorf("make the Error message: %w", failed)
	}
	return message, protocol
}

// errWorking tells that another copy of the request is being answered: its answer will be found stored.
var errWorking = errors.New("the same request is being worked on")

// once answers a request, or gives the answer that it got before (SET §7.9).
func (s *CA) once(ctx context.Context, r *request, handle func(context.Context, *request) ([]byte, error)) ([]byte, error) {
	s.mu.Lock()
	if s.working[r.key] {
		s.mu.Unlock()
		return nil, errWorking
	}
	s.working[r.key] = true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.working, r.key)
		s.mu.Unlock()
	}()
	response, found, err := s.stored(ctx, r)
	if found || err != nil {
		return response, err
	}
	response, err = handle(ctx, r)
	if errors.Is(err, sqldb.ErrAnswered) { // by another process
		response, _, err = s.stored(ctx, r)
	}
	if err != nil {
		return nil, err
	}
	return response, nil
}

func (s *CA) stored(ctx context.Context, r *request) ([]byte, bool, error) {
	response, found, err := s.DB.Answer(ctx, r.key, r.digest)
	if errors.Is(err, sqldb.ErrConflict) {
		err = &set.ProtocolError{Code: set.UnspecifiedFailure, Err: err}
	}
	return response, found, err
}

// Run removes what has expired, until ctx ends.
func (s *CA) Run(ctx context.Context) {
	tick := time.NewTicker(housekeepingPause)
	defer tick.Stop()
	for {
		if err := s.housekeep(ctx); err != nil && ctx.Err() == nil {
			s.Log.Warn("what has expired could not be removed", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (s *CA) housekeep(ctx context.Context) error {
	s.warnOfLists(s.Now())
	_, err := s.DB.ExpireAnswers(ctx, s.Now())
	return errors.Join(err, expireEnrolments(ctx, s.DB, s.Now()), expireApplications(ctx, s.DB, s.Now()))
}
