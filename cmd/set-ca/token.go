package main

import (
	"context"
	"crypto"

	"github.com/setkit/setkit/cmd/internal/keyring"
	"github.com/setkit/setkit/hsm"
	"github.com/setkit/setkit/roles/ca/ceremony"
)

// tokenOpener opens tokens by their plain names.
func tokenOpener(keys *keyring.Ring, uris map[string]string) func(context.Context, string) (ceremony.Token, error) {
	return func(ctx context.Context, name string) (ceremony.Token, error) {
		t, err := keys.Token(ctx, uris[name])
		if err != nil {
			return nil, err
		}
		return token{t}, nil
	}
}

// token is an HSM token as the ceremony wants it. The keyring closes it.
type token struct{ hsm *hsm.Token }

func (t token) Close() error { return nil }

func (t token) Info() ceremony.TokenInfo {
	i := t.hsm.Info()
	return ceremony.TokenInfo{Label: i.Label, Serial: i.Serial, Manufacturer: i.Manufacturer, Model: i.Model}
}

func (t token) Keys(ctx context.Context) ([]ceremony.KeyInfo, error) {
	keys, err := t.hsm.Keys(ctx)
	list := make([]ceremony.KeyInfo, len(keys))
	for i, k := range keys {
		list[i] = keyInfo(k)
	}
	return list, err
}

func (t token) Generate(ctx context.Context, label string, purpose ceremony.Purpose, typ ceremony.KeyType) (ceremony.KeyInfo, error) {
	k, err := t.hsm.GenerateKey(ctx, label, hsm.Purpose(purpose), hsm.KeyType(typ))
	return keyInfo(k), err
}

func (t token) Signer(ctx context.Context, label string) (crypto.Signer, error) {
	k, err := t.hsm.Signer(ctx, label)
	if err != nil {
		return nil, err
	}
	return k, nil
}

func keyInfo(k hsm.KeyInfo) ceremony.KeyInfo {
	return ceremony.KeyInfo{
		Label: k.Label, ID: k.ID, Type: ceremony.KeyType(k.Type), Purpose: ceremony.Purpose(k.Purpose), Usages: k.Usages,
		Private: k.Private, Sensitive: k.Sensitive, Extractable: k.Extractable, AlwaysSensitive: k.AlwaysSensitive,
		NeverExtractable: k.NeverExtractable, Local: k.Local, Modifiable: k.Modifiable, SPKI: k.SPKI,
	}
}
