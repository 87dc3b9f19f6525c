package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/hsm"
	urfave "github.com/urfave/cli/v2"
)

const pinSourceHelp = "file:PATH, env:NAME, cred:NAME or prompt:"

func jsonFlag() urfave.Flag { return &urfave.BoolFlag{Name: "json", Usage: "print JSON"} }

func moduleFlag() urfave.Flag {
	return &urfave.PathFlag{Name: "module", Usage: "PKCS#11 `LIBRARY` (default: SoftHSM's, where it is installed)"}
}

func tokenFlag() urfave.Flag {
	return &urfave.StringFlag{Name: "token", Required: true,
		Usage: "`URI` of the token, such as pkcs11:token=shop?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=env:SHOP_PIN"}
}

func newApp() *urfave.App {
	return &urfave.App{
		Name:  "set-hsm",
		Usage: "administer PKCS#11 tokens and the keys in them",
		Commands: []*urfave.Command{
			{Name: "init", Usage: "make a token in a free slot",
				Description: "Example: set-hsm init --label shop --pin-source file:shop-pin --so-pin-source file:shop-so-pin",
				Action:      initToken, Flags: []urfave.Flag{
					moduleFlag(),
					&urfave.StringFlag{Name: "label", Required: true, Usage: "`LABEL` of the token, unique in the library"},
					&urfave.StringFlag{Name: "so-pin-source", Value: "prompt:", Usage: "security officer's PIN: " + pinSourceHelp},
					&urfave.StringFlag{Name: "pin-source", Value: "prompt:", Usage: "user PIN: " + pinSourceHelp},
					jsonFlag(),
				}},
			{Name: "tokens", Usage: "list the tokens of a library",
				Description: "Example: set-hsm tokens --module /usr/lib/softhsm/libsofthsm2.so",
				Action:      tokens, Flags: []urfave.Flag{moduleFlag(), jsonFlag()}},
			{Name: "keys", Usage: "keys of a token", Subcommands: []*urfave.Command{
				{Name: "list", Usage: "list keys with the attributes that the token gives",
					Description: "Example: set-hsm keys list --token 'pkcs11:token=shop?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=prompt:'",
					Action:      listKeys,
					Flags:       []urfave.Flag{tokenFlag(), jsonFlag()}},
				{Name: "generate", Usage: "generate a key inside the token",
					Description: "What the key may do is fixed by its purpose, for ever.\n\n" +
						"Example: set-hsm keys generate --token 'pkcs11:token=shop?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=prompt:' --label sign --purpose sign --type ec-p256",
					Action: generateKey, Flags: []urfave.Flag{
						tokenFlag(),
						&urfave.StringFlag{Name: "label", Required: true, Usage: "`LABEL` of the key, unique in the token"},
						&urfave.StringFlag{Name: "purpose", Required: true, Usage: "sign, cert-sign, key-exchange, mac or seal"},
						&urfave.StringFlag{Name: "type", Required: true, Usage: "rsa-2048, rsa-3072, rsa-4096, ec-p256, ec-p384, aes-256 or hmac-sha256"},
						jsonFlag(),
					}},
			}},
		},
	}
}

func noArguments(c *urfave.Context) error {
	if c.Args().Present() {
		return cli.Usage(fmt.Errorf("unexpected argument %q", c.Args().First()))
	}
	return nil
}

func modulePath(c *urfave.Context) (string, error) {
	if path := c.Path("module"); path != "" {
		return path, nil
	}
	return hsm.SoftHSMPath()
}

func initToken(c *urfave.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	module, err := modulePath(c)
	if err != nil {
		return err
	}
	label := c.String("label")
	secret := func(flag, who string) ([]byte, error) {
		return cli.Secret(c.Context, c.String(flag), who+" of the new token", c.App.Reader, c.App.ErrWriter)
	}
	soPIN, err := secret("so-pin-source", "security officer's PIN")
	if err != nil {
		return err
	}
	defer clear(soPIN)
	pin, err := secret("pin-source", "user PIN")
	if err != nil {
		return err
	}
	defer clear(pin)
	info, err := hsm.InitToken(c.Context, module, label, soPIN, pin)
	if err != nil {
		return err
	}
	return printTokens(c, []hsm.TokenInfo{info}, info)
}

func tokens(c *urfave.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	module, err := modulePath(c)
	if err != nil {
		return err
	}
	list, err := hsm.Tokens(c.Context, module)
	if err != nil {
		return err
	}
	return printTokens(c, list, list)
}

func printTokens(c *urfave.Context, list []hsm.TokenInfo, asJSON any) error {
	if c.Bool("json") {
		return cli.PrintJSON(c.App.Writer, asJSON)
	}
	rows := make([][]string, len(list))
	for i, t := range list {
		pin := "not set"
		switch {
		case t.PINLocked:
			pin = "locked"
		case t.UserPIN:
			pin = "set"
		}
		rows[i] = []string{t.Label, t.Serial, t.Manufacturer, t.Model, pin}
	}
	return cli.Table(c.App.Writer, []string{"LABEL", "SERIAL", "MANUFACTURER", "MODEL", "USER PIN"}, rows)
}

// withToken runs f with the token of the --token flag.
func withToken(c *urfave.Context, f func(*hsm.Token) error) (err error) {
	if err := noArguments(c); err != nil {
		return err
	}
	ring := cli.NewKeyring(c.App.Reader, c.App.ErrWriter)
	defer func() { err = errors.Join(err, ring.Close()) }()
	token, err := ring.Token(c.Context, c.String("token"))
	if err != nil {
		return err
	}
	return f(token)
}

func listKeys(c *urfave.Context) error {
	return withToken(c, func(token *hsm.Token) error {
		keys, err := token.Keys(c.Context)
		if err != nil {
			return err
		}
		return printKeys(c, keys, keys)
	})
}

func generateKey(c *urfave.Context) error {
	return withToken(c, func(token *hsm.Token) error {
		key, err := token.GenerateKey(c.Context, c.String("label"), hsm.Purpose(c.String("purpose")), hsm.KeyType(c.String("type")))
		if err != nil {
			return err
		}
		return printKeys(c, []hsm.KeyInfo{key}, key)
	})
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
