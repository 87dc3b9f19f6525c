package trace

import (
	"strings"
	"time"
)

// Summary is a transaction in a list.
type Summary struct {
	First    int // number of its first message, which stays as more are recorded
	Messages int
	Began    time.Time
	Kind     string
	XID      string
	Amount   string
	Outcome  string
}

// Summarize tells in short what a transaction is.
func Summarize(messages []*Message) Summary {
	s := Summary{First: messages[0].Number, Messages: len(messages), Began: messages[0].Time, Kind: "messages", Outcome: "not finished"}
	for _, m := range messages {
		if s.XID == "" {
			s.XID = m.XID
		}
		switch m.Type {
		case "Payment-Initiation":
			s.Kind = "wake-up"
			s.Amount, _, _ = strings.Cut(valueOf(m.Node, "PurchAmt"), " (")
		case "PInitReq", "PReq":
			s.Kind = "purchase"
		case "CardCInitReq":
			s.Kind = "registration of the cardholder"
		case "Me-AqCInitReq":
			s.Kind = "registration of the " + Name(m.From)
		case "Error":
			s.Outcome = "refused by the " + Name(m.From)
		case "PRes", "InqRes":
			s.Outcome = outcome(m, "AuthCode", "CompletionCode")
		case "CapRes":
			s.Outcome = strings.TrimSuffix(s.Outcome, ", collected") + ", collected"
		case "CertRes", "CertInqRes":
			s.Outcome = outcome(m, "CertStatusCode")
			if m.Node.Find("CertStatusCode") == nil {
				s.Outcome = "answered"
			}
		case "0100", "0110":
			if s.Kind == "messages" {
				s.Kind = strings.TrimPrefix(m.Node.Value, m.Type+" ")
			}
			if s.Kind != "purchase" {
				s.Outcome = strings.TrimPrefix(valueOf(m.Node, "39"), m.Status+" ")
			}
		}
	}
	return s
}

// outcome gives the first of some fields of a message that is there, in words.
func outcome(m *Message, names ...string) string {
	for _, name := range names {
		if text, _, _ := strings.Cut(valueOf(m.Node, name), " ("); text != "" {
			return text
		}
	}
	return "answered"
}
