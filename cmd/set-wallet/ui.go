package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"syscall"
	"time"

	urfave "github.com/urfave/cli/v2"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/sethttp"
	"github.com/setkit/setkit/roles/wallet"
	"github.com/setkit/setkit/roles/wallet/web"
)

const (
	idleAfter      = 15 * time.Minute // without an open page the window closes itself
	idleLooks      = 90
	headerTimeout  = 5 * time.Second
	bodyTimeout    = 10 * time.Second
	portAttempts   = 20
	windowCardWait = 10 * time.Minute
)

func uiCommand() *urfave.Command {
	return &urfave.Command{
		Name:  "ui",
		Usage: "open the wallet's window in the browser",
		Description: "Prints an address that opens the window once, and opens it. Pages are served on this computer\n" +
			"only, to this user only. A window that is open already opens another page. It closes itself when\n" +
			"no page has been open for a quarter of an hour and no payment is on its way.\n\n" +
			"A shop's order that leads to this computer itself is refused, unless --local allows it: no shop\n" +
			"is there, but other programs are.\n\n" +
			"Example: set-wallet ui --open order-1001.setpay",
		Flags: []urfave.Flag{
			&urfave.StringFlag{Name: "open", Usage: "`FILE` with the initiation message of a shop or a bank"},
			&urfave.BoolFlag{Name: "no-browser", Usage: "print the address only"},
			&urfave.BoolFlag{Name: "local", Usage: "allow shops and CAs on this computer, as in a laboratory"},
			&urfave.StringFlag{Name: "reader", Usage: "the card in the reader whose `NAME` is this or contains it (default: wherever the card is)"},
			&urfave.DurationFlag{Name: "card-wait", Value: windowCardWait, Usage: "how long to wait for a card that was pulled to be back: `DURATION`"},
			dirFlag(),
		},
		Action: func(c *urfave.Context) error {
			if err := arguments(c); err != nil {
				return err
			}
			return ui(c)
		},
	}
}

func ui(c *urfave.Context) error {
	var message []byte
	if name := c.String("open"); name != "" {
		var err error
		if message, err = readFile(name); err != nil {
			return err
		}
	}
	dir, err := walletDir(c)
	if err != nil {
		return err
	}
	if address, ok := handOver(c.Context, dir, message); ok {
		return announce(c, dir, address)
	}
	ctx, stop := context.WithCancel(c.Context)
	defer stop()
	listeners, hosts, err := listenLoopback()
	if err != nil {
		return err
	}
	defer closeAll(listeners)
	window, closeWallets, err := newWindow(ctx, c, dir, hosts, stop)
	if err != nil {
		return err
	}
	defer closeWallets()
	defer window.Close()
	if s, err := listenSocket(dir); err == nil {
		defer s.Close()
		go receive(s, window)
	} else {
		fmt.Fprintf(c.App.ErrWriter, "A second start will open a window of its own: %v\n", err)
	}
	served := serve(ctx, listeners, window)
	address := window.Enter()
	if message != nil {
		address = window.Open(message)
	}
	if err := announce(c, dir, address); err != nil {
		return err
	}
	go closeWhenIdle(ctx, window, idleAfter, stop)
	return <-served
}

// newWindow opens the wallet in every language and puts the window together.
func newWindow(ctx context.Context, c *urfave.Context, dir string, hosts []string, stop func()) (*web.Window, func(), error) {
	transport := http.DefaultTransport
	if !c.Bool("local") {
		transport = publicTransport()
	}
	client := &sethttp.Client{Transport: transport}
	wallets := make(map[set.Language]*wallet.Wallet)
	closeWallets := func() {
		for _, w := range wallets {
			w.Close()
		}
	}
	for _, l := range web.Languages() {
		w, err := wallet.Open(ctx, dir, wallet.Config{Client: client, Software: software, Language: l})
		if err != nil {
			closeWallets()
			return nil, nil, err
		}
		wallets[l] = w
	}
	w, err := web.New(web.Config{
		Wallets: wallets, Devices: newDevices(ctx, c), Explain: explain, Look: sightOf, LocalPeers: c.Bool("local"), Dir: dir, Quit: stop,
		Download: func(ctx context.Context, url string) ([]byte, error) { return downloadBundle(ctx, transport, url) },
	}, hosts...)
	if err != nil {
		closeWallets()
	}
	return w, closeWallets, err
}

