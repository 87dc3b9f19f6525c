package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/setkit/setkit/hsm"
)

// unfinished begins the labels of keys whose making was cut short.
const unfinished = "unfinished-"

// checkKeys compares the attributes of every key with its purpose.
func (d *diagnosis) checkKeys(keys []hsm.KeyInfo) {
	if len(keys) == 0 {
		d.add(severityNote, "key", "-", "the token has no keys", d.command("keys generate", "--label", "sign", "--purpose", "sign", "--type", "ec-p256"))
	}
	for i, k := range keys {
		if strings.HasPrefix(k.Label, unfinished) {
			d.add(severityWarning, "key", k.Label, "is left of a generation that was cut short, and is never used", d.deleteKey(k))
			continue
		}
		if i > 0 && keys[i-1].Label == k.Label { // they are sorted by label
			d.add(severityError, "key", k.Label, "another key has this label: neither can be used", d.renameKey(k, keys))
		}
		if j := slices.IndexFunc(keys, func(o hsm.KeyInfo) bool { return o.ID == k.ID }); k.ID != "" && j < i && keys[j].Label != k.Label {
			d.add(severityWarning, "key", k.Label, fmt.Sprintf("has the CKA_ID of %q: it is the same key, left by a rename that was cut short, or cannot be told from it", keys[j].Label), d.deleteKey(k))
		}
		d.checkUsages(k)
		d.checkSecrecy(k)
		d.checkPublic(k)
		if !d.has("key", k.Label) {
			d.add(severityOK, "key", k.Label, fmt.Sprintf("%s for %s: its attributes fit its purpose", k.Type, k.Purpose), "")
		}
	}
}

func (d *diagnosis) checkUsages(k hsm.KeyInfo) {
	usages := strings.Join(k.Usages, ", ")
	switch {
	case slices.Contains(k.Usages, "wrap") && slices.Contains(k.Usages, "unwrap"):
		d.add(severityError, "key", k.Label, "may both wrap and unwrap: whoever can use it can unwrap what it wraps as a key that can be read",
			d.command("keys generate", "--label", k.Label+"-wrap", "--purpose", "wrap", "--type", "aes-256")+", take it into use, then "+d.deleteKey(k))
	case k.Purpose == "":
		d.add(severityWarning, "key", k.Label, fmt.Sprintf("its usages (%s) are those of no purpose: no command of this project uses it", or(usages, "none")),
			"generate a key for each purpose, take them into use, then "+d.deleteKey(k))
	}
	if k.Modifiable {
		d.add(severityWarning, "key", k.Label, "is modifiable: whoever can use it can change its usages", d.replaceKey(k)+"; if that is modifiable too, the token cannot do better")
	}
}

func (d *diagnosis) checkSecrecy(k hsm.KeyInfo) {
	pair := k.Purpose == hsm.PurposeSign || k.Purpose == hsm.PurposeKeyExchange || k.Purpose == hsm.PurposeDerive
	switch {
	case !k.Private:
		d.add(severityError, "key", k.Label, "is not private: it can be seen, and in some tokens used, without a PIN", d.replaceKey(k))
	case !k.Sensitive && k.Extractable:
		d.add(severityError, "key", k.Label, "is neither sensitive nor unextractable: whoever can use it can read its value", d.replaceKey(k))
	case !k.Sensitive:
		d.add(severityError, "key", k.Label, "is not sensitive: in some tokens its value can be read", d.replaceKey(k))
	case k.Extractable && k.Purpose == hsm.PurposeCertSign:
		d.add(severityError, "key", k.Label, "signs certificates and is extractable: it can leave the token, encrypted by another key", d.replaceKey(k))
	case k.Extractable && (pair || k.Purpose == ""):
		d.add(severityWarning, "key", k.Label, "is extractable: it can leave the token, encrypted by another key", "if that is not meant, for a backup: "+d.replaceKey(k))
	case k.Extractable:
		d.add(severityNote, "key", k.Label, "is extractable: it can leave the token, encrypted by another key", "")
	case !k.Local && k.Purpose == hsm.PurposeCertSign:
		d.add(severityWarning, "key", k.Label, "signs certificates and was not made in this token: it exists or has existed elsewhere", "if that is not meant: "+d.replaceKey(k))
	case !k.Local:
		d.add(severityNote, "key", k.Label, "was not made in this token: it exists or has existed elsewhere", "")
	case !k.NeverExtractable || !k.AlwaysSensitive:
		d.add(severityWarning, "key", k.Label, "was extractable or not sensitive once: a copy of it may exist", d.replaceKey(k))
	}
}

// checkPublic looks for what a key pair needs beside its private key.
func (d *diagnosis) checkPublic(k hsm.KeyInfo) {
	secret := slices.Contains([]hsm.Purpose{hsm.PurposeMAC, hsm.PurposeSeal, hsm.PurposeWrap}, k.Purpose)
	if k.Type == "" && !secret && len(k.SPKI) == 0 {
		d.add(severityError, "key", k.Label, "its public key is not in the token, or it is of a type that is not supported: it cannot be used",
			"import its public key with the tool that brought the key here, or "+d.deleteKey(k))
	} else if k.Type == "" {
		d.add(severityWarning, "key", k.Label, "is of a type that is not supported", d.deleteKey(k))
	}
}

func (d *diagnosis) deleteKey(k hsm.KeyInfo) string {
	args := []string{"--label", k.Label}
	if k.ID != "" {
		args = append(args, "--id", k.ID)
	}
	return d.command("keys delete", args...)
}

// renameKey proposes a label that is free.
func (d *diagnosis) renameKey(k hsm.KeyInfo, keys []hsm.KeyInfo) string {
	for n := 2; ; n++ {
		to := fmt.Sprintf("%s-%d", k.Label, n)
		if !slices.ContainsFunc(keys, func(o hsm.KeyInfo) bool { return o.Label == to }) {
			return d.command("keys rename", "--label", k.Label, "--id", k.ID, "--to", to)
		}
	}
}

// replaceKey is how to get a good key in place of k, whose attributes cannot be mended.
func (d *diagnosis) replaceKey(k hsm.KeyInfo) string {
	if k.Purpose == "" || k.Type == "" || k.Type == hsm.AES {
		return "generate another key for its purpose, take it into use, then " + d.deleteKey(k)
	}
	return d.command("keys generate", "--label", k.Label+"-new", "--purpose", string(k.Purpose), "--type", string(k.Type)) +
		", take it into use, then " + d.deleteKey(k)
}
