package web

import (
	"context"
	"crypto/sha256"
	"slices"
	"strings"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/bundle"
	"github.com/setkit/setkit/roles/set/pki"
	"github.com/setkit/setkit/roles/wallet"
)

// startInstall gives the task of installing a bank's bundle.
func (w *Window) startInstall(language set.Language) *task {
	t := w.taskOf(sha256.Sum256([]byte("install")), func(t *task) {
		t.kind, t.run = "install", func(ctx context.Context, t *task) {
			for t.finish(ctx, t.install(ctx)) {
			}
		}
	})
	t.start(language)
	return t
}

// bundleForm is what the first page of an installation asks for.
type bundleForm struct {
	URL, Fingerprint string
	Bad              string // which field was wrong
}

// installed is what the last page of an installation shows.
type installed struct {
	*wallet.InstalledBundle
	End wallet.Installed
}

// Done names the end.
func (i installed) Done() string {
	return map[wallet.Installed]string{wallet.NewBank: "new", wallet.Updated: "updated", wallet.Unchanged: "unchanged"}[i.End]
}

// install installs the bundle of the file or the address that the person names.
func (t *task) install(ctx context.Context) error {
	file, fingerprint, err := t.askBundle(ctx)
	if err != nil {
		return err
	}
	b, end, err := t.wallet().Install(ctx, file, fingerprint, t.trust)
	if err != nil {
		return err
	}
	t.show(view{Step: "installed", Data: installed{b, end}})
	return nil
}

// askBundle asks until it has a bundle; fingerprint is nil if the person gives none.
func (t *task) askBundle(ctx context.Context) (file []byte, fingerprint *pki.Digest, err error) {
	for data := (bundleForm{}); ; {
		f, err := t.ask(ctx, view{Step: "bundle", Data: data, Cancel: true})
		if err != nil {
			return nil, nil, err
		}
		data = bundleForm{URL: strings.TrimSpace(f.text("url")), Fingerprint: strings.TrimSpace(f.text("fingerprint"))}
		fingerprint = nil
		if data.Fingerprint != "" {
			d, err := bundle.ParseFingerprint(data.Fingerprint)
			if err != nil {
				data.Bad = "fingerprint"
				continue
			}
			fingerprint = &d
		}
		switch {
		case len(f[fileField]) > 0:
			return f[fileField], fingerprint, nil
		case strings.HasPrefix(data.URL, "https://") || strings.HasPrefix(data.URL, "http://"):
			file, err = t.window.cfg.Download(ctx, data.URL)
			return file, fingerprint, err
		}
		data.Bad = "file"
	}
}

// trustPage is a bundle of a bank that the wallet does not know, with its policy in a language that the
// person may understand.
type trustPage struct {
	*bundle.Signed
	Policy bundle.Policy
}

// trust shows who signed a bundle and asks.
func (t *task) trust(ctx context.Context, s *bundle.Signed) (bool, error) {
	data := trustPage{s, s.Policies[0]}
	if i := slices.IndexFunc(s.Policies, func(p bundle.Policy) bool { return p.Language == t.language }); i >= 0 {
		data.Policy = s.Policies[i]
	}
	f, err := t.ask(ctx, view{Step: "trust", Data: data, Cancel: true})
	if err != nil {
		return false, err
	}
	f.clear()
	return true, nil
}
