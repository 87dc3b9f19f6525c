package trace

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/setkit/setkit/cmd/internal/describe"
)

// View is messages as a person is shown them: who saw what, what signed it, and as pictures.
type View struct {
	Recording *Recording // that they are of: what else in it tells of certificates
	Messages  []*Message
	Tongue    describe.Tongue
	Link      func(number int) string // address of the page of a message
	Home      string                  // address of the page of all of them

	// Wallet says that the messages are those that a wallet itself sent and got. What the others said to each
	// other is then told by SET's rules, and marked as that; in which devices their keys are is not told.
	Wallet bool
	Ending string // how the card number ends, where no message tells
}

func (v View) isPurchase() bool {
	return slices.ContainsFunc(v.Messages, func(m *Message) bool { return m.Type == "PReq" })
}

// unseen are the messages that a payment leads to, which no wallet sees.
var unseen = []Arrow{
	{Message: &Message{Entry: Entry{From: Merchant, To: Gateway, Type: "AuthReq"}}, Words: words["AuthReq"], Parts: []Part{{What: payment, Reader: Gateway, Locked: true}}},
	{Message: &Message{Entry: Entry{From: Gateway, To: Issuer, Type: "0100"}}, Words: words["AuthReq"]},
	{Message: &Message{Entry: Entry{From: Issuer, To: Gateway, Type: "0110"}}, Words: words["AuthRes"]},
	{Message: &Message{Entry: Entry{From: Gateway, To: Merchant, Type: "AuthRes"}}, Words: words["AuthRes"]},
}

// arrows gives the messages as they are drawn.
func (v View) arrows() []Arrow {
	all := Arrows(v.Messages)
	at := slices.IndexFunc(all, func(a Arrow) bool { return a.Type == "PReq" })
	if !v.Wallet || at < 0 {
		return all
	}
	var more []Arrow
	for _, a := range unseen {
		a.Unseen = true
		more = append(more, a)
	}
	return slices.Insert(all, at+1, more...)
}

func (v View) heading() string {
	if v.isPurchase() {
		return v.Tongue.Say("A purchase with SET: who can read what")
	}
	return v.Tongue.Say("SET messages: who can read what")
}

func (v View) footer() string {
	kept := "Recorded on the wire, %s, by set-lab"
	if v.Wallet {
		kept = "Kept by the wallet, %s"
	}
	text := fmt.Sprintf(v.Tongue.Say(kept), v.Messages[0].Time.Format(time.DateOnly))
	for _, m := range v.Messages {
		if m.XID != "" {
			return text + "; XID " + m.XID
		}
	}
	return text
}

// below says of a party what it is and has, as far as that is known.
func (v View) below(l lane) string {
	text := l.below
	if v.Wallet && l.party != Card {
		text, _, _ = strings.Cut(text, ", ")
	}
	return v.Tongue.Say(text)
}

// Title is the name of a party, as a heading.
func (v View) Title(party string) string {
	if party == Issuer {
		return v.Tongue.Say("Issuer, the bank")
	}
	for _, l := range lanes {
		if l.party == party {
			return v.Tongue.Say(l.title)
		}
	}
	return party
}
