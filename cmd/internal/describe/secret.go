package describe

import (
	"reflect"

	"github.com/setkit/setkit/roles/set"
)

// masked stands for what is never shown.
const masked = "***"

// secret gives what may be seen of a value that is secret. Card numbers, their expiry and account data
// are shown to who asks for them; what signs or opens something, and answers to a CA's form, to nobody.
// Nor is the nonce beside a card number: who has it can search for the number by the digest.
func (w *walker) secret(v reflect.Value) (shown string, ok bool) {
	switch x := v.Interface().(type) {
	case set.PAN:
		if w.ShowPAN {
			return string(x), true
		}
		return x.Masked(), true
	case set.CardExpiry:
		if w.ShowPAN {
			return string(x), true
		}
		return masked, true
	case set.AcctIdentification:
		if w.ShowPAN {
			return x.Text(), true
		}
		return masked, true
	case set.Secret, set.BackKey, set.FieldText, set.FieldOctets:
		return masked, true
	case set.Nonce:
		if _, account := accounts[w.within]; account && !w.ShowPAN {
			return masked, true
		}
	}
	return "", false
}

// accounts are the structures that hold a card number or account beside a nonce.
var accounts = map[string]bool{"PANData": true, "PANData0": true, "PANToken": true, "PANOnly": true, "AcctData": true}

// wipe overwrites an account that is no longer needed.
func wipe(v any) {
	switch x := v.(type) {
	case set.PANData:
		x.Clear()
	case set.PANData0:
		x.Clear()
	case set.PANToken:
		x.Clear()
	case set.PANOnly:
		x.Clear()
	}
}
