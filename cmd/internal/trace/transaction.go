package trace

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/setkit/setkit/cmd/internal/describe"
	"github.com/setkit/setkit/roles/sethttp"
)

// Transactions gives the messages of every transaction, one after the other by their first messages:
// those that share an identifier or a token, or are request and response. Purchases that are captured
// together are one.
func (r *Recording) Transactions() [][]*Message {
	group := make([]int, len(r.Messages)) // each message's, by the index of its first
	root := func(i int) int {
		for group[i] != i {
			i = group[i]
		}
		return i
	}
	owner := map[string]int{}
	for i, m := range r.Messages {
		group[i] = i
		join := func(j int) {
			a, b := root(i), root(j)
			group[max(a, b)] = min(a, b)
		}
		if m.ReplyTo > 0 && m.ReplyTo <= i {
			join(m.ReplyTo - 1)
		}
		for _, k := range m.keys {
			if j, ok := owner[k]; ok {
				join(j)
			} else {
				owner[k] = i
			}
		}
	}
	var all [][]*Message
	at := map[int]int{}
	for i, m := range r.Messages {
		first := root(i)
		if _, ok := at[first]; !ok {
			at[first] = len(all)
			all = append(all, nil)
		}
		all[at[first]] = append(all[at[first]], m)
	}
	return all
}

// Purchase gives the messages of the purchase with an XID, or of the latest one when xid is empty.
func (r *Recording) Purchase(xid string) ([]*Message, error) {
	for _, messages := range slices.Backward(r.Transactions()) {
		if slices.ContainsFunc(messages, func(m *Message) bool { return m.XID != "" && (xid == "" || m.XID == xid) }) {
			return messages, nil
		}
	}
	if xid != "" {
		return nil, fmt.Errorf("no purchase %s was recorded", xid)
	}
	return nil, fmt.Errorf("no purchase was recorded")
}

// Arrow is one message as it is drawn.
type Arrow struct {
	*Message
	Words string        // what the message is about
	After time.Duration // since the first message
	Parts []Part
	Card  bool // the cardholder's card signs before it is sent
	Signs bool // the sender's HSM signs
	Opens bool // the recipient's HSM opens a part

	Unseen bool // it was not recorded: by SET's rules it passes here
}

// Part is one part of a message, and who can read it.
type Part struct {
	What    string
	Reader  string // the party that can read it; "" for anybody on the way
	Signer  string // the party that signed it; "" for nobody
	Locked  bool   // encrypted
	Private bool   // it goes over the private line between gateway and issuer
}

// Arrows gives the messages as they are drawn.
func Arrows(messages []*Message) []Arrow {
	var all []Arrow
	for _, m := range messages {
		a := Arrow{Message: m, Words: about(m), After: m.Time.Sub(messages[0].Time), Parts: parts(m)}
		for _, p := range a.Parts {
			a.Card = a.Card || p.Signer == Wallet && m.From == Wallet
			a.Signs = a.Signs || p.Signer == m.From && m.From != Wallet
			a.Opens = a.Opens || p.Locked && p.Reader == m.To && m.To != Wallet
		}
		all = append(all, a)
	}
	return all
}

// about says what a message is about: one of the financial network, by its own name.
func about(m *Message) string {
	if m.Media != MediaISO8583 {
		return words[m.Type]
	}
	if m.ReplyTo > 0 {
		return "answer (ISO 8583)"
	}
	return strings.TrimSpace(strings.TrimPrefix(m.Node.Value, m.Type) + " (ISO 8583)")
}

