package ceremony

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"strings"
	"time"
)

// inputBytesMax bounds an input.
const inputBytesMax = 1 << 20

// Rehearse goes through a ceremony at the time now with throw-away keys, and shows every step. Nothing
// but the inputs is touched. In place of what only the ceremony itself will bring, such as keys and
// serial numbers, stand words in angle brackets.
func Rehearse(p *Plan, inputs fs.FS, now time.Time) ([]Shown, error) {
	r := &rehearsal{state: newState(p, now)}
	if _, err := r.readInputs(inputs); err != nil {
		return nil, err
	}
	if err := r.verifyInputs(); err != nil {
		return nil, fmt.Errorf("rehearsal: %w", err)
	}
	var all []Shown
	for i, st := range p.steps {
		one, err := r.step(i+1, st)
		if err != nil {
			return nil, fmt.Errorf("rehearsal: line %d: %v: %w", st.line, st, err)
		}
		one.SHA256 = ""
		for j, text := range one.Content {
			one.Content[j] = strings.NewReplacer(r.names...).Replace(text)
		}
		all = append(all, one)
	}
	if len(p.inputs) > 0 || r.unsigned {
		return all, nil // without the real keys there is no signature to verify
	}
	if err := r.verify(); err != nil {
		return nil, fmt.Errorf("rehearsal: %w", err)
	}
	return all, nil
}

// rehearsal knows what stands for what.
type rehearsal struct {
	*state
	names    []string // pairs of a text that means nothing and what is shown for it
	unsigned bool     // something could not be signed
}

func (r *rehearsal) name(text, format string, args ...any) {
	r.names = append(r.names, text, "<"+fmt.Sprintf(format, args...)+">")
}

func (r *rehearsal) step(n int, st *step) (Shown, error) {
	if st.isKey() {
		if err := r.key(st); err != nil {
			return Shown{}, err
		}
		return r.showKey(n, st, TokenInfo{Label: "<" + st.token() + " of the bindings>", Serial: "<its own>"}, nil), nil
	}
	serial := newSerial()
	d, err := r.draft(st, serial)
	if err != nil {
		return Shown{}, err
	}
	one, err := r.showDraft(n, d)
	if err != nil {
		return Shown{}, err
	}
	raw := d.raw
	if r.signers[r.signer(st)] == nil {
		r.unsigned = true
	} else if raw, err = r.sign(d); err != nil {
		return Shown{}, err
	}
	if err := r.take(st.kind, st.name, raw); err != nil {
		return Shown{}, err
	}
	if c := r.certs[st.name]; c != nil {
		r.name(hexOf(c.X509.SerialNumber.Bytes()), "random serial number")
		if id := r.keyOf[st.name]; id != "" && r.keyStep(id).Certificate == "" {
			r.name(hexOf(c.X509.SubjectKeyId), "identifier of %s", id)
		}
		if c.NextRootKey != nil {
			r.name(hexOf(c.NextRootKey.Content.Digest), "SHA-256 over %s", st.NextKey)
		}
	}
	return one, nil
}

// key makes a stand-in for a key. Of an RSA key it has the public half only: that is quickly made, and
// tells each key from the others.
func (r *rehearsal) key(st *step) error {
	if c := r.certs[st.Certificate]; c != nil {
		if got := typeOf(c.X509.PublicKey); got != st.Type {
			return fmt.Errorf("%s certifies a key of %s, not %s", st.Certificate, got, st.Type)
		}
		r.keys[st.name] = c.X509.PublicKey
		return nil
	}
	r.unknown[st.name] = st.kind == use
	var pub crypto.PublicKey
	switch st.Type {
	case HMACSHA256:
		return nil
	case ECP256, ECP384:
		curve := elliptic.P256()
		if st.Type == ECP384 {
			curve = elliptic.P384()
		}
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			return err
		}
		pub, r.signers[st.name] = key.Public(), key
	default:
		bits := map[KeyType]int{RSA2048: 2048, RSA3072: 3072, RSA4096: 4096}[st.Type]
		n := make([]byte, bits/8)
		rand.Read(n)
		n[0] |= 0x80
		n[len(n)-1] |= 1
		pub = &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: 65537}
	}
	r.keys[st.name] = pub
	spki, err := x509.MarshalPKIXPublicKey(pub)
	r.name(digest(spki), "public key %s", st.name)
	return err
}

// readInputs reads and takes the inputs, and gives them by name.
func (s *state) readInputs(from fs.FS) (map[string][]byte, error) {
	all := make(map[string][]byte)
	for _, in := range s.inputs {
		if from == nil {
			return nil, errors.New("there is no folder to read inputs from")
		}
		f, err := from.Open(in.name)
		if err != nil {
			return nil, fmt.Errorf("input: %w: inputs lie beside the reviewed file", err)
		}
		data, err := io.ReadAll(io.LimitReader(f, inputBytesMax+1))
		if err := errors.Join(err, f.Close()); err != nil {
			return nil, fmt.Errorf("input: %w", err)
		}
		if len(data) > inputBytesMax {
			return nil, fmt.Errorf("input %s: larger than %d bytes", in.name, inputBytesMax)
		}
		if err := s.takeInput(in, data); err != nil {
			return nil, err
		}
		all[in.name] = data
	}
	return all, nil
}
