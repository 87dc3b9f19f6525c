package main

import (
	"context"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/hsm"
	urfave "github.com/urfave/cli/v2"
)

const (
	purposeHelp = "sign, cert-sign, key-exchange, mac, seal, wrap, unwrap or derive"
	typeHelp    = "rsa-2048, rsa-3072, rsa-4096, ec-p256, ec-p384, ed25519, aes-128, aes-256 or hmac-sha256"
)

var purposes = []hsm.Purpose{
	hsm.PurposeSign, hsm.PurposeCertSign, hsm.PurposeKeyExchange, hsm.PurposeMAC, hsm.PurposeSeal,
	hsm.PurposeWrap, hsm.PurposeUnwrap, hsm.PurposeDerive,
}

func keysCommand() *urfave.Command {
	keyLabel := func() urfave.Flag { return labelFlag("`LABEL` of the key") }
	return &urfave.Command{Name: "keys", Usage: "keys of a token",
		Description: "Example: set-hsm keys list " + exampleToken, Subcommands: []*urfave.Command{
			{Name: "list", Usage: "list keys with the attributes that the token gives",
				Description: "Example: set-hsm keys list " + exampleToken,
				Action:      listKeys, Flags: []urfave.Flag{tokenFlag(), jsonFlag()}},
			{Name: "generate", Usage: "generate a key inside the token",
				Description: "What the key may do is fixed by its purpose, for ever. It never leaves the token, unless it is made\n" +
					"--wrappable: then it can leave it encrypted, by set-hsm wrap.\n\n" +
					"Example: set-hsm keys generate " + exampleToken + " \\\n" +
					"           --label sign --purpose sign --type ec-p256",
				Action: generateKey, Flags: []urfave.Flag{
					tokenFlag(), labelFlag("`LABEL` of the key, unique in the token"),
					&urfave.StringFlag{Name: "purpose", Required: true, Usage: "`PURPOSE`: " + purposeHelp},
					&urfave.StringFlag{Name: "type", Required: true, Usage: "`TYPE`: " + typeHelp},
					&urfave.BoolFlag{Name: "wrappable", Usage: "may leave the token encrypted, for a backup or another token"},
					jsonFlag(),
				}},
			{Name: "show", Usage: "show everything that the token tells of a key",
				Description: "With --pem, only the public key.\n\nExample: set-hsm keys show " + exampleToken + " --label sign --pem > sign.pem",
				Action:      showKey, Flags: []urfave.Flag{tokenFlag(), keyLabel(), idFlag(),
					&urfave.BoolFlag{Name: "pem", Usage: "print the public key as PEM, and nothing else"}, jsonFlag()}},
			{Name: "rename", Usage: "give a key another label",
				Description: "Not every token renames keys that were made unmodifiable, as set-hsm makes them: SoftHSM does not.\n\n" +
					"Example: set-hsm keys rename " + exampleToken + " --label sign --to sign-2026",
				Action: renameKey, Flags: []urfave.Flag{tokenFlag(), keyLabel(), idFlag(),
					&urfave.StringFlag{Name: "to", Required: true, Usage: "new `LABEL`"}, jsonFlag()}},
			{Name: "delete", Usage: "delete a key and its public key, for ever",
				Description: "Asks for the label to be typed, unless --confirm has it.\n\n" +
					"Example: set-hsm keys delete " + exampleToken + " --label sign-2025",
				Action: deleteKey, Flags: []urfave.Flag{tokenFlag(), keyLabel(), idFlag(), confirmFlag(), jsonFlag()}},
		}}
}

func listKeys(c *urfave.Context) error {
	return withToken(c, func(token *hsm.Token) error {
		keys, err := token.Keys(c.Context)
		if err != nil {
			return err
		}
		if len(keys) == 0 {
			hint(c, "token %q has no keys: make one with set-hsm keys generate", token.Info().Label)
		}
		return printKeys(c, keys, keys)
	})
}

func generateKey(c *urfave.Context) error {
	label, purpose, typ := c.String("label"), hsm.Purpose(c.String("purpose")), hsm.KeyType(c.String("type"))
	if err := hsm.CheckKey(label, purpose, typ); err != nil {
		return cli.Usage(err)
	}
	return withToken(c, func(token *hsm.Token) error {
		generate := token.GenerateKey
		if c.Bool("wrappable") {
			generate = token.GenerateWrappableKey
		}
		var key hsm.KeyInfo
		err := patiently(c, fmt.Sprintf("making the %s key %q", typ, label), func() (err error) {
			key, err = generate(c.Context, label, purpose, typ)
			return err
		})
		if err != nil {
			return adviseOnKey(c, err)
		}
		return printKeys(c, []hsm.KeyInfo{key}, key)
	})
}

// adviseOnKey says what to do about a key that was not made.
func adviseOnKey(c *urfave.Context, err error) error {
	switch {
	case errors.Is(err, hsm.ErrKeyExists):
		return fmt.Errorf("%w: choose another --label, or see that key with set-hsm keys show", err)
	case c.Context.Err() != nil:
		return fmt.Errorf("stopped: %w: the token may make the key %q all the same: see set-hsm keys list", context.Cause(c.Context), c.String("label"))
	}
	return err
}

