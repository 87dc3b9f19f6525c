// Package keyring turns the key references of a configuration into keys in PKCS#11 tokens, and tells
// Prometheus and the log how these do. It is apart from cli because it needs cgo.
package keyring

import (
	"context"
	"crypto"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/hsm"
)

// Ring turns key references into keys. A reference is a PKCS#11 URI with the key's label, or several
// of them with white space between: then these tokens hold the same key, and one that is lost is
// replaced by another. It opens every token once and keeps it open, so that a PIN is asked for once. Its
// methods may be called by several goroutines. A token that is not available is an error with exit
// code 3.
type Ring struct {
	stdin  io.Reader
	stderr io.Writer

	mu     sync.Mutex
	tokens map[string]*hsm.Token // by the part of a URI that names a token
	groups map[string]*hsm.Group // by those parts

	asking sync.Mutex
	asked  map[string][]byte // PINs that were typed, by source and token
}

// New returns an empty Ring. A PIN source that is a prompt asks on stdin and stderr, once: the
// keyring remembers the answer, because a token that was lost wants its PIN again when nobody is there.
func New(stdin io.Reader, stderr io.Writer) *Ring {
	return &Ring{
		stdin: stdin, stderr: stderr,
		tokens: map[string]*hsm.Token{}, groups: map[string]*hsm.Group{}, asked: map[string][]byte{},
	}
}

// Token returns the token that uri names. The keyring closes it.
func (r *Ring) Token(ctx context.Context, uri string) (*hsm.Token, error) {
	u, err := hsm.ParseURI(uri)
	if err != nil {
		return nil, cli.Usage(err)
	}
	return r.token(ctx, u)
}

func (r *Ring) token(ctx context.Context, u hsm.URI) (*hsm.Token, error) {
	u.Object, u.Type, u.ID = "", "", nil
	name := u.String()
	r.mu.Lock()
	defer r.mu.Unlock()
	if t, ok := r.tokens[name]; ok {
		return t, nil
	}
	t, err := hsm.Open(ctx, u, r.pin)
	if err != nil {
		return nil, err
	}
	r.tokens[name] = t
	return t, nil
}

func (r *Ring) group(ctx context.Context, uris []hsm.URI) (*hsm.Group, error) {
	names := make([]string, len(uris))
	for i := range uris {
		uris[i].Object, uris[i].Type, uris[i].ID = "", "", nil
		names[i] = uris[i].String()
	}
	name := strings.Join(names, " ")
	r.mu.Lock()
	defer r.mu.Unlock()
	if g, ok := r.groups[name]; ok {
		return g, nil
	}
	g, err := hsm.OpenGroup(ctx, uris, r.pin)
	if err != nil {
		return nil, err
	}
	r.groups[name] = g
	return g, nil
}

func (r *Ring) pin(ctx context.Context, source, token string) ([]byte, error) {
	what := fmt.Sprintf("PIN of token %q", token)
	if !strings.HasPrefix(source, "prompt:") {
		return cli.Secret(ctx, source, what, r.stdin, r.stderr)
	}
	r.asking.Lock()
	defer r.asking.Unlock()
	name := source + " " + token
	if pin, ok := r.asked[name]; ok {
		return slices.Clone(pin), nil
	}
	pin, err := cli.Secret(ctx, source, what, r.stdin, r.stderr)
	if err == nil {
		r.asked[name] = slices.Clone(pin)
	}
	return pin, err
}

// Ready returns nil if every token that was opened can be used; of several that hold the same key, one
// is enough.
func (r *Ring) Ready(ctx context.Context) error {
	r.mu.Lock()
	var all []interface{ Ready(context.Context) error }
	for _, t := range r.tokens {
		all = append(all, t)
	}
	for _, g := range r.groups {
		all = append(all, g)
	}
	r.mu.Unlock()
	var errs []error
	for _, t := range all {
		errs = append(errs, t.Ready(ctx))
	}
	return errors.Join(errs...)
}

