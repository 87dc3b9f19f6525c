package sethttp_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/sethttp"
)

var quiet = slog.New(slog.DiscardHandler)

// echo answers a message with itself, and with an Error what it is told to.
func echo(_ context.Context, request []byte) ([]byte, error) {
	switch string(request) {
	case "bad":
		return []byte("error message"), &set.ProtocolError{Code: set.DecodingFailure}
	case "away":
		return nil, errors.New("the database is away")
	}
	if len(request) > set.MessageOctetsMax {
		return []byte("error message"), &set.ProtocolError{Code: set.MessageTooBig}
	}
	return request, nil
}

func TestHandler(t *testing.T) {
	srv := httptest.NewServer(sethttp.Handler(sethttp.MediaPayment, quiet, echo))
	defer srv.Close()
	for name, c := range map[string]struct {
		method, mediaType string
		body              io.Reader
		status            int
		want              string
	}{
		"message":        {"POST", sethttp.MediaPayment, strings.NewReader("hello"), 200, "hello"},
		"parameters":     {"POST", sethttp.MediaPayment + "; x=y", strings.NewReader("hello"), 200, "hello"},
		"refused":        {"POST", sethttp.MediaPayment, strings.NewReader("bad"), 400, "error message"},
		"too big":        {"POST", sethttp.MediaPayment, bytes.NewReader(make([]byte, 2<<20)), 413, "error message"},
		"GET":            {"GET", sethttp.MediaPayment, nil, 405, ""},
		"other media":    {"POST", sethttp.MediaRegistration, strings.NewReader("hello"), 415, ""},
		"no media type":  {"POST", "", strings.NewReader("hello"), 415, ""},
		"not available":  {"POST", sethttp.MediaPayment, strings.NewReader("away"), 503, ""},
		"empty messages": {"POST", sethttp.MediaPayment, strings.NewReader(""), 200, ""},
	} {
		req, err := http.NewRequest(c.method, srv.URL, c.body)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", c.mediaType)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		body, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if res.StatusCode != c.status {
			t.Errorf("%s: status %d, want %d", name, res.StatusCode, c.status)
		}
		if isSET := res.Header.Get("Content-Type") == sethttp.MediaPayment; isSET != (c.want != "" || c.status == 200) {
			t.Errorf("%s: media type %q", name, res.Header.Get("Content-Type"))
		} else if isSET && (string(body) != c.want || res.Header.Get("Cache-Control") != "no-store") {
			t.Errorf("%s: body %q, headers %v", name, body, res.Header)
		}
		if c.status == 503 && res.Header.Get("Retry-After") == "" {
			t.Errorf("%s: no Retry-After", name)
		}
	}
}

// A message is carried both ways up to its limit, and not beyond.
func TestMessageSize(t *testing.T) {
	srv := httptest.NewServer(sethttp.Handler(sethttp.MediaPayment, quiet, echo))
	defer srv.Close()
	grows := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", sethttp.MediaPayment)
		size, _ := strconv.Atoi(r.URL.RawQuery)
		w.Write(make([]byte, size))
	}))
	defer grows.Close()
	c := sethttp.Client{Pause: time.Millisecond}
	for size, ok := range map[int]bool{set.MessageOctetsMax - 1: true, set.MessageOctetsMax: true, set.MessageOctetsMax + 1: false} {
		got, err := c.Post(t.Context(), srv.URL, sethttp.MediaPayment, make([]byte, size))
		if err != nil || (len(got) == size) != ok || !ok && string(got) != "error message" {
			t.Errorf("request of %d octets: %d octets, %v", size, len(got), err)
		}
		if _, err := c.Post(t.Context(), fmt.Sprintf("%s?%d", grows.URL, size), sethttp.MediaPayment, []byte("hello")); (err == nil) != ok {
			t.Errorf("response of %d octets: %v", size, err)
		}
	}
}

