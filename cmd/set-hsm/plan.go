package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/cmd/internal/keyring"
	"github.com/setkit/setkit/hsm"
	softhsmconfig "github.com/setkit/setkit/softhsm-config"
	urfave "github.com/urfave/cli/v2"
)

// labPlan is the name of the plan that the project has of its own.
const labPlan = "lab"

const planExample = `  tokens:
    - label: shop
      pin-source: file:shop-pin
      so-pin-source: file:shop-so-pin
      keys:
        - {label: sign, purpose: sign, type: ec-p256}
        - {label: pan-seal, purpose: seal, type: aes-256, wrappable: true}
`

// What initPlan did with an object.
const (
	actionMade  = "made"
	actionKept  = "kept"  // it was there and right
	actionWrong = "wrong" // it was there, differs from the plan, and was left alone
)

// planned is what became of a token or a key of a plan.
type planned struct {
	Token  string `json:"token"`
	Serial string `json:"serial,omitempty"`
	Key    string `json:"key,omitempty"` // empty: the token itself
	Action string `json:"action"`
	Detail string `json:"detail,omitempty"`
}

// initPlan makes what is missing of a plan, and tells of every token and key what it did, also when it
// could not go on.
func initPlan(c *urfave.Context) error {
	module, err := modulePath(c)
	if err != nil {
		return err
	}
	plan := softhsmconfig.File{Tokens: softhsmconfig.Plan()}
	lab := c.String("plan") == labPlan
	if !lab {
		plan = softhsmconfig.File{}
		if err := cli.LoadConfig(c.String("plan"), &plan); err != nil {
			return cli.Usage(err)
		}
	}
	if err := checkPlan(plan.Tokens); err != nil {
		return cli.Usage(fmt.Errorf("plan %s: %w", c.String("plan"), err))
	}
	done := []planned{}
	for _, t := range plan.Tokens {
		if lab {
			if err = useFolder(filepath.Join(c.Path("dir"), t.Label), &t); err != nil {
				break
			}
		}
		if err = planToken(c, module, t, &done); err != nil {
			err = fmt.Errorf("token %q: %w", t.Label, err)
			break
		}
	}
	wrong := 0
	for _, d := range done {
		if d.Action == actionWrong {
			wrong++
		}
	}
	if err == nil && wrong > 0 {
		err = fmt.Errorf("%s not as the plan has it, and left alone: change the plan, or delete what is wrong with set-hsm keys delete and do this again", counted(wrong, "key"))
	}
	return errors.Join(printPlanned(c, done), err)
}

// checkPlan checks what can be checked before anything is made.
func checkPlan(tokens []softhsmconfig.Token) error {
	if len(tokens) == 0 {
		return errors.New("it has no tokens")
	}
	seen := map[string]bool{}
	for _, t := range tokens {
		if t.Label == "" || seen[t.Label] {
			return fmt.Errorf("a token without a label, or two with the label %q", t.Label)
		}
		seen[t.Label] = true
		keys := map[string]bool{}
		for _, k := range t.Keys {
			if keys[k.Label] {
				return fmt.Errorf("token %q has two keys %q", t.Label, k.Label)
			}
			keys[k.Label] = true
			if err := hsm.CheckKey(k.Label, hsm.Purpose(k.Purpose), hsm.KeyType(k.Type)); err != nil {
				return fmt.Errorf("token %q: %w", t.Label, err)
			}
		}
	}
	return nil
}

// planToken makes the token if it is missing, and then its keys that are.
func planToken(c *urfave.Context, module string, t softhsmconfig.Token, done *[]planned) error {
	info, made, err := findOrMake(c, module, t)
	if err != nil {
		return err
	}
	*done = append(*done, planned{Token: t.Label, Serial: info.Serial, Action: action(made)})
	if len(t.Keys) == 0 {
		return nil
	}
	ring := keyring.New(c.App.Reader, c.App.ErrWriter)
	uri := hsm.URI{Token: t.Label, Serial: info.Serial, ModulePath: module, PINSource: or(t.PINSource, "prompt:")}
	token, err := ring.Token(c.Context, uri.String())
	if err == nil {
		err = planKeys(c, token, t, done)
	}
	return errors.Join(err, ring.Close())
}