// words say what a message is about.
var words = map[string]string{
	"Payment-Initiation": "wake-up", "PInitReq": "who are you?", "PInitRes": "certificates, XID", "PReq": "order + payment",
	"PRes": "result", "InqReq": "what became of it?", "InqRes": "result", "AuthReq": "may it be paid?", "AuthRes": "decision",
	"AuthRevReq": "take it back", "AuthRevRes": "taken back", "CapReq": "collect the money", "CapRes": "collected",
	"CapRevReq": "take captures back", "CapRevRes": "taken back", "CredReq": "give money back", "CredRes": "given back",
	"CredRevReq": "take credits back", "CredRevRes": "taken back", "PCertReq": "gateway's certificates?", "PCertRes": "certificates",
	"BatchAdminReq": "batch", "BatchAdminRes": "batch",
	"CardCInitReq": "register", "CardCInitRes": "the CA's key", "Me-AqCInitReq": "register",
	"Me-AqCInitRes": "form, the CA's key", "RegFormReq": "form for this card?", "RegFormRes": "form", "CertReq": "certify these keys",
	"CertRes": "certificates", "CertInqReq": "what became of it?", "CertInqRes": "certificates", "Error": "refused",
}

// letter is what is known of an encrypted or signed part by its content type: what it says, who may read
// it, and who signs it inside the encryption.
type letter struct{ what, reader, signer string }

const payment = "PAYMENT: card number, amount"

// letters are the parts of messages by their content types. Who reads and signs is what the protocol
// demands; where a certificate tells, that counts.
var letters = map[string]letter{
	"PInitResData": {what: "certificates, identifiers"}, "PResData": {what: "result of the purchase"},
	"PI-TBS":          {what: "dual signature over both"},
	"PIDualSignedTBE": {payment, Gateway, ""}, "PIUnsignedTBE": {payment, Gateway, ""},
	"AuthReqTBE": {"request: amount, digests", Gateway, Merchant}, "AuthResTBE": {"decision, amount", Merchant, Gateway},
	"AuthResTBEX": {"decision, card number", Merchant, Gateway}, "CapTokenTBE": {"token for the capture", Gateway, Gateway},
	"CapTokenTBEX": {"token for the capture", Gateway, Gateway}, "AuthTokenTBE": {"token for later payments", Gateway, Gateway},
	"CapReqTBE": {"which payments, how much", Gateway, Merchant}, "CapReqTBEX": {"which payment, how much", Gateway, Merchant},
	"CapResTBE":     {"what was collected", Merchant, Gateway},
	"AuthRevReqTBE": {"what to take back", Gateway, Merchant}, "AuthRevResTBE": {"what was taken back", Merchant, Gateway},
	"AuthRevResTBEB": {"what was taken back", Merchant, Gateway}, "CapRevReqTBE": {"which captures to take back", Gateway, Merchant},
	"CapRevReqTBEX": {"which capture to take back", Gateway, Merchant}, "CapRevResTBE": {"what was taken back", Merchant, Gateway},
	"CredReqTBE": {"how much to give back", Gateway, Merchant}, "CredReqTBEX": {"how much to give back", Gateway, Merchant},
	"CredResTBE": {"what was given back", Merchant, Gateway}, "CredRevReqTBE": {"which credits to take back", Gateway, Merchant},
	"CredRevReqTBEX": {"which credit to take back", Gateway, Merchant}, "CredRevResTBE": {"what was taken back", Merchant, Gateway},
	"BatchAdminReqTBE": {"which batch", Gateway, Merchant}, "BatchAdminResTBE": {"the batch and its totals", Merchant, Gateway},
	"PCertReqData": {what: "which certificates"}, "PCertResTBS": {what: "the gateway's certificates"},
	"AcqCardCodeMsgTBE": {"message to the cardholder", Wallet, Gateway},
	"CardCInitResTBS":   {what: "the CA's key"}, "Me-AqCInitResTBS": {what: "form, the CA's key"}, "RegFormResTBS": {what: "form, policy"},
	"RegFormReqTBE": {"card number", CardholderCA, ""}, "CertReqTBEX": {"keys, account, answers", "", "sender"},
	"CertReqTBE": {"keys, answers", "", "sender"}, "CertResTBE": {"certificate, secret", Wallet, CardholderCA},
	"CertResData": {what: "certificates"}, "CertInqReqTBS": {what: "which request"}, "InqReqData": {what: "which purchase"}, "ErrorTBS": {what: "what is wrong"},
}