// A client sends the same octets again until an answer comes; an Error message is an answer.
func TestClientRetries(t *testing.T) {
	var requests atomic.Int32
	h := sethttp.Handler(sethttp.MediaPayment, quiet, echo)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch requests.Add(1) {
		case 1:
			panic(http.ErrAbortHandler) // the connection breaks
		case 2:
			http.Error(w, "come again", http.StatusServiceUnavailable)
		default:
			h.ServeHTTP(w, r)
		}
	}))
	defer srv.Close()
	c := sethttp.Client{Pause: time.Millisecond}
	got, err := c.Post(t.Context(), srv.URL, sethttp.MediaPayment, []byte("hello"))
	if err != nil || string(got) != "hello" || requests.Load() != 3 {
		t.Errorf("got %q, %v after %d requests", got, err, requests.Load())
	}
	if got, err := c.Post(t.Context(), srv.URL, sethttp.MediaPayment, []byte("bad")); err != nil || string(got) != "error message" {
		t.Errorf("an Error message came as %q, %v", got, err)
	}
}

func TestClientGivesUp(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("followed a redirect") }))
	defer elsewhere.Close()
	big := bytes.Repeat([]byte("x"), set.MessageOctetsMax+1)
	var requests atomic.Int32
	mux := http.NewServeMux()
	mux.HandleFunc("/redirect", func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
	})
	mux.HandleFunc("/html", func(w http.ResponseWriter, r *http.Request) { requests.Add(1); io.WriteString(w, "<html>") })
	mux.HandleFunc("/big", func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		w.Header().Set("Content-Type", sethttp.MediaPayment)
		w.Write(big)
	})
	mux.HandleFunc("/away", func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		w.WriteHeader(http.StatusServiceUnavailable)
	})
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		io.Copy(io.Discard, r.Body) // only then is the end of the connection seen
		<-r.Context().Done()
	})
	srv := httptest.NewServer(mux)
	defer srv.Close()
	c := sethttp.Client{Pause: time.Millisecond}
	for path, want := range map[string]int32{"/redirect": 1, "/html": 1, "/big": 1, "/away": 3, "/slow": 3} {
		requests.Store(0)
		c.Timeout = 20 * time.Second
		if path == "/slow" {
			c.Timeout = 50 * time.Millisecond
		}
		_, err := c.Post(t.Context(), srv.URL+path, sethttp.MediaPayment, []byte("hello"))
		var unreachable *sethttp.UnreachableError
		if !errors.As(err, &unreachable) || unreachable.URL != srv.URL+path {
			t.Errorf("%s: %v", path, err)
		}
		if got := requests.Load(); got != want {
			t.Errorf("%s: %d requests, want %d", path, got, want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	requests.Store(0)
	if _, err := c.Post(ctx, srv.URL+"/away", sethttp.MediaPayment, []byte("hello")); err == nil || requests.Load() > 0 {
		t.Errorf("cancelled: %v after %d requests", err, requests.Load())
	}
}

// Who waits for a slow answer is told of it, once for each try.
func TestClientWaiting(t *testing.T) {
	told := make(chan string, 10)
	srv := httptest.NewServer(sethttp.Handler(sethttp.MediaPayment, quiet, func(ctx context.Context, request []byte) ([]byte, error) {
		if string(request) == "slow" {
			told <- <-told // answers once the client was told
		}
		return request, nil
	}))
	defer srv.Close()
	c := sethttp.Client{Waiting: func(url string) { told <- url }}
	for _, message := range []string{"quick", "slow"} {
		if got, err := c.Post(t.Context(), srv.URL, sethttp.MediaPayment, []byte(message)); err != nil || string(got) != message {
			t.Fatalf("%s: %q, %v", message, got, err)
		}
	}
	if got := <-told; got != srv.URL || len(told) != 0 {
		t.Errorf("told of %s and %d more, want %s alone", got, len(told), srv.URL)
	}
}
