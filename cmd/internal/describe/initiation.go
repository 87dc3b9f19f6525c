package describe

import (
	"bytes"
	"reflect"
	"strings"

	"github.com/setkit/setkit/roles/set"
)

func looksInitiation(b []byte) bool {
	return len(b) >= 4 && strings.EqualFold(string(b[:4]), "SET-")
}

// initiation describes the message that wakes the cardholder's software up. It has lines, not ASN.1.
func (w *walker) initiation(b []byte) *Node {
	n := &Node{Name: "Initiation", Kind: Structure, Value: octets(len(b)), Meaning: "the shop wakes the wallet up: in the clear, signed by nobody"}
	m, err := set.ParseInitiation(b)
	if err != nil {
		head, order, _ := bytes.Cut(b, []byte("\r\n\r\n"))
		for line := range bytes.Lines(head) {
			name, text, _ := strings.Cut(strings.TrimSpace(string(line)), ":")
			n.add(value(name, "%s", strings.TrimSpace(text)))
		}
		n.add(value("Order", "%s", order), fault(-1, err.Error()))
		return n
	}
	v := reflect.ValueOf(*m)
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if v.Field(i).IsZero() {
			continue
		}
		if f.Name == "Order" {
			n.add(&Node{Name: "Order", Kind: Value, Value: string(m.Order), Meaning: "what is bought; its digest enters both halves of PReq"})
			continue
		}
		n.add(w.value(spelled(f.Name), v.Field(i), nil))
	}
	return n
}
