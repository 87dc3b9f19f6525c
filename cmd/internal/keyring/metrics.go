package keyring

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/setkit/setkit/hsm"
)

// ServeMetrics logs what happens to the process's HSMs, and serves Prometheus metrics at
// http://ADDRESS/metrics until stop is called. With no address it only logs. The address should not be
// one that strangers reach.
func ServeMetrics(address string, log *slog.Logger) (stop func() error, err error) {
	registry := prometheus.NewRegistry()
	observeHSM(registry, log)
	if address == "" {
		return func() error { return nil }, nil
	}
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	ln, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ln) }()
	log.Info("metrics", "url", "http://"+ln.Addr().String()+"/metrics")
	return func() error {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		err := server.Shutdown(ctx)
		if serr := <-ended; !errors.Is(serr, http.ErrServerClosed) {
			err = errors.Join(err, serr)
		}
		return err
	}, nil
}

// observeHSM counts and logs. A key that several tokens hold gets a line whenever another one of them
// has begun to serve it.
func observeHSM(registry *prometheus.Registry, log *slog.Logger) {
	byCall := []string{"token", "purpose", "operation"}
	calls := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "setkit_hsm_calls_total",
		Help: "Calls of a token, by the PKCS#11 code of their outcome; repeated calls count again."}, append(byCall, "code"))
	took := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "setkit_hsm_call_seconds",
		Help: "Time of a call inside the PKCS#11 library.", Buckets: prometheus.ExponentialBuckets(25e-6, 2, 18)}, byCall)
	queued := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "setkit_hsm_queue_seconds",
		Help: "Time a call waited for a session.", Buckets: prometheus.ExponentialBuckets(1e-6, 4, 13)}, []string{"token"})
	lost := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "setkit_hsm_lost_total",
		Help: "Times a token was lost."}, []string{"token"})
	up := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "setkit_hsm_up",
		Help: "Whether a token can be used: 1, or 0 while it is lost."}, []string{"token"})
	registry.MustRegister(calls, took, queued, lost, up)

	var mu sync.Mutex
	serving := map[string]string{} // token by CKA_ID
	told := map[string]bool{}      // tokens whose state is known
	tell := func(token string, state float64, first bool) {
		mu.Lock()
		defer mu.Unlock()
		if first && told[token] {
			return
		}
		told[token] = true
		up.WithLabelValues(token).Set(state)
	}
	hsm.Observe(hsm.Observer{
		Call: func(c hsm.Call) {
			tell(c.Token, 1, true) // of a token that was never lost
			purpose, operation := string(c.Purpose), cmp.Or(c.Operation, "administration")
			calls.WithLabelValues(c.Token, purpose, operation, outcome(c)).Inc()
			took.WithLabelValues(c.Token, purpose, operation).Observe(c.Took.Seconds())
			queued.WithLabelValues(c.Token).Observe(c.Queued.Seconds())
			if c.Err != nil {
				log.Debug("HSM call failed", "token", c.Token, "key", c.Key, "operation", c.Operation, "error", c.Err)
				return
			}
			if !c.Shared {
				return
			}
			mu.Lock()
			before := serving[c.KeyID]
			serving[c.KeyID] = c.Token
			mu.Unlock()
			if before != "" && before != c.Token {
				log.Info("key is served by another token", "key", c.Key, "token", c.Token, "before", before)
			}
		},
		Lost: func(token string, err error) {
			lost.WithLabelValues(token).Inc()
			tell(token, 0, false)
			log.Warn("HSM lost", "token", token, "error", err)
		},
		Back: func(token string, outage time.Duration) {
			tell(token, 1, false)
			log.Info("HSM is back", "token", token, "outage", outage.String())
		},
	})
}

// outcome is the code of a call, OK, or other for a failure without a code.
func outcome(c hsm.Call) string {
	switch {
	case c.Err == nil:
		return "CKR_OK"
	case c.Code != "":
		return c.Code
	}
	return "other"
}
