package issuer

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

const readyTimeout = 5 * time.Second

// Handler serves the bank's wallet bundle at BundlePath; /livez, which tells that the process answers; and
// /readyz, which tells whether the database and the HSM do: status 200 or 503, and JSON that names each.
func (i *Issuer) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+BundlePath, i.giveBundle)
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", i.ready)
	return mux
}

func (i *Issuer) ready(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), readyTimeout)
	defer cancel()
	report, status := map[string]string{}, http.StatusOK
	for name, check := range map[string]func() error{
		"database": func() error { return i.db.Ping(ctx) },
		"hsm": func() error {
			_, err := i.sum("ready")
			return err
		},
	} {
		report[name] = "ok"
		if err := check(); err != nil {
			i.log.Warn("not ready", "what", name, "err", err)
			report[name], status = "not available", http.StatusServiceUnavailable
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(report); err != nil {
		i.log.Warn("answer could not be sent", "err", err)
	}
}
