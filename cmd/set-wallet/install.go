package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	urfave "github.com/urfave/cli/v2"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/bundle"
	"github.com/setkit/setkit/roles/set/pki"
	"github.com/setkit/setkit/roles/sethttp"
	"github.com/setkit/setkit/roles/wallet"
)

const (
	downloadTimeout = 60 * time.Second
	redirectsMax    = 3
	noticeAfter     = 2 * time.Second
)

func installCommand() *urfave.Command {
	return &urfave.Command{
		Name:      "install",
		Usage:     "make the wallet that of a bank, with the bundle that the bank gives out",
		ArgsUsage: "FILE|URL",
		Description: "Shows who signed the bundle. The first time, compare the fingerprint with the one in the letter\n" +
			"from your bank, or give it with --fingerprint and have it compared. Later bundles of the bank\n" +
			"need the same key, or a new one that the old one signs for, and must not be older.\n\n" +
			"Example: set-wallet install /media/stick/bank" + bundle.Extension,
		Flags: []urfave.Flag{
			&urfave.StringFlag{Name: "fingerprint", Usage: "the signer's, `HEX` digits from the bank's letter; spaces do not matter"},
			dirFlag(), jsonFlag(),
		},
		Action: func(c *urfave.Context) error {
			if err := arguments(c, "FILE or URL"); err != nil {
				return err
			}
			return install(c)
		},
	}
}

func aboutCommand() *urfave.Command {
	return &urfave.Command{
		Name:        "about",
		Usage:       "tell whose wallet this is: the banks whose bundles are installed",
		Description: "Example: set-wallet about --json",
		Flags:       []urfave.Flag{dirFlag(), jsonFlag()},
		Action: func(c *urfave.Context) error {
			if err := arguments(c); err != nil {
				return err
			}
			return about(c)
		},
	}
}

func install(c *urfave.Context) error {
	var fingerprint *pki.Digest
	if text := c.String("fingerprint"); text != "" {
		d, err := bundle.ParseFingerprint(text)
		if err != nil {
			return cli.Usage(fmt.Errorf("--fingerprint: %w", err))
		}
		fingerprint = &d
	}
	file, err := readBundle(c, c.Args().First())
	if err != nil {
		return classified(err)
	}
	w, err := openWallet(c, nil)
	if err != nil {
		return err
	}
	defer w.Close()
	t := newTerminal(c)
	b, end, err := w.Install(c.Context, file, fingerprint, t.trust)
	if err != nil {
		return classified(err)
	}
	done := map[wallet.Installed]string{wallet.NewBank: "installed", wallet.Updated: "updated", wallet.Unchanged: "unchanged"}[end]
	if c.Bool("json") {
		return cli.PrintJSON(c.App.Writer, struct {
			Done string `json:"done"`
			*bankBundle
		}{done, newBankBundle(b)})
	}
	if end == wallet.Unchanged {
		fmt.Fprintf(c.App.Writer, "Bundle %d of %s is installed already\n", b.Sequence, b.Bank.Name)
		return nil
	}
	fmt.Fprintf(c.App.Writer, "Bundle %d of %s is %s; it was signed by the key\n  %s\n", b.Sequence, b.Bank.Name, done, cli.Grouped(b.Signer.String()))
	return nil
}

// trust shows who signed a bundle of a bank that the wallet does not know, and asks. The policy, as long as
// its author likes, comes first, so that it pushes nothing from the screen.
func (t terminal) trust(ctx context.Context, s *bundle.Signed) (bool, error) {
	fmt.Fprintf(t.show, "A wallet bundle of a bank that this wallet does not know yet. Its policy:\n\n%s\n\n",
		strings.TrimRight(string(s.Policies[0].Text), "\n"))
	newBankBundle(&wallet.InstalledBundle{Signed: s}).print(t.show)
	fmt.Fprintln(t.show)
	fmt.Fprintf(t.show, "Anybody can sign a bundle in the name of a bank. Compare with the letter from your bank:\n\n  %s\n\n", cli.Grouped(s.Signer.String()))
	return t.confirm(ctx, "Does the letter have the same fingerprint?")
}

// readBundle reads a bundle from a file or a server, whole or not at all.
func readBundle(c *urfave.Context, from string) ([]byte, error) {
	if strings.HasPrefix(from, "http://") || strings.HasPrefix(from, "https://") {
		defer time.AfterFunc(noticeAfter, func() { waiting(c)(from) }).Stop()
		return downloadBundle(c.Context, http.DefaultTransport, from)
	}
	f, err := os.Open(from)
	if err != nil {
		return nil, cli.Usage(fmt.Errorf("wallet bundle: %w", err))
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, bundle.SizeMax+1)) // one octet more tells that it is too big
	if err != nil {
		return nil, fmt.Errorf("wallet bundle: %w", err)
	}
	return b, nil
}

// downloadBundle gets a bundle over HTTP. What the server says of it is not asked for: its signature tells
// a bundle from anything else.
func downloadBundle(ctx context.Context, transport http.RoundTripper, url string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, downloadTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, cli.Usage(fmt.Errorf("wallet bundle: %w", err))
	}
	req.Header.Set("Accept", bundle.MediaType)
	res, err := (&http.Client{Transport: transport, CheckRedirect: followBundle}).Do(req)
	if errors.Is(err, errRedirect) {
		return nil, fmt.Errorf("wallet bundle: %w", err)
	}
	if err != nil {
		return nil, &sethttp.UnreachableError{URL: url, Err: errors.Unwrap(err)}
	}
	defer res.Body.Close()
	switch {
	case res.StatusCode >= 500:
		return nil, &sethttp.UnreachableError{URL: url, Err: errors.New(res.Status)}
	case res.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("%s gives %w: HTTP status %s", url, errNoBundle, res.Status)
	}
	b, err := io.ReadAll(io.LimitReader(res.Body, bundle.SizeMax+1))
	if err != nil {
		return nil, &sethttp.UnreachableError{URL: url, Err: err}
	}
	return b, nil
}