// parts finds what can be read and by whom: the outermost signed and encrypted values, and what stands in
// the clear.
func parts(m *Message) []Part {
	switch {
	case m.Media == MediaISO8583:
		return []Part{iso8583Part(m)}
	case m.Media == sethttp.MediaPaymentInitiation:
		return []Part{{What: "ORDER: goods and amount"}}
	}
	body := m.Node.Find(m.Type)
	if body == nil {
		return []Part{{What: "malformed"}}
	}
	found := collect(m, body, nil)
	if body.Find("OIData") != nil {
		found = append([]Part{{What: "ORDER: its digest, identifiers", Reader: Merchant}}, found...)
	}
	if len(found) == 0 {
		what := map[string]string{"PInitReq": "brand, bank, challenge", "CardCInitReq": "brand, challenge", "Me-AqCInitReq": "who, brand, challenge"}[m.Type]
		if what == "" {
			what = "the whole message"
		}
		found = []Part{{What: what}}
	}
	return found
}

// collect gives the outermost signed and encrypted values in n.
func collect(m *Message, n *describe.Node, found []Part) []Part {
	switch n.Kind {
	case describe.Signed:
		p := Part{What: letterOf(m, n).what, Signer: m.From}
		if party, ok := partyOf(m, n.Signers[0].Role); ok {
			p.Signer = party
		}
		found = append(found, p)
		for _, f := range n.Fields { // a message for somebody else may be in it
			f.Walk(func(inner *describe.Node) bool {
				if inner.Kind == describe.Encrypted {
					found = collect(m, inner, found)
				}
				return true
			})
		}
		return found
	case describe.Encrypted:
		return append(found, sealed(m, n))
	}
	for _, f := range n.Fields {
		found = collect(m, f, found)
	}
	return found
}

// contentType names the content type of a signed or encrypted value.
func contentType(n *describe.Node) string { return n.Type[strings.LastIndexByte(n.Type, ' ')+1:] }

// letterOf gives what is known of a signed or encrypted value.
func letterOf(m *Message, n *describe.Node) letter {
	l, known := letters[contentType(n)]
	if !known {
		l.what = contentType(n)
	}
	if l.signer == "sender" {
		l.signer = m.From
	}
	return l
}

// sealed tells who can read an encrypted value.
func sealed(m *Message, n *describe.Node) Part {
	l := letterOf(m, n)
	p := Part{What: l.what, Reader: l.reader, Locked: true, Signer: l.signer}
	if party, ok := partyOf(m, n.Recipient.Role); ok {
		p.Reader = party
	} else if p.Reader == "" {
		p.Reader = m.To
	}
	return p
}

// partyOf finds the lane of a certificate's holder. One CA may have several roles: then it is the one
// that takes part.
func partyOf(m *Message, role string) (string, bool) {
	lanes := map[string]string{
		"cardholder": Wallet, "merchant": Merchant, "payment gateway": Gateway, "cardholder CA": CardholderCA,
		"merchant CA": MerchantCA, "payment gateway CA": PaymentCA,
	}
	for word := range strings.SplitSeq(role, " and ") {
		if lane, ok := lanes[word]; ok && (lane == m.From || lane == m.To || !strings.Contains(role, " and ")) {
			return lane, true
		}
	}
	return "", false
}

func iso8583Part(m *Message) Part {
	what := "amount, reference"
	switch {
	case m.Node.Find("48.03") != nil:
		what = "card number, name, secret"
	case m.Node.Find("2") != nil:
		what = "card number, amount, XID"
	case m.Type == "0500":
		what = "counts and sums of a day"
	}
	if m.ReplyTo > 0 {
		what = "code " + m.Status
		if n := m.Node.Find("39"); n != nil {
			what = n.Value
		}
		if n := m.Node.Find("38"); n != nil && m.Type == "0110" {
			what += ", approval " + n.Value
		}
	}
	return Part{What: what, Private: true}
}

