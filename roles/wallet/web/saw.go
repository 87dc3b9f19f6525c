package web

import (
	"bytes"
	"crypto/rand"
	"html/template"
	"net/http"
	"strconv"
	"strings"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/wallet"
)

// sawPage tells who saw what of a purchase, or opens one of its messages.
type sawPage struct {
	*wallet.Purchase
	Message int // 0 on the page of all
	Part    template.HTML
}

// sight finds the purchase of a request and what it is shown by, nil if nothing of it was kept; what is wrong it
// answers by itself.
func (w *Window) sight(rw http.ResponseWriter, r *request) (p *wallet.Purchase, s Sight, ok bool) {
	var xid set.XID
	err := xid.UnmarshalText([]byte(r.PathValue("xid")))
	if err == nil {
		p, err = r.wallet.Purchase(r.Context(), xid)
	}
	if err != nil {
		w.refuse(rw, r.Request, http.StatusNotFound, "missing")
		return nil, nil, false
	}
	messages, err := r.wallet.Messages(r.Context(), xid)
	if err == nil && len(messages) > 0 {
		home := w.guard.base + "purchase/" + xid.String() + "/saw"
		s, err = w.cfg.Look(r.language, p, messages, home, func(number int) string { return home + "/" + strconv.Itoa(number) })
	}
	if err != nil {
		w.failed(rw, r, err)
	}
	return p, s, err == nil
}

func (w *Window) saw(rw http.ResponseWriter, r *request) {
	p, s, ok := w.sight(rw, r)
	if !ok {
		return
	}
	page := sawPage{Purchase: p}
	if s != nil {
		var picture strings.Builder
		err := w.pages[string(r.language)+"/saw"].ExecuteTemplate(&picture, "picture", w.guard.base+"purchase/"+p.XID.String()+"/sequence.svg")
		if err == nil {
			page.Part, err = s.Overview(template.HTML(picture.String()))
		}
		if err != nil {
			w.failed(rw, r, err)
			return
		}
	}
	w.render(rw, r, http.StatusOK, "saw", page)
}

func (w *Window) sawMessage(rw http.ResponseWriter, r *request) {
	p, s, ok := w.sight(rw, r)
	if !ok {
		return
	}
	number, err := strconv.Atoi(r.PathValue("number"))
	if err != nil || s == nil {
		w.refuse(rw, r.Request, http.StatusNotFound, "missing")
		return
	}
	part, found, err := s.Opened(number)
	switch {
	case err != nil:
		w.failed(rw, r, err)
	case !found:
		w.refuse(rw, r.Request, http.StatusNotFound, "missing")
	default:
		w.render(rw, r, http.StatusOK, "saw", sawPage{p, number, part})
	}
}

// sequence gives the picture, which may use its own style and nothing else.
func (w *Window) sequence(rw http.ResponseWriter, r *request) {
	_, s, ok := w.sight(rw, r)
	if !ok {
		return
	}
	if s == nil {
		w.refuse(rw, r.Request, http.StatusNotFound, "missing")
		return
	}
	var b bytes.Buffer
	if err := s.SVG(&b); err != nil {
		w.failed(rw, r, err)
		return
	}
	nonce := rand.Text()
	rw.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'nonce-"+nonce+"'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	rw.Header().Set("Content-Type", "image/svg+xml")
	rw.Write(bytes.Replace(b.Bytes(), []byte("<style>"), []byte(`<style nonce="`+nonce+`">`), 1))
}
