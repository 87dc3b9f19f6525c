package trace

import (
	"bytes"
	"encoding/asn1"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/setkit/setkit/cmd/internal/describe"
	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/sethttp"
)

// How is how a party met something.
type How string

// The ways to meet something.
const (
	Saw       How = "read"   // it wrote it, got it in the clear, or opened it
	SawDigest How = "digest" // it got what can be compared and not turned back
	SawSealed How = "sealed" // it passed on, or got, what another opens
)

// Sight is one way in which a party met something.
type Sight struct {
	How How
	For string // the party that can open it, of what is sealed
	In  []int  // numbers of the messages, in order

	Ruled bool // nobody here has seen it: SET's rules have it so
}

// Row is one thing that a transaction is about, and how each party met it.
type Row struct {
	Name, Note string
	Cells      [][]Sight // in the order of Sights.Parties; an empty one means that it was never there
}

// Promise is one of those that SET makes of a purchase.
type Promise struct {
	Party, Name string // the party never reads it
	In          []int  // messages that break it
	Ruled       bool   // what the party gets is not seen here: SET's rules have it so
}

// Sights say who saw what in a transaction.
type Sights struct {
	Parties  []string
	Rows     []Row
	Promises []Promise
}

// subject is something that a transaction is about, by the names of the fields that hold it. The same
// names tell what is in the clear, in the description of a message, and what can be in an encrypted part,
// in the structure that its reader decodes it into.
type subject struct {
	name, note string
	read       []string // fields that are it
	digest     []string // fields that are a digest of it, and digests by what they are of
	iso        []string // fields of the financial network that are it
	isoDigest  []string
	holder     string   // the party whose certificate tells it
	never      []string // parties that must not read it

	gateway, issuer How // how they meet it in a purchase, by SET's rules; empty: never
}

// ofAccount are digests of the payment instruction, which has the account and a nonce beside it.
var ofAccount = []string{"HPIData", "DD(PIData)", "DD(PIDataUnsigned)", "DD(PANData)", "DD(PANToken)"}

const theOrder, thePAN = "Order", "Card number"

var subjects = []subject{
	{
		name: theOrder, note: "what is bought, in words", read: []string{"Order", "OD"}, never: []string{Gateway, Issuer},
		digest: []string{"HOD", "HOD2", "HOIData", "DD(OIData)", "DD(HODInput)"}, gateway: SawDigest,
	},
	{name: "Amount", read: []string{"PurchAmt", "AuthReqAmt", "AuthAmt", "CapReqAmt", "CapAmt"}, iso: []string{"4"}, gateway: Saw, issuer: Saw},
	{
		name: thePAN, note: "all of its digits", read: []string{"PAN"}, digest: ofAccount, iso: []string{"2"}, never: []string{Merchant},
		gateway: Saw, issuer: Saw,
	},
	{
		name: "Card's expiry", read: []string{"CardExpiry"}, digest: ofAccount, iso: []string{"14"}, never: []string{Merchant},
		gateway: Saw, issuer: Saw,
	},
	{
		name: "Cardholder's secret", note: "agreed with the bank when the card was registered", never: []string{Merchant},
		read: []string{"PANSecret", "CardSecret", "NonceCCA", "Nonce-CCA"}, digest: append([]string{"TransStain"}, ofAccount...), isoDigest: []string{"48.02"},
		gateway: Saw, issuer: SawDigest,
	},
	{name: "Card's bank", note: "the first six digits of the card number", read: []string{"BIN", "PAN"}, iso: []string{"2"}, gateway: Saw, issuer: Saw},
	{name: "Cardholder's certificate", note: "has no name, but a digest of the account", holder: Wallet, gateway: Saw},
	{name: "Merchant's identity", note: "number, name or certificate", read: []string{"MerchantID"}, iso: []string{"42", "43"}, holder: Merchant, gateway: Saw, issuer: Saw},
	{name: "Gateway's certificate", note: "itself, or its thumbprint where it is known", read: []string{"PEThumb"}, holder: Gateway, gateway: Saw},
	{name: "Answers to the form", note: "such as name and registration secret", read: []string{"FieldValue"}, iso: []string{"48.03", "48.04"}},
	{name: "The bank's decision", read: []string{"AuthCode"}, iso: []string{"38", "39"}, gateway: Saw, issuer: Saw},
}

// sighting is a Sight without the messages.
type sighting struct {
	party, subject string
	how            How
	reader         string // of what is sealed
}

// looker collects how the parties of a transaction met its subjects.
type looker struct {
	seen   map[sighting][]int
	author map[string]string // who sent an encrypted part first, and so made it
	order  [][]byte          // pieces of the order's text, in lower case
	ending string            // the last digits of the card number

	purchase bool // SET promises something of it
}