// lane is a party as it is drawn.
type lane struct{ party, title, below string }

// lanes are the parties in the order in which they are drawn.
var lanes = []lane{
	{Card, "Card", "key, PIN"}, {Wallet, "Wallet", "cardholder"}, {CardholderCA, "Cardholder CA", "HSM"}, {Merchant, "Merchant", "shop, HSM"},
	{MerchantCA, "Merchant CA", "HSM"}, {Gateway, "Gateway", "acquirer, HSM"}, {PaymentCA, "Payment CA", "HSM"}, {Issuer, "Issuer", "bank, HSM"},
}

// present gives the indices of the lanes that the arrows touch.
func present(arrows []Arrow) (all []int) {
	for i, l := range lanes {
		if slices.ContainsFunc(arrows, func(a Arrow) bool {
			return a.From == l.party || a.To == l.party || l.party == Card && a.Card
		}) {
			all = append(all, i)
		}
	}
	return all
}

// Name is how a party is called in a sentence.
func Name(party string) string {
	for _, l := range lanes {
		if l.party == party {
			return strings.ReplaceAll(strings.ToLower(l.title), " ca", " CA")
		}
	}
	return party
}

// reader says who can read a part, for a person.
func (p Part) reader() string {
	switch {
	case p.Locked:
		return "only the " + Name(p.Reader) + " can read it"
	case p.Private:
		return "not encrypted, on a private line"
	case p.Reader != "":
		return "for the " + Name(p.Reader) + ", not encrypted"
	}
	return "not encrypted"
}

// signer says who signed a part, for a person.
func (p Part) signer() string {
	if p.Signer == Wallet {
		return "signed by card"
	}
	return "signed by " + Name(p.Signer)
}

// Line says on one line who can read and who signed a part.
func (p Part) Line(t describe.Tongue) string {
	switch {
	case p.Signer == "":
		return t.Say(p.reader())
	case p.Locked:
		return t.Say(Name(p.Reader)+" only") + t.Say("; ") + t.Say(p.signer())
	}
	return t.Say(p.reader()) + t.Say("; ") + t.Say(p.signer())
}

// Size is the size and status of a message, for a person.
func (a Arrow) Size() string {
	if a.Status == "" {
		return fmt.Sprintf("%d octets", a.Octets)
	}
	return fmt.Sprintf("%d octets, %s", a.Octets, a.Status)
}

// phase is a chapter of a purchase, for who sees one for the first time.
type phase struct{ title, text string }

// phaseOf gives the chapter that a message begins, if it begins one.
func phaseOf(a Arrow) (phase, bool) {
	if a.Unseen {
		return phase{"What the wallet does not see", "Merchant, gateway and bank go on by SET's rules, if the payment reached the merchant."}, a.Type == unseen[0].Type
	}
	p, ok := map[string]phase{
		"Payment-Initiation": {"The shop wakes the wallet", "The wallet learns what is ordered and where to send the payment."},
		"PInitReq":           {"Wallet and merchant meet", "The wallet checks who the merchant is, and gets the key of the merchant's payment gateway."},
		"PReq":               {"The purchase", "The card signs the digests of order and payment together; each party gets its half, and the digest of the other."},
		"CapReq":             {"The money", "The merchant returns the token that it could not read; the gateway has the issuer book the amount."},
		"CardCInitReq":       {"A cardholder registers", "The card's key gets a certificate; the card number goes to the CA alone."},
		"Me-AqCInitReq":      {"A merchant or gateway registers", "The keys in the HSM get their certificates."},
		"InqReq":             {"An inquiry", "The wallet asks what became of a purchase."},
		"CredReq":            {"Money back", "The merchant gives money back."},
		"AuthRevReq":         {"A reversal", "The merchant takes an authorization back."},
	}[a.Type]
	return p, ok
}