// Signer returns the signature key of a reference.
func (r *Ring) Signer(ctx context.Context, ref string) (crypto.Signer, error) {
	return keyOf[crypto.Signer](ctx, r, ref, func(s source, label string) (crypto.Signer, error) { return s.Signer(ctx, label) })
}

// Decrypter returns the key-exchange key of a reference.
func (r *Ring) Decrypter(ctx context.Context, ref string) (crypto.Decrypter, error) {
	return keyOf(ctx, r, ref, func(s source, label string) (crypto.Decrypter, error) { return s.Decrypter(ctx, label) })
}

// MAC returns the HMAC key of a reference.
func (r *Ring) MAC(ctx context.Context, ref string) (*hsm.MAC, error) {
	return keyOf(ctx, r, ref, func(s source, label string) (*hsm.MAC, error) { return s.MAC(ctx, label) })
}

// CMAC returns the AES-CMAC key of a reference.
func (r *Ring) CMAC(ctx context.Context, ref string) (*hsm.MAC, error) {
	return keyOf(ctx, r, ref, func(s source, label string) (*hsm.MAC, error) { return s.CMAC(ctx, label) })
}

// Sealer returns the AES-GCM key of a reference.
func (r *Ring) Sealer(ctx context.Context, ref string) (*hsm.Sealer, error) {
	return keyOf(ctx, r, ref, func(s source, label string) (*hsm.Sealer, error) { return s.Sealer(ctx, label) })
}

// source is a token, or a group of tokens.
type source interface {
	Key(context.Context, string) (hsm.KeyInfo, error)
	Signer(context.Context, string) (*hsm.Signer, error)
	Decrypter(context.Context, string) (*hsm.Decrypter, error)
	MAC(context.Context, string) (*hsm.MAC, error)
	CMAC(context.Context, string) (*hsm.MAC, error)
	Sealer(context.Context, string) (*hsm.Sealer, error)
}

// keyOf opens what ref names and gets the key from it.
func keyOf[K any](ctx context.Context, r *Ring, ref string, get func(source, string) (K, error)) (K, error) {
	var none K
	uris, err := parseRef(ref)
	if err != nil {
		return none, cli.Usage(err)
	}
	label, id := uris[0].Object, uris[0].ID
	var from source
	if len(uris) == 1 {
		from, err = r.token(ctx, uris[0])
	} else {
		from, err = r.group(ctx, uris)
	}
	if err != nil {
		return none, err
	}
	if len(id) > 0 {
		info, err := from.Key(ctx, label)
		if err != nil {
			return none, err
		}
		if want := hex.EncodeToString(id); info.ID != want {
			return none, fmt.Errorf("key %q has the ID %s, and the URI wants %s", label, info.ID, want)
		}
	}
	k, err := get(from, label)
	if err != nil {
		return none, err
	}
	return k, nil
}

func parseRef(ref string) ([]hsm.URI, error) {
	var uris []hsm.URI
	for _, text := range strings.Fields(ref) {
		u, err := hsm.ParseURI(text)
		if err != nil {
			return nil, err
		}
		if u.Object == "" {
			return nil, fmt.Errorf("PKCS#11 URI names no key: add ;object=LABEL to %s", u)
		}
		if len(uris) > 0 && u.Object != uris[0].Object {
			return nil, fmt.Errorf("the keys %q and %q are not one key: several tokens must have it under one label", uris[0].Object, u.Object)
		}
		uris = append(uris, u)
	}
	if len(uris) == 0 {
		return nil, errors.New("no key: want a PKCS#11 URI")
	}
	return uris, nil
}

// Close closes every token. The keys that came from the keyring stop working.
func (r *Ring) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	for _, t := range r.tokens {
		errs = append(errs, t.Close())
	}
	for _, g := range r.groups {
		errs = append(errs, g.Close())
	}
	clear(r.tokens)
	clear(r.groups)
	r.asking.Lock()
	defer r.asking.Unlock()
	for _, pin := range r.asked {
		clear(pin)
	}
	clear(r.asked)
	return errors.Join(errs...)
}