func printKeys(c *urfave.Context, keys []hsm.KeyInfo, asJSON any) error {
	if c.Bool("json") {
		return cli.PrintJSON(c.App.Writer, asJSON)
	}
	rows := make([][]string, len(keys))
	for i, k := range keys {
		rows[i] = []string{k.Label, string(k.Type), string(k.Purpose), strings.Join(k.Usages, ","),
			strconv.FormatBool(k.Sensitive), strconv.FormatBool(k.Extractable), k.ID}
	}
	return cli.Table(c.App.Writer, []string{"LABEL", "TYPE", "PURPOSE", "USAGES", "SENSITIVE", "EXTRACTABLE", "ID"}, rows)
}

// oneKey is the key of the --label and --id flags.
func oneKey(c *urfave.Context, token *hsm.Token) (hsm.KeyInfo, error) {
	label := c.String("label")
	id, err := keyID(c)
	if err != nil {
		return hsm.KeyInfo{}, err
	}
	keys, err := token.Keys(c.Context)
	if err != nil {
		return hsm.KeyInfo{}, err
	}
	var found []hsm.KeyInfo
	var ids []string
	for _, k := range keys {
		if k.Label == label && (id == nil || k.ID == hex.EncodeToString(id)) {
			found, ids = append(found, k), append(ids, k.ID)
		}
	}
	switch {
	case len(found) == 0:
		return hsm.KeyInfo{}, fmt.Errorf("key %q: %w: see set-hsm keys list", label, hsm.ErrNotFound)
	case len(found) > 1:
		return hsm.KeyInfo{}, fmt.Errorf("%d keys have the label %q: say which with --id: %s", len(found), label, strings.Join(ids, ", "))
	}
	return found[0], nil
}

func showKey(c *urfave.Context) error {
	if c.Bool("pem") && c.Bool("json") {
		return cli.Usage(errors.New("--pem and --json exclude each other"))
	}
	return withToken(c, func(token *hsm.Token) error {
		k, err := oneKey(c, token)
		if err != nil {
			return err
		}
		spki := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: k.SPKI})
		switch {
		case c.Bool("json"):
			return cli.PrintJSON(c.App.Writer, k)
		case len(k.SPKI) == 0 && c.Bool("pem"):
			return fmt.Errorf("key %q has no public key in the token, or none of a type that is supported", k.Label)
		case !c.Bool("pem"):
			if err := printAttributes(c, k); err != nil || len(k.SPKI) == 0 {
				return err
			}
		}
		_, err = c.App.Writer.Write(spki)
		return err
	})
}

// printAttributes prints everything but the public key.
func printAttributes(c *urfave.Context, k hsm.KeyInfo) error {
	return cli.Table(c.App.Writer, []string{"ATTRIBUTE", "VALUE"}, [][]string{
		{"label", k.Label}, {"id", k.ID}, {"type", string(k.Type)}, {"purpose", string(k.Purpose)},
		{"usages", strings.Join(k.Usages, ",")}, {"private", strconv.FormatBool(k.Private)},
		{"sensitive", strconv.FormatBool(k.Sensitive)}, {"always sensitive", strconv.FormatBool(k.AlwaysSensitive)},
		{"extractable", strconv.FormatBool(k.Extractable)}, {"never extractable", strconv.FormatBool(k.NeverExtractable)},
		{"local", strconv.FormatBool(k.Local)}, {"modifiable", strconv.FormatBool(k.Modifiable)},
	})
}

func renameKey(c *urfave.Context) error {
	id, err := keyID(c)
	if err != nil {
		return err
	}
	return withToken(c, func(token *hsm.Token) error {
		key, err := token.RenameKey(c.Context, c.String("label"), id, c.String("to"))
		if err != nil {
			return err
		}
		return printKeys(c, []hsm.KeyInfo{key}, key)
	})
}

func deleteKey(c *urfave.Context) error {
	id, err := keyID(c)
	if err != nil {
		return err
	}
	return withToken(c, func(token *hsm.Token) error {
		label := c.String("label")
		what := fmt.Sprintf("what is left of the key %q in token %q", label, token.Info().Label)
		k, err := oneKey(c, token)
		if err == nil {
			what = fmt.Sprintf("the key %q in token %q (%s for %s, ID %s)", label, token.Info().Label, or(k.Type, "unknown type"), or(k.Purpose, "no purpose"), k.ID)
		} else if !errors.Is(err, hsm.ErrNotFound) {
			return err
		}
		if err := cli.Confirm(c, what, "label", label); err != nil {
			return err
		}
		if err := token.DeleteKey(c.Context, label, id); err != nil {
			return err
		}
		if c.Bool("json") {
			return cli.PrintJSON(c.App.Writer, map[string]any{"token": token.Info().Label, "label": label, "id": k.ID, "deleted": true})
		}
		_, err = fmt.Fprintf(c.App.Writer, "Deleted %s.\n", what)
		return err
	})
}

// or is s, or what stands for an empty one.
func or[S ~string](s S, empty string) string {
	if s == "" {
		return empty
	}
	return string(s)
}
