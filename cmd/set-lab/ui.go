package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"embed"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	urfave "github.com/urfave/cli/v2"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/cmd/internal/describe"
	"github.com/setkit/setkit/cmd/internal/trace"
)

// uiService is the port of a world on which its recording is shown.
const uiService = "ui"

func uiCommand(dir urfave.Flag) *urfave.Command {
	return &urfave.Command{
		Name:  "ui",
		Usage: "show in a browser who saw what in a world's transactions",
		Description: "Serves pages over what set-lab demo or up has recorded, on this machine only: the transactions,\n" +
			"and for each who could read what, which key of which device signed it, the sequence of its messages,\n" +
			"and every field of each. The world may still run: reload to see what is new. Ctrl-C ends it.\n\n" +
			"Example: set-lab ui --dir ~/.cache/setkit/demo",
		Flags: []urfave.Flag{
			dir, &urfave.StringFlag{Name: "listen", Value: "127.0.0.1:0", Usage: "loopback `ADDRESS` on which to answer; port 0 takes a free one"},
		},
		Action: showLab,
	}
}

func showLab(c *urfave.Context) error {
	dir, _, err := place(c, "lab")
	if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(dir, traceDir)); err != nil {
		return cli.Usage(fmt.Errorf("%w: make a world with set-lab demo or up, and name its directory with --dir", err))
	}
	l, err := listenHere(c.String("listen"))
	if err != nil {
		return err
	}
	defer l.Close()
	server := &http.Server{Handler: newSite(dir, l.Addr().String()), ReadHeaderTimeout: readHeaderTimeout, WriteTimeout: siteTimeout}
	fmt.Fprintf(c.App.Writer, "%s\n", uiReady(l.Addr().String()))
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	select {
	case err := <-served:
		return err
	case <-c.Context.Done():
		return server.Close()
	}
}

// siteTimeout is how long a page may take, from a long recording too.
const siteTimeout = time.Minute

// listenHere listens on an address that only this machine reaches.
func listenHere(addr string) (net.Listener, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, cli.Usage(err)
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return nil, cli.Usage(fmt.Errorf("--listen %s: the pages are for this machine only: use 127.0.0.1 or [::1]", addr))
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, cli.Usage(err)
	}
	return l, nil
}

// uiReady is what set-lab ui prints when it answers.
func uiReady(addr string) string { return "Who saw what: http://" + addr + "/" }

// startUI starts the process that shows the world's recording, as one of the world's.
func (w *world) startUI(ctx context.Context) error {
	addr := w.addr(uiService)
	return w.start(ctx, nil, says(uiReady(addr)), uiService, "set-lab", "ui", "--dir", w.dir, "--listen", addr)
}

// showsUI tells whether the world's recording is shown.
func (w *world) showsUI() bool {
	return slices.ContainsFunc(w.Processes, func(p process) bool { return p.Name == uiService && p.runs() })
}

//go:embed ui/page.html
var pageFile embed.FS

//go:embed ui/style.css
var style string

var pages = template.Must(template.New("").Funcs(template.FuncMap{"short": shortXID}).ParseFS(pageFile, "ui/page.html"))

// shortXID is enough of an XID to tell purchases apart.
func shortXID(xid string) string { return xid[:min(len(xid), 12)] }

// site shows the recording of a lab. It changes nothing.
type site struct {
	dir   string // of the lab
	hosts []string

	mu        sync.Mutex
	recording *trace.Recording // of index
	index     indexState
}

// indexState tells whether something was recorded since.
type indexState struct {
	octets int64
	time   time.Time
}

// newSite gives the pages of the lab in dir, which answer at a loopback address.
func newSite(dir, addr string) http.Handler {
	_, port, _ := net.SplitHostPort(addr)
	s := &site{dir: dir, hosts: []string{addr, net.JoinHostPort("localhost", port)}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.list)
	mux.HandleFunc("GET /transaction/{number}", s.transaction)
	mux.HandleFunc("GET /message/{number}", s.message)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s.trouble(w, http.StatusNotFound, "There is no such page")
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		switch {
		case !slices.Contains(s.hosts, r.Host): // a page elsewhere whose name leads here
			http.Error(w, "this server answers to "+s.hosts[0]+" only", http.StatusMisdirectedRequest)
		case r.Method != http.MethodGet:
			h.Set("Allow", http.MethodGet)
			http.Error(w, "these pages can be read and nothing else", http.StatusMethodNotAllowed)
		default:
			mux.ServeHTTP(w, r)
		}
	})
}

// view is what every page has.
type view struct {
	Title, Dir string
	Nonce      string // of the styles
	Style      template.CSS

	List        []trace.Summary
	Transaction *transactionView
	Message     template.HTML
	Trouble     string
}