var (
	errNoBundle = errors.New("no wallet bundle")
	errRedirect = errors.New("redirected")
)

func followBundle(req *http.Request, via []*http.Request) error {
	switch {
	case len(via) > redirectsMax:
		return fmt.Errorf("%w more than %d times", errRedirect, redirectsMax)
	case req.URL.Scheme != "https" && via[0].URL.Scheme == "https":
		return fmt.Errorf("%w from https to %s", errRedirect, req.URL.Scheme)
	}
	return nil
}

func about(c *urfave.Context) error {
	w, err := openWallet(c, nil)
	if err != nil {
		return err
	}
	defer w.Close()
	installed, err := w.Bundles(c.Context)
	if err != nil {
		return err
	}
	list := []*bankBundle{}
	for _, b := range installed {
		list = append(list, newBankBundle(b))
	}
	if c.Bool("json") {
		return cli.PrintJSON(c.App.Writer, list)
	}
	if len(list) == 0 {
		fmt.Fprintln(c.App.Writer, "This wallet is no bank's yet: set-wallet install the bundle that your bank gives out")
	}
	for _, b := range list {
		b.print(c.App.Writer)
	}
	return nil
}

// bankBundle is a wallet bundle as it is printed.
type bankBundle struct {
	Bank        string        `json:"bank"`
	Brands      []bankBrand   `json:"brands"`
	Languages   []string      `json:"languages"`
	Policy      string        `json:"policy"` // in the first language
	RootKeyHash pki.Digest    `json:"rootKeyHash"`
	RootThumb   pki.Digest    `json:"rootThumbprint"`
	Fingerprint pki.Digest    `json:"fingerprint"` // of the signer
	Sequence    int64         `json:"sequence"`
	NotBefore   string        `json:"notBefore"`
	NotAfter    string        `json:"notAfter"`
	Installed   string        `json:"installed"`
	Programs    []bankProgram `json:"programs,omitempty"`
}

type bankBrand struct {
	Brand string `json:"brand"`
	CA    string `json:"ca"`
}

type bankProgram struct {
	Platform string     `json:"platform"`
	Version  string     `json:"version"`
	SHA256   pki.Digest `json:"sha256"`
}

func newBankBundle(b *wallet.InstalledBundle) *bankBundle {
	out := &bankBundle{
		Bank: string(b.Bank.Name), Policy: string(b.Policies[0].Text), RootKeyHash: b.RootKeyHash, RootThumb: b.RootCert.Thumbprint(),
		Fingerprint: b.Signer, Sequence: int64(b.Sequence), NotBefore: date(b.NotBefore), NotAfter: date(b.NotAfter), Installed: date(b.Installed),
	}
	for _, br := range b.Brands {
		out.Brands = append(out.Brands, bankBrand{string(br.ID), string(br.CA)})
	}
	for _, p := range b.Policies {
		out.Languages = append(out.Languages, string(p.Language))
	}
	for _, p := range b.Programs {
		out.Programs = append(out.Programs, bankProgram{string(p.Platform), string(p.Version), p.Digest})
	}
	return out
}

func (b *bankBundle) print(w io.Writer) {
	fmt.Fprintln(w, b.Bank)
	for _, br := range b.Brands {
		line(w, "Brand", fmt.Sprintf("%s, cardholder CA %s", br.Brand, br.CA))
	}
	line(w, "Languages", strings.Join(b.Languages, ", "))
	line(w, "Root key", cli.Grouped(b.RootKeyHash.String()))
	line(w, "Signer", cli.Grouped(b.Fingerprint.String()))
	line(w, "Bundle", fmt.Sprintf("%d, valid from %s to %s", b.Sequence, b.NotBefore, b.NotAfter))
	for _, p := range b.Programs {
		line(w, "Program", fmt.Sprintf("%s %s, SHA-256 %s", p.Platform, p.Version, p.SHA256))
	}
}

// enrolmentFlags gives the enrolment that a developer's flags describe; false: the installed bundle does.
func enrolmentFlags(c *urfave.Context) (r wallet.Enrolment, given bool, err error) {
	ca, root, brand := c.String("ca"), c.String("root"), c.String("brand")
	if ca == "" && root == "" {
		return r, false, nil
	}
	if ca == "" || root == "" || brand == "" || c.String("bank") != "" {
		return r, false, cli.Usage(errors.New("without an installed bundle it takes --ca, --root and --brand together, and no --bank"))
	}
	cert, err := readRoot(root)
	if err != nil {
		return r, false, cli.Usage(err)
	}
	return wallet.Enrolment{CAURL: ca, Root: cert, Brand: set.BrandID(brand)}, true, nil
}

// enrolmentOf gives the enrolment that the installed bundle describes.
func enrolmentOf(c *urfave.Context, w *wallet.Wallet) (wallet.Enrolment, error) {
	r, err := w.EnrolmentFor(c.Context, c.String("bank"), set.BrandID(c.String("brand")))
	if errors.Is(err, wallet.ErrNoBundle) {
		err = fmt.Errorf("%w: set-wallet install the one that your bank gives out", err)
	}
	return r, err
}
