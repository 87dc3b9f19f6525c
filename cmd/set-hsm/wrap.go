package main

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/hsm"
	urfave "github.com/urfave/cli/v2"
)

// inputBytesMax bounds a file with a key or a certificate.
const inputBytesMax = 64 << 10

func wrapCommand() *urfave.Command {
	return &urfave.Command{
		Name: "wrap", Usage: "write a key, encrypted by another, to a file",
		Description: "The key must have been generated --wrappable. It is encrypted with an AES key of the token for wrap\n" +
			"(--with), or for the RSA key for unwrap of another token (--for, its public key from keys show --pem).\n" +
			"Make sure that --for is that token's: whoever has its private key gets this one.\n\n" +
			"RSA takes AES and HMAC keys only. A key pair goes with an AES key for wrap that both tokens have: generated\n" +
			"--wrappable in this one, wrapped --for the other, and unwrapped there --purpose unwrap.\n\n" +
			"Example, from token shop to token bank:\n" +
			"  set-hsm keys generate --token $BANK --label transport --purpose unwrap --type rsa-2048\n" +
			"  set-hsm keys show --token $BANK --label transport --pem > bank.pem\n" +
			"  set-hsm wrap --token $SHOP --label pan-seal --for bank.pem --out pan-seal.wrapped\n" +
			"  set-hsm unwrap --token $BANK --in pan-seal.wrapped --with transport --label pan-seal --purpose seal",
		Action: wrap,
		Flags: []urfave.Flag{
			tokenFlag(), labelFlag("`LABEL` of the key to wrap"),
			&urfave.StringFlag{Name: "with", Usage: "`LABEL` of the AES key of the token that wraps it"},
			&urfave.PathFlag{Name: "for", Usage: "`FILE` with the receiver's RSA public key, as PEM"},
			&urfave.PathFlag{Name: "out", Required: true, Usage: "`FILE` to write, which must not exist"},
			jsonFlag(),
		},
	}
}

func unwrapCommand() *urfave.Command {
	return &urfave.Command{
		Name: "unwrap", Usage: "bring a wrapped key into the token",
		Description: "What the key may do here is fixed by --purpose; it cannot leave the token again.\n\n" +
			"Example: set-hsm unwrap " + exampleToken + " \\\n" +
			"           --in pan-seal.wrapped --with transport --label pan-seal --purpose seal",
		Action: unwrap,
		Flags: []urfave.Flag{
			tokenFlag(), labelFlag("`LABEL` that the key gets, unique in the token"),
			&urfave.StringFlag{Name: "purpose", Required: true, Usage: "`PURPOSE`: " + purposeHelp},
			&urfave.StringFlag{Name: "with", Required: true, Usage: "`LABEL` of the key for unwrap"},
			&urfave.PathFlag{Name: "in", Required: true, Usage: "`FILE` that set-hsm wrap has written"},
			jsonFlag(),
		},
	}
}

// wrappedFile is what wrap prints: enough to compare with what arrives.
type wrappedFile struct {
	File       string `json:"file"`
	Label      string `json:"label"`
	Type       string `json:"type"`
	ID         string `json:"id"`
	Mechanism  string `json:"mechanism"`
	With       string `json:"with"` // CKA_ID of the key that unwraps it
	CheckValue string `json:"checkValue,omitempty"`
}

func wrap(c *urfave.Context) error {
	if c.IsSet("with") == c.IsSet("for") {
		return cli.Usage(errors.New("give either --with or --for"))
	}
	var receiver *rsa.PublicKey
	if c.IsSet("for") {
		var err error
		if receiver, err = readReceiver(c.Path("for")); err != nil {
			return err
		}
	}
	return withToken(c, func(token *hsm.Token) (err error) {
		var w *hsm.WrappedKey
		if receiver != nil {
			w, err = token.WrapFor(c.Context, c.String("label"), receiver)
		} else {
			w, err = token.Wrap(c.Context, c.String("label"), c.String("with"))
		}
		if err != nil {
			return err
		}
		text, err := w.MarshalText()
		if err != nil {
			return err
		}
		if err := writeNew(c.Path("out"), text); err != nil {
			return err
		}
		out := wrappedFile{c.Path("out"), c.String("label"), string(w.Type), w.ID, w.Mechanism, w.With, fmt.Sprintf("%X", w.CheckValue)}
		if c.Bool("json") {
			return cli.PrintJSON(c.App.Writer, out)
		}
		return cli.Table(c.App.Writer, []string{"FILE", "LABEL", "TYPE", "ID", "MECHANISM", "CHECK VALUE"},
			[][]string{{out.File, out.Label, out.Type, out.ID, out.Mechanism, out.CheckValue}})
	})
}

func unwrap(c *urfave.Context) error {
	text, err := readFile(c.Path("in"))
	if err != nil {
		return err
	}
	var w hsm.WrappedKey
	if err := w.UnmarshalText(text); err != nil {
		return fmt.Errorf("%s: %w", c.Path("in"), err)
	}
	label, purpose := c.String("label"), hsm.Purpose(c.String("purpose"))
	if !slices.Contains(purposes, purpose) {
		return cli.Usage(fmt.Errorf("--purpose is %q: want %s", purpose, purposeHelp))
	}
	return withToken(c, func(token *hsm.Token) error {
		key, err := token.Unwrap(c.Context, label, purpose, c.String("with"), &w)
		if err != nil {
			return adviseOnKey(c, err)
		}
		return printKeys(c, []hsm.KeyInfo{key}, key)
	})
}

// readReceiver reads an RSA public key, PEM as keys show --pem prints it.
func readReceiver(path string) (*rsa.PublicKey, error) {
	text, err := readFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PUBLIC KEY" {
		return nil, fmt.Errorf("%s has no PEM block PUBLIC KEY: make it with set-hsm keys show --pem", path)
	}
	pub, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	key, ok := pub.(*rsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("%s has a public key of type %T: the receiver's must be RSA", path, pub)
	}
	return key, nil
}

// readFile reads a small file.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, inputBytesMax+1))
	if err != nil {
		return nil, err
	}
	if len(text) > inputBytesMax {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, inputBytesMax)
	}
	return text, nil
}

// writeNew writes a file for its owner only, which must not exist.
func writeNew(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%w: files are never overwritten: choose another name", err)
	}
	if err != nil {
		return err
	}
	if _, err = f.Write(data); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		os.Remove(path)
	}
	return err
}
