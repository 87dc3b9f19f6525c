package merchant

import (
	"fmt"
	"net/http"

	"github.com/setkit/setkit/roles/sethttp"
)

// Handler serves the SET server and the probes. The shop's pages are in roles/merchant/web.
//
//	POST /set                SET messages
//	GET  /livez, /readyz
func (m *Merchant) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/set", sethttp.Handler(sethttp.MediaPayment, m.Log, m.ServeSET))
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "alive") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if err := m.Ready(r.Context()); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ready")
	})
	return mux
}
