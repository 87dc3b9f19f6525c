package ca

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"net/http"
	"sync"
	"time"
)

const readyTimeout = 5 * time.Second

// ready tells what is missing to answer requests.
func (s *CA) ready(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), readyTimeout)
	defer cancel()
	status := http.StatusOK
	report := make(map[string]string)
	var mu sync.Mutex
	var wg sync.WaitGroup
	for name, check := range map[string]func(context.Context) error{
		"database": s.DB.Ping, "issuer": s.Issuer.Echo, "hsm": s.pingHSM, "certificates": s.checkCertificates,
	} {
		wg.Go(func() {
			err := check(ctx)
			mu.Lock()
			defer mu.Unlock()
			report[name] = "ok"
			if err != nil {
				report[name], status = "not available", http.StatusServiceUnavailable
				s.Log.Warn("not ready", "what", name, "error", err)
			}
		})
	}
	wg.Wait()
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(report) // who asked may have gone
}

// pingHSM uses a key of every token. The certificate-signing keys sign certificates only.
func (s *CA) pingHSM(context.Context) error {
	_, err := s.PANMAC.Sum([]byte("readiness"))
	errs := []error{err}
	for _, a := range []*authority{s.cca, s.mca, s.pca} {
		key := a.Endpoint.SignKey
		hash := crypto.SHA256
		if ec, ok := key.Public().(*ecdsa.PublicKey); ok && ec.Curve == elliptic.P384() {
			hash = crypto.SHA384
		}
		_, err := key.Sign(rand.Reader, make([]byte, hash.Size()), hash)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (s *CA) checkCertificates(context.Context) error {
	now := s.Now()
	return errors.Join(s.cca.current(now), s.mca.current(now), s.pca.current(now))
}
