// Package sethttp carries SET messages over HTTP (SET §8.1, §8.2).
//
// A request is one POST with one DER message, and so is its answer. A message that cannot be processed
// is answered by a SET Error message with a 4xx status; a server that cannot work now (its HSM or
// database is away) answers 503 with Retry-After and no message, and the requester sends the same
// octets again: the receiver recognises the repeat by its RRPID.
package sethttp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"strconv"
	"time"

	"github.com/setkit/setkit/roles/set"
)

// Media types of SET (IANA; SET §8.1).
const (
	MediaPayment                = "application/set-payment"
	MediaPaymentInitiation      = "application/set-payment-initiation"
	MediaRegistration           = "application/set-registration"
	MediaRegistrationInitiation = "application/set-registration-initiation"
)

const (
	// retryAfterSeconds is what a server that cannot work now asks its peer to wait.
	retryAfterSeconds = 5

	readHeaderTimeout = 5 * time.Second
	readTimeout       = 20 * time.Second
	idleTimeout       = 60 * time.Second
)

// Serve answers one SET message. Together with a *set.ProtocolError it returns the Error message for the
// peer, or nil where none is to be sent; with any other error it returns nothing, and the peer is told to come again.
type Serve func(ctx context.Context, request []byte) (response []byte, err error)

// Handler serves SET messages of one media type.
func Handler(mediaType string, log *slog.Logger, serve Serve) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			w.Header().Set("Allow", http.MethodPost)
			http.Error(w, "SET messages are sent by POST", http.StatusMethodNotAllowed)
			return
		}
		if got, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || got != mediaType {
			http.Error(w, "want media type "+mediaType, http.StatusUnsupportedMediaType)
			return
		}
		// One octet more than a message may have is enough to see that it is too big.
		request, err := io.ReadAll(io.LimitReader(r.Body, set.MessageOctetsMax+1))
		if err != nil {
			http.Error(w, "the request ended early", http.StatusBadRequest)
			return
		}
		response, err := serve(r.Context(), request)
		log.Debug("exchange", "path", r.URL.Path, "request_octets", len(request), "response_octets", len(response))
		answer(w, mediaType, log, response, err)
	})
}

func answer(w http.ResponseWriter, mediaType string, log *slog.Logger, response []byte, err error) {
	status := http.StatusOK
	var protocol *set.ProtocolError
	switch {
	case err == nil:
	case errors.As(err, &protocol):
		status = http.StatusBadRequest
		if protocol.Code == set.MessageTooBig {
			status = http.StatusRequestEntityTooLarge
		}
		log.Warn("message refused", "code", protocol.Code.String(), "error", err)
	default:
		log.Error("cannot answer now", "error", err)
		w.Header().Set("Retry-After", strconv.Itoa(retryAfterSeconds))
		http.Error(w, "cannot answer now, send the same message again", http.StatusServiceUnavailable)
		return
	}
	if response == nil { // to an Error message
		w.WriteHeader(status)
		return
	}
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Pragma", "no-cache")
	w.Header().Set("Content-Length", strconv.Itoa(len(response)))
	w.WriteHeader(status)
	if _, err := w.Write(response); err != nil {
		log.Warn("peer went away before the answer", "error", err)
	}
}

// NewServer gives an HTTP server with time limits fit for SET messages. timeout is the longest that one
// answer may take.
func NewServer(h http.Handler, timeout time.Duration) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      readTimeout + timeout,
		IdleTimeout:       idleTimeout,
	}
}

// UnreachableError tells that no SET answer came: the peer is away, or says that it cannot work now.
type UnreachableError struct {
	URL string
	Err error
}

func (e *UnreachableError) Error() string { return fmt.Sprintf("no answer from %s: %v", e.URL, e.Err) }
func (e *UnreachableError) Unwrap() error { return e.Err }

// Client sends SET messages. Its zero value is ready.
type Client struct {
	Timeout time.Duration // of one try; 0 means 60 s (SET §7.10)
	Tries   int           // how often the same octets are sent; 0 means 3
	Pause   time.Duration // before the second try, doubled for each further one; 0 means 500 ms

	// Transport makes the connections; nil means http.DefaultTransport.
	Transport http.RoundTripper

	// Record, when set, is called with every message sent and received.
	Record func(url string, request, response []byte)

	// Waiting, when set, is called from another goroutine when an answer takes longer than two seconds.
	Waiting func(url string)
}

// The defaults of a Client.
const (
	defaultTimeout = 60 * time.Second
	defaultTries   = 3
	defaultPause   = 500 * time.Millisecond

	waitingAfter = 2 * time.Second
)

// Post sends a message and gives the answer, a SET message too (perhaps an Error). When no answer
// comes it sends the same octets again, and at last returns an *UnreachableError.
func (c *Client) Post(ctx context.Context, url, mediaType string, request []byte) ([]byte, error) {
	tries, pause := c.Tries, c.Pause
	if tries == 0 {
		tries = defaultTries
	}
	if pause == 0 {
		pause = defaultPause
	}
	for {
		response, retry, err := c.try(ctx, url, mediaType, request)
		if err == nil {
			if c.Record != nil {
				c.Record(url, request, response)
			}
			return response, nil
		}
		if tries--; !retry || tries == 0 || ctx.Err() != nil {
			return nil, &UnreachableError{url, err}
		}
		select {
		case <-ctx.Done():
			return nil, &UnreachableError{url, ctx.Err()}
		case <-time.After(pause):
		}
		pause *= 2
	}
}

// noRedirects keeps a SET message from being sent on to another address.
func noRedirects(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

func (c *Client) try(ctx context.Context, url, mediaType string, request []byte) (response []byte, retry bool, err error) {
	timeout := c.Timeout
	if timeout == 0 {
		timeout = defaultTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(request))
	if err != nil {
		return nil, false, err
	}
	req.Header.Set("Content-Type", mediaType)
	req.Header.Set("Accept", mediaType)
	if c.Waiting != nil {
		defer time.AfterFunc(waitingAfter, func() { c.Waiting(url) }).Stop()
	}
	res, err := (&http.Client{Transport: c.Transport, CheckRedirect: noRedirects}).Do(req)
	if err != nil {
		return nil, true, err
	}
	defer res.Body.Close()
	if got, _, _ := mime.ParseMediaType(res.Header.Get("Content-Type")); got != mediaType {
		return nil, res.StatusCode >= 500, fmt.Errorf("HTTP status %d without a SET message", res.StatusCode)
	}
	response, err = io.ReadAll(io.LimitReader(res.Body, set.MessageOctetsMax+1))
	if err != nil {
		return nil, true, err
	}
	if len(response) > set.MessageOctetsMax {
		return nil, false, fmt.Errorf("answer over %d octets", set.MessageOctetsMax)
	}
	return response, false, nil
}