type transactionView struct {
	trace.Summary
	Heading  string
	Overview template.HTML
}

// show sends a page, whole or not at all.
func (s *site) show(w http.ResponseWriter, status int, name string, v view) {
	v.Dir, v.Style = s.dir, template.CSS(style)
	if v.Nonce == "" {
		v.Nonce = rand.Text()
	}
	var b bytes.Buffer
	if err := pages.ExecuteTemplate(&b, name, v); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'nonce-"+v.Nonce+"'; img-src data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'")
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	b.WriteTo(w) // who does not wait for it does not need it
}

func (s *site) trouble(w http.ResponseWriter, status int, what string) {
	s.show(w, status, "trouble", view{Title: http.StatusText(status), Trouble: what})
}

// read gives the recording as it is now.
func (s *site) read() (*trace.Recording, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	dir := filepath.Join(s.dir, traceDir)
	info, err := os.Stat(filepath.Join(dir, "index.jsonl"))
	if err != nil {
		return nil, err
	}
	now := indexState{info.Size(), info.ModTime()}
	if s.recording != nil && s.index == now {
		return s.recording, nil
	}
	r, err := trace.Read(dir, new(describe.Describer))
	if err == nil {
		s.recording, s.index = r, now
	}
	return r, err
}

// find gives the transaction that has the message which the path names; a problem it tells by itself.
func (s *site) find(w http.ResponseWriter, r *http.Request) (rec *trace.Recording, messages []*trace.Message, at int) {
	rec, err := s.read()
	if err != nil {
		s.unreadable(w, err)
		return nil, nil, 0
	}
	number, err := strconv.Atoi(r.PathValue("number"))
	for _, messages := range rec.Transactions() {
		at := slices.IndexFunc(messages, func(m *trace.Message) bool { return m.Number == number })
		if err == nil && at >= 0 {
			return rec, messages, at
		}
	}
	s.trouble(w, http.StatusNotFound, "No message of that number was recorded.")
	return nil, nil, 0
}

func (s *site) unreadable(w http.ResponseWriter, err error) {
	what := "The recording cannot be read: " + err.Error() + ". If the world is writing just now, reload."
	if errors.Is(err, fs.ErrNotExist) {
		what = "There is no recording any more: " + err.Error() + ". Make a world with set-lab demo or up."
	}
	s.trouble(w, http.StatusInternalServerError, what)
}

func (s *site) list(w http.ResponseWriter, _ *http.Request) {
	r, err := s.read()
	if err != nil {
		s.unreadable(w, err)
		return
	}
	v := view{Title: "Transactions"}
	for _, messages := range slices.Backward(r.Transactions()) {
		v.List = append(v.List, trace.Summarize(messages))
	}
	s.show(w, http.StatusOK, "list", v)
}

// viewOf is how the pages show a transaction.
func viewOf(rec *trace.Recording, messages []*trace.Message) trace.View {
	return trace.View{
		Recording: rec, Messages: messages, Home: fmt.Sprintf("/transaction/%d", messages[0].Number),
		Link: func(number int) string { return fmt.Sprintf("/message/%d", number) },
	}
}

func (s *site) transaction(w http.ResponseWriter, r *http.Request) {
	rec, messages, _ := s.find(w, r)
	if messages == nil {
		return
	}
	seen := viewOf(rec, messages)
	var picture strings.Builder
	if err := seen.SVG(&picture); err != nil {
		s.unreadable(w, err)
		return
	}
	nonce := rand.Text()
	t := &transactionView{Summary: trace.Summarize(messages)}
	var err error
	t.Overview, err = seen.Overview(template.HTML(strings.Replace(picture.String(), "<style>", `<style nonce="`+nonce+`">`, 1)))
	if err != nil {
		s.unreadable(w, err)
		return
	}
	t.Heading = strings.ToUpper(t.Kind[:1]) + t.Kind[1:]
	if t.Amount != "" {
		t.Heading += " of " + t.Amount
	}
	s.show(w, http.StatusOK, "transaction", view{Title: t.Heading, Nonce: nonce, Transaction: t})
}

func (s *site) message(w http.ResponseWriter, r *http.Request) {
	rec, messages, at := s.find(w, r)
	if messages == nil {
		return
	}
	m := messages[at]
	opened, _, err := viewOf(rec, messages).Opened(m.Number)
	if err != nil {
		s.unreadable(w, err)
		return
	}
	s.show(w, http.StatusOK, "message", view{Title: fmt.Sprintf("%d. %s", m.Number, m.Type), Message: opened})
}