// announce prints the address and opens it.
func announce(c *urfave.Context, dir, address string) error {
	fmt.Fprintf(c.App.Writer, "%s\n", address)
	if c.Bool("no-browser") {
		return nil
	}
	if err := openBrowser(c.Context, dir, address); err != nil {
		fmt.Fprintf(c.App.ErrWriter, "Open this address in a browser; it is good once (%v)\n", err)
	}
	return nil
}

// listenLoopback listens on one free port of 127.0.0.1 and ::1; the latter may not exist.
func listenLoopback() (listeners []net.Listener, hosts []string, err error) {
	for range portAttempts {
		var four, six net.Listener
		if four, err = net.Listen("tcp4", "127.0.0.1:0"); err != nil {
			return nil, nil, fmt.Errorf("no port for the wallet's window: %w", err)
		}
		port := four.Addr().(*net.TCPAddr).Port
		six, err = net.Listen("tcp6", fmt.Sprintf("[::1]:%d", port))
		if errors.Is(err, syscall.EADDRINUSE) {
			four.Close()
			continue
		}
		listeners, hosts = []net.Listener{sameUser{four, os.Getuid()}}, []string{four.Addr().String()}
		if err == nil {
			listeners, hosts = append(listeners, sameUser{six, os.Getuid()}), append(hosts, six.Addr().String())
		}
		return listeners, hosts, nil
	}
	return nil, nil, fmt.Errorf("no port for the wallet's window: %w", err)
}

func closeAll(listeners []net.Listener) {
	for _, l := range listeners {
		l.Close()
	}
}

// sameUser accepts connections of one user, whose wallet it is. Where the system does not tell whose a
// connection is, the window's token alone decides.
type sameUser struct {
	net.Listener
	user int
}

func (l sameUser) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil || connectionOf(l.user, c) {
			return c, err
		}
		c.Close()
	}
}

// serve serves until ctx ends, and says how that ended.
func serve(ctx context.Context, listeners []net.Listener, h http.Handler) <-chan error {
	s := &http.Server{Handler: h, ReadHeaderTimeout: headerTimeout, ReadTimeout: bodyTimeout, MaxHeaderBytes: 64 << 10}
	ended := make(chan error, len(listeners)+1)
	for _, l := range listeners {
		go func() {
			if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				ended <- fmt.Errorf("the wallet's window: %w", err)
			}
		}()
	}
	go func() {
		<-ctx.Done()
		// The page that says goodbye is still on its way.
		patience, stop := context.WithTimeout(context.Background(), time.Second)
		defer stop()
		if s.Shutdown(patience) != nil {
			s.Close()
		}
		ended <- nil
	}()
	return ended
}

func closeWhenIdle(ctx context.Context, w *web.Window, after time.Duration, stop func()) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(after / idleLooks):
		}
		if since, idle := w.Idle(); idle && time.Since(since) > after {
			stop()
		}
	}
}

// errLocalPeer tells that a name of the Internet leads to this computer.
var errLocalPeer = errors.New("an address of this computer")

// publicTransport connects to nothing on this computer, whatever name leads there.
func publicTransport() http.RoundTripper {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.DialContext = (&net.Dialer{Timeout: 30 * time.Second, Control: func(_, address string, _ syscall.RawConn) error {
		a, err := netip.ParseAddrPort(address)
		if err != nil || web.Local(a.Addr()) {
			return fmt.Errorf("%s: %w", address, errLocalPeer)
		}
		return nil
	}}).DialContext
	return t
}
