package trace

import (
	"fmt"
	"strings"

	"github.com/setkit/setkit/cmd/internal/describe"
	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/pki"
)

// Signature is one that a message carries.
type Signature struct {
	Message *Message
	What    string // what is signed
	Signer  string // the party
	Device  string // which holds the key
	Checked string // what became of trying it
	Passed  bool   // the sender only passes it on
	Reader  string // the party that alone sees it, when it is inside an encrypted part

	by   *describe.Party // by the certificate that the signature names, or that its signer has; nil without one
	seen int             // the message in which that certificate was, if the signature does not name it
	none string          // why there is none
}

// Certificate says by which certificate the signature is.
func (s Signature) Certificate(t describe.Tongue) string {
	switch {
	case s.by == nil:
		return t.Say(s.none)
	case s.seen > 0:
		return fmt.Sprintf(t.Say("%s, seen in message %d"), s.by.Text(t), s.seen)
	}
	return s.by.Text(t)
}

// Signatures gives the signatures of the messages. Those inside encrypted parts are the ones that the
// protocol demands: who has no key does not see them.
func (v View) Signatures() (all []Signature) {
	for _, m := range v.Messages {
		if m.Media == MediaISO8583 {
			continue
		}
		dual, tried := tryDual(m)
		for _, n := range inClear(m.Node) {
			switch n.Kind {
			case describe.Signed:
				for _, by := range n.Signers {
					s := Signature{Message: m, What: letterOf(m, n).what, Signer: m.From, by: by, Checked: by.Checked}
					if party, ok := partyOf(m, by.Role); ok {
						s.Signer = party
					}
					if contentType(n) == "PI-TBS" {
						s.Checked = "over digests that are not both here: the gateway tries it"
						if tried {
							s.Checked = dual
						}
					}
					s.Passed = s.Signer != m.From
					s.Device = v.device(s.Signer)
					all = append(all, s)
				}
			case describe.Encrypted:
				part := sealed(m, n)
				if part.Signer == "" {
					continue
				}
				s := Signature{Message: m, What: part.What, Signer: part.Signer, Device: v.device(part.Signer), Passed: part.Signer != m.From, Reader: part.Reader}
				if isNew(n) {
					s.none = "none yet: the message asks for it"
				} else if s.by, s.seen = v.certificate(m, part.Signer); s.by == nil {
					s.none = "its certificate is in no message up to here"
				}
				all = append(all, s)
			}
		}
	}
	return all
}

// isNew tells whether an encrypted value is signed inside by a key that has no certificate yet.
func isNew(n *describe.Node) bool { return letters[contentType(n)].signer == "sender" }

// tryDual verifies the cardholder's dual signature as the merchant does: over the digest of the order
// information, which is in the message, and that of the payment instruction, which comes with it. Only
// PReq has both.
func tryDual(m *Message) (result string, tried bool) {
	w, err := set.Decode(m.octets)
	if err != nil || w.Message.PReq == nil || w.Message.PReq.PReqDualSigned == nil {
		return "", false
	}
	p := w.Message.PReq.PReqDualSigned
	order, err := cms.DD(set.ContentOIData, p.OIDualSigned.Value)
	if err != nil {
		return "not tried: " + err.Error(), true
	}
	sd, err := cms.ParseSigned(p.PIDualSigned.PISignature, set.ContentPITBS)
	if err != nil {
		return "not tried: " + err.Error(), true
	}
	card := sd.SignerCertificate(0)
	if card == nil {
		return "not tried: its certificate is not here", true
	}
	if err := sd.VerifyDetached(0, set.PITBS{HPIData: p.OIDualSigned.DD, HOIData: order}, card.PublicKey); err != nil {
		return "DOES NOT VERIFY under that certificate", true
	}
	return "verifies under that certificate, over the digests of order and payment", true
}

// device is where a party keeps its signature key, as far as that is known.
func (v View) device(party string) string {
	switch {
	case party == Wallet:
		return "card, key 9C, after the PIN"
	case v.Wallet:
		return "the " + Name(party) + "'s key"
	}
	return "HSM token of the " + Name(party)
}

// certificate finds the signature certificate of a party that was last recorded, up to a message, and the
// message that it was in.
func (v View) certificate(until *Message, party string) (by *describe.Party, seen int) {
	for _, m := range v.Recording.Messages[:min(until.Number, len(v.Recording.Messages))] {
		for _, n := range inClear(m.Node) {
			if role, ok := strings.CutSuffix(n.Value, ", "+pki.Signature.String()); ok && n.Kind == describe.Certificate && certifies(m, n, party) {
				by, seen = &describe.Party{Role: role, Subject: valueOf(n, "Subject"), Serial: valueOf(n, "SerialNumber")}, m.Number
			}
		}
	}
	return by, seen
}

// valueOf gives the value of a field, however deep.
func valueOf(n *describe.Node, name string) string {
	if f := n.Find(name); f != nil {
		return f.Value
	}
	return ""
}