// WhoSaw finds out who saw what from the messages: from what stands in them in the clear, for which
// certificates their other parts are encrypted, and what such parts can hold. Pieces of the order's text and
// the card number are looked for in all their octets, wherever they may stand. What a wallet cannot see,
// SET's rules tell.
func (v View) WhoSaw() Sights {
	l := &looker{seen: map[sighting][]int{}, author: map[string]string{}, ending: v.Ending, purchase: v.isPurchase()}
	var s Sights
	for _, i := range present(v.arrows()) {
		if p := lanes[i].party; p != Card {
			s.Parties = append(s.Parties, p)
		}
	}
	for _, m := range v.Messages {
		l.learn(m)
	}
	for _, m := range v.Messages {
		l.look(m)
	}
	for _, sub := range subjects {
		row := Row{Name: sub.name, Note: sub.note}
		met := false
		for _, p := range s.Parties {
			cell, ruled := l.cell(p, sub.name), v.Wallet && (p == Gateway || p == Issuer)
			if ruled {
				cell = sub.rule(p)
			}
			row.Cells = append(row.Cells, cell)
			met = met || len(cell) > 0
			if l.purchase && slices.Contains(sub.never, p) {
				s.Promises = append(s.Promises, Promise{p, sub.name, l.seen[sighting{p, sub.name, Saw, ""}], ruled})
			}
		}
		if met {
			s.Rows = append(s.Rows, row)
		}
	}
	return s
}

// rule gives how the gateway or the bank meets a subject by SET's rules.
func (s *subject) rule(party string) []Sight {
	how := s.gateway
	if party == Issuer {
		how = s.issuer
	}
	if how == "" {
		return nil
	}
	return []Sight{{How: how, Ruled: true}}
}

// cell gives how a party met a subject. Who has read it has no need of more.
func (l *looker) cell(party, subject string) (cell []Sight) {
	if in := l.seen[sighting{party, subject, Saw, ""}]; len(in) > 0 {
		return []Sight{{How: Saw, In: in}}
	}
	if in := l.seen[sighting{party, subject, SawDigest, ""}]; len(in) > 0 {
		cell = append(cell, Sight{How: SawDigest, In: in})
	}
	for _, other := range lanes {
		if in := l.seen[sighting{party, subject, SawSealed, other.party}]; len(in) > 0 {
			cell = append(cell, Sight{How: SawSealed, For: other.party, In: in})
		}
	}
	return cell
}

func (l *looker) saw(m *Message, party, subject string, how How, reader string) {
	key := sighting{party, subject, how, reader}
	if in := l.seen[key]; len(in) == 0 || in[len(in)-1] != m.Number {
		l.seen[key] = append(in, m.Number)
	}
}

// both notes what passes in the clear from one party to the other.
func (l *looker) both(m *Message, subject string, how How) {
	l.saw(m, m.From, subject, how, "")
	l.saw(m, m.To, subject, how, "")
}

// pieceMin is the fewest characters of a piece of the order's text that cannot be there by chance.
const pieceMin = 10

// learn notes what must not be found elsewhere: every three words of the order without a number, and how
// the card number ends.
func (l *looker) learn(m *Message) {
	if order := m.Node.Find("Order"); order != nil && m.Media == sethttp.MediaPaymentInitiation {
		words := strings.Fields(strings.ToLower(order.Value))
		for i := range max(len(words)-2, 0) {
			piece := strings.Join(words[i:i+3], " ")
			if len(piece) >= pieceMin && !strings.ContainsFunc(piece, unicode.IsDigit) {
				l.order = append(l.order, []byte(piece))
			}
		}
	}
	if pan := m.Node.Find("2"); pan != nil && m.Media == MediaISO8583 {
		_, l.ending, _ = strings.Cut(pan.Value, " ")
	}
}

// look notes what the two parties of a message saw of it.
func (l *looker) look(m *Message) {
	lower := bytes.ToLower(m.octets)
	if slices.ContainsFunc(l.order, func(piece []byte) bool { return bytes.Contains(lower, piece) }) {
		l.both(m, theOrder, Saw)
	}
	if l.hasPAN(m.octets) {
		l.both(m, thePAN, Saw)
	}
	for _, n := range inClear(m.Node) {
		if n.Kind == describe.Encrypted {
			l.sealed(m, n)
			continue
		}
		for _, s := range subjects {
			read, digest := s.read, s.digest
			if m.Media == MediaISO8583 {
				read, digest = s.iso, s.isoDigest
			}
			switch {
			case slices.Contains(read, n.Name), s.holder != "" && certifies(m, n, s.holder):
				l.both(m, s.name, Saw)
			case slices.Contains(digest, n.Name), slices.Contains(digest, n.Type):
				l.both(m, s.name, SawDigest)
			}
		}
	}
}

// certifies tells whether n is a certificate of the party.
func certifies(m *Message, n *describe.Node, party string) bool {
	if n.Kind != describe.Certificate {
		return false
	}
	role, _, _ := strings.Cut(n.Value, ",")
	holder, ok := partyOf(m, role)
	return ok && holder == party
}

