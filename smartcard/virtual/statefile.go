package virtual

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"filippo.io/age"
)

// A state file is a line of magic, the length of the first age file in four
// bytes, and two age files. The first is encrypted to the caller's key and holds
// an age identity; the second is encrypted to that and holds the card. So a
// passphrase is stretched once, and not each time the card changes.
const (
	stateMagic        = "setkit virtual card 1\n"
	stateBytesMax     = 1 << 20
	identityBytesMax  = 1 << 12
	passphraseWork    = 18 // log2 of scrypt's N: about a second
	stateKeyPrefix    = "AGE-SECRET-KEY-1"
	stateFileMode     = 0o600
	lockSuffix        = ".lock"
	temporarySuffix   = ".tmp"
	stateLengthBytes  = 4
	passphraseWorkMax = 22
)

// A StateKey opens and makes the files in which cards are kept.
type StateKey struct {
	recipient age.Recipient
	identity  age.Identity
}

// NewStateKey makes a key of a secret: an age X25519 identity
// ("AGE-SECRET-KEY-1...", as age-keygen makes it) or a passphrase.
func NewStateKey(secret []byte) (*StateKey, error) {
	secret = bytes.TrimSpace(secret)
	switch {
	case bytes.HasPrefix(secret, []byte(stateKeyPrefix)):
		identity, err := age.ParseX25519Identity(string(secret))
		if err != nil {
			return nil, errors.New("virtual: this is no age identity") // the error could quote it
		}
		return &StateKey{identity.Recipient(), identity}, nil
	case bytes.HasPrefix(secret, []byte("#")):
		return nil, errors.New("virtual: a comment is no passphrase; of a file by age-keygen only the line with " + stateKeyPrefix + " is wanted")
	}
	recipient, err := age.NewScryptRecipient(string(secret))
	if err != nil {
		return nil, fmt.Errorf("virtual: passphrase: %w", err)
	}
	identity, err := age.NewScryptIdentity(string(secret))
	if err != nil {
		return nil, fmt.Errorf("virtual: passphrase: %w", err)
	}
	recipient.SetWorkFactor(passphraseWork)
	identity.SetMaxWorkFactor(passphraseWorkMax)
	return &StateKey{recipient, identity}, nil
}

// Format writes nothing of the key, whatever the verb.
func (k *StateKey) Format(f fmt.State, _ rune) { io.WriteString(f, "state key ***") }

// stateFile is a locked file with a card in it.
type stateFile struct {
	path  string
	lock  *os.File
	inner *age.X25519Identity
	head  []byte // magic, length, and the encrypted inner identity
}

// createStateFile prepares a file that doesn't exist. It comes into being with
// the first write.
func createStateFile(path string, key *StateKey) (*stateFile, error) {
	f := &stateFile{path: path}
	var err error
	if f.lock, err = lockFile(path + lockSuffix); err != nil {
		return nil, err
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		if err == nil {
			err = fmt.Errorf("card file %s: %w", path, fs.ErrExist)
		}
		return nil, errors.Join(err, f.close())
	}
	if f.inner, err = age.GenerateX25519Identity(); err != nil {
		return nil, errors.Join(err, f.close())
	}
	wrapped, err := encrypt(key.recipient, []byte(f.inner.String()))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("card file %s: %w", path, err), f.close())
	}
	f.head = binary.BigEndian.AppendUint32([]byte(stateMagic), uint32(len(wrapped)))
	f.head = append(f.head, wrapped...)
	return f, nil
}

// openStateFile locks and decrypts a file.
func openStateFile(path string, key *StateKey) (*stateFile, []byte, error) {
	if _, err := os.Stat(path); err != nil { // leaves no lock behind for nothing
		return nil, nil, fmt.Errorf("card file: %w", err)
	}
	lock, err := lockFile(path + lockSuffix)
	if err != nil {
		return nil, nil, err
	}
	f := &stateFile{path: path, lock: lock}
	contents, err := f.read(key)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("card file %s: %w", path, err), f.close())
	}
	return f, contents, nil
}

func (f *stateFile) read(key *StateKey) ([]byte, error) {
	file, err := os.Open(f.path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	all, err := io.ReadAll(io.LimitReader(file, stateBytesMax+1))
	if err != nil {
		return nil, err
	}
	wrapped, sealed, err := splitState(all)
	if err != nil {
		return nil, err
	}
	inner, err := decrypt(key.identity, wrapped, identityBytesMax)
	if err != nil {
		return nil, fmt.Errorf("wrong passphrase or key, or a damaged file: %w", err)
	}
	defer clear(inner)
	if f.inner, err = age.ParseX25519Identity(string(inner)); err != nil {
		return nil, errors.New("the file's own key is damaged")
	}
	f.head = bytes.Clone(all[:len(all)-len(sealed)])
	return decrypt(f.inner, sealed, stateBytesMax)
}

// splitState finds the two age files in a state file.
func splitState(all []byte) (wrapped, sealed []byte, err error) {
	rest, ok := bytes.CutPrefix(all, []byte(stateMagic))
	if !ok || len(rest) < stateLengthBytes {
		return nil, nil, errors.New("this is no file with a virtual card")
	}
	n, rest := binary.BigEndian.Uint32(rest), rest[stateLengthBytes:]
	if len(all) > stateBytesMax || uint64(n) > uint64(len(rest)) {
		return nil, nil, errors.New("the file is cut off, or too large for a virtual card")
	}
	return rest[:n], rest[n:], nil
}

// write replaces the file. When it returns without error, the new contents
// survive a crash of the machine.
func (f *stateFile) write(contents []byte) error {
	sealed, err := encrypt(f.inner.Recipient(), contents)
	if err != nil {
		return err
	}
	if len(f.head)+len(sealed) > stateBytesMax {
		return fmt.Errorf("card file %s: the card has become larger than %d bytes", f.path, stateBytesMax)
	}
	temporary := f.path + temporarySuffix
	file, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, stateFileMode)
	if err != nil {
		return fmt.Errorf("card file: %w", err)
	}
	_, err = file.Write(append(bytes.Clone(f.head), sealed...))
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err == nil {
		err = os.Rename(temporary, f.path)
	}
	if err == nil {
		err = syncDirectory(filepath.Dir(f.path))
	}
	if err != nil {
		return fmt.Errorf("card file: %w", err)
	}
	return nil
}

// close unlocks the file. The lock's own file stays: deleting it would let two
// processes lock two of the name.
func (f *stateFile) close() error { return unlockFile(f.lock) }

func encrypt(to age.Recipient, plain []byte) ([]byte, error) {
	var out bytes.Buffer
	w, err := age.Encrypt(&out, to)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(plain); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func decrypt(with age.Identity, sealed []byte, max int64) ([]byte, error) {
	r, err := age.Decrypt(bytes.NewReader(sealed), with)
	if err != nil {
		return nil, err
	}
	plain, err := io.ReadAll(io.LimitReader(r, max+1))
	if err == nil && int64(len(plain)) > max {
		err = fmt.Errorf("more than %d bytes", max)
	}
	return plain, err
}
