package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/setkit/setkit/hsm"
)

// unfinished begins the labels of keys whose making was cut short.
const unfinished = "unfinished-"

// What to do with a key whose attributes cannot be mended.
const (
	replace       = "generate another in its place, take that into use, and delete this one"
	replaceUnless = "if that is not meant: " + replace
)

// checkKeys compares the attributes of every key with its purpose.
func (d *diagnosis) checkKeys() {
	if len(d.keys) == 0 {
		d.add(severityNote, "key", "-", "the token has no keys", "generate some, such as this one", d.command("keys generate", "--label", "sign", "--purpose", "sign", "--type", "ec-p256"))
	}
	for i, k := range d.keys {
		if strings.HasPrefix(k.Label, unfinished) {
			d.add(severityWarning, "key", k.Label, "is left of a generation that was cut short, and is never used", "delete it", d.deleteKey(k))
			continue
		}
		if i > 0 && d.keys[i-1].Label == k.Label { // they are sorted by label
			// Once renamed, the key is not found by the second command.
			d.add(severityError, "key", k.Label, "another key has this label: neither can be used",
				"rename one of them or, if the token does not rename it, delete the one that is not needed",
				d.command("keys rename", "--label", k.Label, "--id", k.ID, "--to", d.freeLabel(k.Label)), d.deleteKey(k))
		}
		if j := slices.IndexFunc(d.keys, func(o hsm.KeyInfo) bool { return o.ID == k.ID }); k.ID != "" && j < i && d.keys[j].Label != k.Label {
			d.add(severityWarning, "key", k.Label, fmt.Sprintf("has the CKA_ID of %q: it is the same key, left by a rename that was cut short, or cannot be told from it", d.keys[j].Label),
				"delete the one that is not used", d.deleteKey(k))
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
	switch {
	case slices.Contains(k.Usages, "wrap") && slices.Contains(k.Usages, "unwrap"):
		d.add(severityError, "key", k.Label, "may both wrap and unwrap: whoever can use it can unwrap what it wraps as a key that can be read", replace, d.replaceKey(k)...)
	case k.Purpose == "":
		d.add(severityWarning, "key", k.Label, fmt.Sprintf("its usages (%s) are those of no purpose: no command of this project uses it", or(strings.Join(k.Usages, ", "), "none")),
			"generate a key for each purpose that it has, take those into use, and delete this one", d.replaceKey(k)...)
	}
	if k.Modifiable {
		d.add(severityWarning, "key", k.Label, "is modifiable: whoever can use it can change its usages", replace+"; if that is modifiable too, the token cannot do better", d.replaceKey(k)...)
	}
}

func (d *diagnosis) checkSecrecy(k hsm.KeyInfo) {
	say := func(s severity, text, fix string) { d.add(s, "key", k.Label, text, fix, d.replaceKey(k)...) }
	pair := k.Purpose == hsm.PurposeSign || k.Purpose == hsm.PurposeKeyExchange || k.Purpose == hsm.PurposeDerive
	const leaves = "is extractable: it can leave the token, encrypted by another key"
	const elsewhere = "was made elsewhere, by what the token says: it may exist outside of it"
	switch {
	case !k.Private:
		say(severityError, "is not private: it can be seen, and in some tokens used, without a PIN", replace)
	case !k.Sensitive && k.Extractable:
		say(severityError, "is neither sensitive nor unextractable: whoever can use it can read its value", replace)
	case !k.Sensitive:
		say(severityError, "is not sensitive: in some tokens its value can be read", replace)
	case k.Extractable && k.Purpose == hsm.PurposeCertSign:
		say(severityError, "signs certificates and "+leaves, replace)
	case k.Extractable && (pair || k.Purpose == ""):
		say(severityWarning, leaves, replaceUnless)
	case k.Extractable:
		d.add(severityNote, "key", k.Label, leaves, "")
	case !k.Local && k.Purpose == hsm.PurposeCertSign:
		say(severityWarning, "signs certificates and "+elsewhere, replaceUnless)
	case !k.Local:
		d.add(severityNote, "key", k.Label, elsewhere, "")
	case !k.NeverExtractable || !k.AlwaysSensitive:
		say(severityWarning, "was extractable or not sensitive once: a copy of it may exist", replace)
	}
}

// checkPublic looks for what a key pair needs beside its private key.
func (d *diagnosis) checkPublic(k hsm.KeyInfo) {
	secret := slices.Contains([]hsm.Purpose{hsm.PurposeMAC, hsm.PurposeSeal, hsm.PurposeWrap}, k.Purpose)
	if k.Type == "" && !secret && len(k.SPKI) == 0 {
		d.add(severityError, "key", k.Label, "its public key is not in the token, or it is of a type that is not supported: it cannot be used",
			"import its public key with the tool that brought the key here, or delete it", d.deleteKey(k))
	} else if k.Type == "" {
		d.add(severityWarning, "key", k.Label, "is of a type that is not supported", "delete it, if nothing else uses it", d.deleteKey(k))
	}
}

// checkOrphans tells of public keys without a private key.
func (d *diagnosis) checkOrphans(list []hsm.KeyInfo) {
	for _, k := range list {
		const text = "a public key without its private key: left by a generation or deletion that was cut short, or put there"
		if k.ID == "" { // its label may be another key's, and would delete that
			d.add(severityNote, "public key", k.Label, text, "delete it with the token's own tool, if nothing uses it")
		} else {
			d.add(severityNote, "public key", k.Label, text, "delete it, if nothing uses it", d.deleteKey(k))
		}
	}
}

func (d *diagnosis) deleteKey(k hsm.KeyInfo) string {
	args := []string{"--label", k.Label}
	if k.ID != "" {
		args = append(args, "--id", k.ID)
	}
	return d.command("keys delete", args...)
}

// freeLabel is a label like this one that no key has.
func (d *diagnosis) freeLabel(label string) string {
	for n := 2; ; n++ {
		free := fmt.Sprintf("%s-%d", label, n)
		if !slices.ContainsFunc(d.keys, func(k hsm.KeyInfo) bool { return k.Label == free }) {
			return free
		}
	}
}

// replaceKey are the commands that generate good keys for what k is used for, and delete k.
func (d *diagnosis) replaceKey(k hsm.KeyInfo) []string {
	purposes := []hsm.Purpose{k.Purpose}
	if k.Purpose == "" {
		purposes = purposesOf(k)
	}
	typ := k.Type
	if typ == hsm.AES {
		typ = hsm.AES256
	}
	var commands []string
	for _, purpose := range purposes {
		label := k.Label
		if len(purposes) > 1 {
			label += "-" + string(purpose)
		}
		if label = d.freeLabel(label); hsm.CheckKey(label, purpose, typ) == nil {
			commands = append(commands, d.command("keys generate", "--label", label, "--purpose", string(purpose), "--type", string(typ)))
		}
	}
	return append(commands, d.deleteKey(k))
}

// purposesOf are the purposes that a key with usages of several has had.
func purposesOf(k hsm.KeyInfo) []hsm.Purpose {
	byUsage := map[string]hsm.Purpose{"sign": hsm.PurposeMAC, "encrypt": hsm.PurposeSeal, "wrap": hsm.PurposeWrap}
	if len(k.SPKI) > 0 {
		byUsage = map[string]hsm.Purpose{
			"sign": hsm.PurposeSign, "decrypt": hsm.PurposeKeyExchange, "unwrap": hsm.PurposeUnwrap, "derive": hsm.PurposeDerive,
		}
	}
	var purposes []hsm.Purpose
	for _, usage := range k.Usages {
		if purpose, ok := byUsage[usage]; ok {
			purposes = append(purposes, purpose)
		}
	}
	return purposes
}