// inClear gives everything in n that is not in an encrypted part, and these parts, each as one.
func inClear(n *describe.Node) []*describe.Node {
	all := []*describe.Node{n}
	if n.Kind != describe.Encrypted {
		for _, f := range n.Fields {
			all = append(all, inClear(f)...)
		}
	}
	return all
}

// sealed notes what an encrypted part can hold: read by who made it and who can open it, and by no other.
func (l *looker) sealed(m *Message, n *describe.Node) {
	part := sealed(m, n)
	author := m.From
	if c := n.Find("EncryptedContent"); c != nil {
		if first, ok := l.author[string(c.Octets)]; ok {
			author = first
		}
		l.author[string(c.Octets)] = author
	}
	fields := fieldsOf(contentType(n), author)
	for _, s := range subjects {
		certain, possible := has(fields, s.read)
		how := SawDigest
		if certain || s.holder != "" && s.holder == part.Signer && !isNew(n) {
			how = Saw
		} else if certain, _ := has(fields, s.digest); !certain && !possible {
			continue
		}
		for _, p := range []string{m.From, m.To} {
			switch opens := p == author || p == part.Reader; {
			case possible && opens && l.purchase && slices.Contains(s.never, p):
				l.saw(m, p, s.name, Saw, "") // who must not read it shall not even get what may hold it
			case possible && how != Saw:
			case opens:
				l.saw(m, p, s.name, how, "")
			default:
				l.saw(m, p, s.name, SawSealed, part.Reader)
			}
		}
	}
}

// has tells whether one of the fields is certainly there, or else whether one may be.
func has(fields map[string]bool, names []string) (certain, possible bool) {
	for _, name := range names {
		always, known := fields[name]
		certain = certain || always
		possible = possible || known && !always
	}
	return certain, possible && !certain
}

// extras are the structures beside the key in an RSA block.
var extras = map[cms.BlockContents]any{
	cms.WithPANData: set.PANData{}, cms.WithPANData0: set.PANData0{}, cms.WithPANToken: set.PANToken{}, cms.WithHashToken: set.PANToken{},
	cms.WithHashPANOnly: set.PANOnly{}, cms.WithAcctData: set.AcctData{},
}

// contentIDs are SET's content types by their names (SET §1.2).
var contentIDs = func() map[string]asn1.ObjectIdentifier {
	ids := map[string]asn1.ObjectIdentifier{}
	for n := range 128 {
		id := asn1.ObjectIdentifier{2, 23, 42, 0, n}
		ids[set.OIDName(id)] = id
	}
	return ids
}()

// fieldsOf gives the names of all fields that the content of an encrypted part can have, with what is
// signed inside it and what stands beside its key, and whether they are always there.
func fieldsOf(kind, author string) map[string]bool {
	names := map[string]bool{}
	for _, name := range []string{kind, strings.Replace(kind, "TBE", "TBS", 1), strings.Replace(kind, "TBE", "Data", 1)} {
		if v := set.NewContent(contentIDs[name]); v != nil {
			fields(reflect.TypeOf(v), true, names)
		}
	}
	id, ok := contentIDs[kind]
	if !ok {
		return names
	}
	for _, bc := range set.Blocks(id) {
		if bc == cms.WithPANData0 && author != Wallet || bc == cms.WithAcctData && author == Wallet {
			continue // who has a card certifies its keys with it
		}
		if v, ok := extras[bc]; ok {
			fields(reflect.TypeOf(v), true, names)
		}
	}
	return names
}

// fields adds the names of the fields of t, down to what is signed or encrypted by itself.
func fields(t reflect.Type, always bool, names map[string]bool) {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || t.ConvertibleTo(reflect.TypeFor[cms.ContentInfo]()) || t == reflect.TypeFor[cms.DetachedDigest]() {
		return
	}
	_, choice := t.FieldByName("Choice")
	for i := range t.NumField() {
		f := t.Field(i)
		there := always && !choice && !strings.Contains(f.Tag.Get("der"), "opt")
		names[f.Name] = names[f.Name] || there
		fields(f.Type, there, names)
	}
}

var digits = regexp.MustCompile(`[0-9]{13,19}Z?`)

// hasPAN tells whether the octets have a number in them that ends like the card's and has its check digit.
// A time has as many digits, and a Z.
func (l *looker) hasPAN(octets []byte) bool {
	for _, run := range digits.FindAll(octets, -1) {
		if l.ending != "" && bytes.HasSuffix(run, []byte(l.ending)) && luhn(run) {
			return true
		}
	}
	return false
}

func luhn(digits []byte) bool {
	sum := 0
	for i, c := range digits {
		d := int(c - '0')
		if (len(digits)-i)%2 == 0 {
			if d *= 2; d > 9 {
				d -= 9
			}
		}
		sum += d
	}
	return sum%10 == 0
}