func findOrMake(c *urfave.Context, module string, t softhsmconfig.Token) (info hsm.TokenInfo, made bool, err error) {
	list, err := hsm.Tokens(c.Context, module)
	if err != nil {
		return hsm.TokenInfo{}, false, adviseOnLibrary(module, err)
	}
	labelled := slices.DeleteFunc(list, func(i hsm.TokenInfo) bool { return i.Label != t.Label })
	switch len(labelled) {
	case 0:
		info, err = makeToken(c, module, t.Label, or(t.SOPINSource, "prompt:"), or(t.PINSource, "prompt:"))
		return info, true, err
	case 1:
		return labelled[0], false, nil
	}
	return hsm.TokenInfo{}, false, fmt.Errorf("%d tokens have this label: a plan needs labels that are unique", len(labelled))
}

func planKeys(c *urfave.Context, token *hsm.Token, t softhsmconfig.Token, done *[]planned) error {
	there, err := token.Keys(c.Context)
	if err != nil {
		return err
	}
	for _, k := range t.Keys {
		did := planned{Token: t.Label, Serial: token.Info().Serial, Key: k.Label, Action: actionMade}
		did.Detail, err = planKey(c, token, k, there)
		switch {
		case err != nil:
			return err
		case did.Detail != "":
			did.Action = actionWrong
		case slices.ContainsFunc(there, func(i hsm.KeyInfo) bool { return i.Label == k.Label }):
			did.Action = actionKept
		}
		*done = append(*done, did)
	}
	return nil
}

// planKey makes the key if no key has its label. Otherwise it returns how that key differs.
func planKey(c *urfave.Context, token *hsm.Token, k softhsmconfig.Key, there []hsm.KeyInfo) (differs string, err error) {
	labelled := slices.DeleteFunc(slices.Clone(there), func(i hsm.KeyInfo) bool { return i.Label != k.Label })
	if len(labelled) == 0 {
		generate := token.GenerateKey
		if k.Wrappable {
			generate = token.GenerateWrappableKey
		}
		return "", patiently(c, fmt.Sprintf("making the %s key %q of token %q", k.Type, k.Label, token.Info().Label), func() error {
			_, err := generate(c.Context, k.Label, hsm.Purpose(k.Purpose), hsm.KeyType(k.Type))
			return err
		})
	}
	if len(labelled) > 1 {
		return fmt.Sprintf("%d keys have this label", len(labelled)), nil
	}
	var differences []string
	i := labelled[0]
	if string(i.Purpose) != k.Purpose {
		differences = append(differences, fmt.Sprintf("it is for %s", or(i.Purpose, "no purpose")))
	}
	if string(i.Type) != k.Type {
		differences = append(differences, fmt.Sprintf("it is of type %s", or(i.Type, "unknown")))
	}
	if i.Extractable != k.Wrappable {
		differences = append(differences, map[bool]string{true: "it is wrappable", false: "it is not wrappable"}[i.Extractable])
	}
	if !i.Sensitive {
		differences = append(differences, "it is not sensitive")
	}
	return strings.Join(differences, ", "), nil
}

func action(made bool) string {
	if made {
		return actionMade
	}
	return actionKept
}

// useFolder makes SoftHSM see the token's own folder below the lab's, which has a configuration and
// random PINs, made now if they are missing. The library reads the environment when it is initialised,
// which is whenever its first token is opened.
func useFolder(dir string, t *softhsmconfig.Token) error {
	conf, err := softhsmconfig.Write(dir)
	if err != nil {
		return err
	}
	for name, source := range map[string]*string{"pin": &t.PINSource, "so-pin": &t.SOPINSource} {
		path := filepath.Join(dir, name)
		err := writeNew(path, []byte(rand.Text()[:20]+"\n"))
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		*source = "file:" + path
	}
	return os.Setenv("SOFTHSM2_CONF", conf)
}

func printPlanned(c *urfave.Context, done []planned) error {
	if c.Bool("json") {
		return cli.PrintJSON(c.App.Writer, done)
	}
	rows := make([][]string, len(done))
	for i, d := range done {
		rows[i] = []string{d.Action, d.Token, or(d.Key, "-"), d.Detail}
	}
	return cli.Table(c.App.Writer, []string{"ACTION", "TOKEN", "KEY", "DETAIL"}, rows)
}
