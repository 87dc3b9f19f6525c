package cli

import (
	"context"
	"crypto"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/setkit/setkit/hsm"
)

// Keyring turns PKCS#11 URIs into keys. It opens every token once and keeps it open, so that a PIN is
// asked for once. Its methods may be called by several goroutines. A token that is not available is an
// error with exit code 3.
type Keyring struct {
	stdin  io.Reader
	stderr io.Writer

	mu     sync.Mutex
	tokens map[string]*hsm.Token // by the part of a URI that names a token
}

// NewKeyring returns an empty Keyring. A PIN source that is a prompt asks on stdin and stderr.
func NewKeyring(stdin io.Reader, stderr io.Writer) *Keyring {
	return &Keyring{stdin: stdin, stderr: stderr, tokens: map[string]*hsm.Token{}}
}

// Token returns the token that uri names. The keyring closes it.
func (r *Keyring) Token(ctx context.Context, uri string) (*hsm.Token, error) {
	u, err := hsm.ParseURI(uri)
	if err != nil {
		return nil, Usage(err)
	}
	return r.token(ctx, u)
}

func (r *Keyring) token(ctx context.Context, u hsm.URI) (*hsm.Token, error) {
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

func (r *Keyring) pin(ctx context.Context, source, token string) ([]byte, error) {
	return Secret(ctx, source, fmt.Sprintf("PIN of token %q", token), r.stdin, r.stderr)
}

// Signer returns the signature key that uri names.
func (r *Keyring) Signer(ctx context.Context, uri string) (crypto.Signer, error) {
	return keyOf(ctx, r, uri, (*hsm.Token).Signer)
}

// Decrypter returns the key-exchange key that uri names.
func (r *Keyring) Decrypter(ctx context.Context, uri string) (crypto.Decrypter, error) {
	return keyOf(ctx, r, uri, (*hsm.Token).Decrypter)
}

// MAC returns the HMAC key that uri names.
func (r *Keyring) MAC(ctx context.Context, uri string) (*hsm.MAC, error) {
	return keyOf(ctx, r, uri, (*hsm.Token).MAC)
}

// Sealer returns the AES-GCM key that uri names.
func (r *Keyring) Sealer(ctx context.Context, uri string) (*hsm.Sealer, error) {
	return keyOf(ctx, r, uri, (*hsm.Token).Sealer)
}

// keyOf opens the token that uri names and gets the key from it.
func keyOf[K any](ctx context.Context, r *Keyring, uri string, get func(*hsm.Token, context.Context, string) (K, error)) (K, error) {
	var none K
	u, err := hsm.ParseURI(uri)
	if err != nil {
		return none, Usage(err)
	}
	if u.Object == "" {
		return none, Usage(fmt.Errorf("PKCS#11 URI names no key: add ;object=LABEL to %s", u))
	}
	t, err := r.token(ctx, u)
	if err != nil {
		return none, err
	}
	if len(u.ID) > 0 {
		info, err := t.Key(ctx, u.Object)
		if err != nil {
			return none, err
		}
		if want := hex.EncodeToString(u.ID); info.ID != want {
			return none, fmt.Errorf("key %q has the ID %s, and the URI wants %s", u.Object, info.ID, want)
		}
	}
	k, err := get(t, ctx, u.Object)
	if err != nil {
		return none, err
	}
	return k, nil
}

// Close closes every token. The keys that came from the keyring stop working.
func (r *Keyring) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	for _, t := range r.tokens {
		errs = append(errs, t.Close())
	}
	clear(r.tokens)
	return errors.Join(errs...)
}
