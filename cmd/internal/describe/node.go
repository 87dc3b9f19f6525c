// Package describe shows SET's messages, certificates, CRLs, BrandCRLIdentifiers and wallet bundles to a
// person: it turns octets into a tree of named and explained Nodes, which others print as text, JSON or HTML.
//
// The names come from the Go structures that roles/set decodes into, so whatever is added there appears
// here by itself. Nothing that is shown has been checked for more than its form: a signature is tried
// under the certificate that it names, and that certificate's own chain is not looked at.
package describe

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
)

// Kind is what a Node is.
type Kind string

// The kinds of Node.
const (
	Structure   Kind = "structure"
	List        Kind = "list"
	Value       Kind = "value"       // one value, in Value
	Octets      Kind = "octets"      // octets that mean nothing more to a person, in Octets
	Masked      Kind = "masked"      // a secret, of which Value shows no more than may be seen
	Signed      Kind = "signed"      // a SignedData, by Signers
	Encrypted   Kind = "encrypted"   // an AuthEnvelopedData, for Recipient; with what it holds, if it was opened
	Certificate Kind = "certificate" //
	Fault       Kind = "fault"       // where the input is malformed: Value says how
)

// Node is one thing of a description: a structure, a field, a value.
type Node struct {
	Name    string `json:"name"`
	Type    string `json:"type,omitempty"` // SET's name of its type
	Kind    Kind   `json:"kind"`
	Value   string `json:"value,omitempty"`
	Octets  Hex    `json:"octets,omitempty"`
	Meaning string `json:"meaning,omitempty"` // what the thing is for

	Signers   []*Party `json:"signedBy,omitempty"`
	Recipient *Party   `json:"encryptedFor,omitempty"`
	Opened    bool     `json:"opened,omitempty"` // the fields of an encrypted Node are what was inside
	Offset    *int     `json:"offset,omitempty"` // of a fault, in octets from the start of the input or of the contents around it

	Fields []*Node `json:"fields,omitempty"`
}

// Party is who signed something, or for whom it is encrypted.
type Party struct {
	Role    string `json:"role,omitempty"`    // in words, such as "merchant"; empty when the certificate is not known
	Subject string `json:"subject,omitempty"` // of the certificate
	Issuer  string `json:"issuer,omitempty"`
	Serial  string `json:"serialNumber,omitempty"`
	Checked string `json:"checked,omitempty"` // what became of the signature
	BackKey bool   `json:"backKey,omitempty"` // no certificate: a key that the recipient had sent along
}

// String names the party for a person.
func (p *Party) String() string { return p.Text(nil) }

// Text is String in a language.
func (p *Party) Text(t Tongue) string {
	switch {
	case p.BackKey:
		return t.Say("whoever sent the back key")
	case p.Serial == "":
		return t.Say("a key that has no certificate yet")
	case p.Role == "":
		return fmt.Sprintf(t.Say("the holder of certificate %s, which is not known here, of %s"), p.Serial, p.Issuer)
	}
	return fmt.Sprintf(t.Say("%s: %s, certificate %s"), t.Say(p.Role), p.Subject, p.Serial)
}

// Hex is octets that JSON shows in hexadecimal.
type Hex []byte

// MarshalJSON gives the hexadecimal digits.
func (h Hex) MarshalJSON() ([]byte, error) { return json.Marshal(hex.EncodeToString(h)) }

// UnmarshalJSON reads them.
func (h *Hex) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	octets, err := hex.DecodeString(s)
	*h = octets
	return err
}

// Walk calls visit for n and everything in it, outside first, until visit returns false.
func (n *Node) Walk(visit func(*Node) bool) bool {
	if !visit(n) {
		return false
	}
	for _, f := range n.Fields {
		if !f.Walk(visit) {
			return false
		}
	}
	return true
}

// Find gives the first field of that name in n, however deep; nil if there is none.
func (n *Node) Find(name string) (found *Node) {
	n.Walk(func(f *Node) bool {
		if f.Name == name {
			found = f
		}
		return found == nil
	})
	return found
}

func (n *Node) add(fields ...*Node) {
	for _, f := range fields {
		if f != nil {
			n.Fields = append(n.Fields, f)
		}
	}
}

func value(name, format string, args ...any) *Node {
	return &Node{Name: name, Kind: Value, Value: fmt.Sprintf(format, args...)}
}

// fault is a Node that tells what is wrong at an offset, which is not known when it is negative.
func fault(offset int, what string) *Node {
	n := &Node{Name: "malformed", Kind: Fault, Value: what}
	if offset >= 0 {
		n.Offset = &offset
	}
	return n
}
