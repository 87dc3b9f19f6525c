// Package trace keeps and reads recordings of what the parties of a purchase say to each other, and
// draws them.
//
// A recording is a directory: index.jsonl with one Entry a line, in the order in which the messages
// passed, and a file for each message. A SET message is kept as it was on the wire. A message of the
// financial network carries a card number in clear, so it is never kept: its file is a masked description.
package trace

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/setkit/setkit/cmd/internal/describe"
	"github.com/setkit/setkit/roles/finnet"
	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/sethttp"
)

// The parties of a recording.
const (
	Card         = "card"
	Wallet       = "wallet"
	CardholderCA = "cardholder-ca"
	Merchant     = "merchant"
	MerchantCA   = "merchant-ca"
	Gateway      = "gateway"
	PaymentCA    = "payment-ca"
	Issuer       = "issuer"
)

// MediaISO8583 stands in the place of a media type for messages of the financial network.
const MediaISO8583 = "ISO 8583"

const (
	indexFile = "index.jsonl"

	// entriesMax is the most messages of one recording: what comes later passes unrecorded.
	entriesMax = 10_000
)

// Entry is one message, as the index has it.
type Entry struct {
	Number  int       `json:"number"` // from 1, in the order in which they passed
	File    string    `json:"file"`
	Time    time.Time `json:"time"`
	From    string    `json:"from"`
	To      string    `json:"to"`
	ReplyTo int       `json:"replyTo,omitempty"` // number of the request, of a response
	Media   string    `json:"mediaType"`
	Type    string    `json:"type"` // name of the SET message, kind of initiation, or ISO 8583 message type
	XID     string    `json:"xid,omitempty"`
	Status  string    `json:"status,omitempty"` // HTTP status or response code, of a response
	Octets  int       `json:"octets"`           // on the wire
}

// Recorder writes a recording. It may be used concurrently.
type Recorder struct {
	dir string

	mu    sync.Mutex
	n     int
	index *os.File
	match map[string]int // number of the ISO 8583 request that waits for its answer
}

// Create starts a recording in a directory that does not exist.
func Create(dir string) (*Recorder, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	index, err := os.OpenFile(filepath.Join(dir, indexFile), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	return &Recorder{dir: dir, index: index, match: map[string]int{}}, nil
}

// Close ends the recording.
func (r *Recorder) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.index.Close()
}

// Message records a SET or initiation message. Of the entry, the caller gives who, when, media type,
// status and what it replies to; it gets the number, for the reply.
func (r *Recorder) Message(e Entry, octets []byte) (number int, err error) {
	suffix := ".der"
	if isInitiation(e.Media) {
		suffix = ".txt"
	}
	e.fill(octets)
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.write(e, suffix, octets)
}

func isInitiation(media string) bool { return strings.HasSuffix(media, "-initiation") }

// fill adds to an entry what its message tells.
func (e *Entry) fill(octets []byte) {
	e.Octets = len(octets)
	if !isInitiation(e.Media) {
		e.Type, e.XID = readHeader(octets)
	} else if m, err := set.ParseInitiation(octets); err == nil {
		e.Type = m.Kind
	}
}

// readHeader tells the type of a message and, from its header, the purchase.
func readHeader(octets []byte) (typ, xid string) {
	w, err := set.Decode(octets)
	if err != nil {
		return "malformed", ""
	}
	if ids := w.MessageHeader.MessageIDs; ids != nil && ids.XID != nil {
		xid = ids.XID.String()
	}
	return w.Message.Type().String(), xid
}

// ISO8583 records the description of a message of the financial network, without its frame. Echoes, which
// are about the line and not about a purchase, are left out.
func (r *Recorder) ISO8583(e Entry, octets []byte) error {
	e.Media, e.Octets = MediaISO8583, len(octets)
	r.mu.Lock()
	defer r.mu.Unlock()
	n := &describe.Node{Name: MediaISO8583, Kind: describe.Structure, Meaning: "as a masked description: the message itself carries the card number in clear"}
	d, err := finnet.Describe(octets)
	if err != nil {
		e.Type, n.Value = "malformed", err.Error()
	} else {
		if d.Name == "echo" {
			return nil
		}
		e.Type, e.Status, n.Value = d.MTI, string(d.Response), strings.TrimSpace(d.MTI+" "+d.Name)
		if d.XID != (set.XID{}) {
			e.XID = d.XID.String()
		}
		if d.Response == "" {
			r.match[e.From+e.To+d.Match] = r.n + 1 // the number that write gives
		} else {
			e.ReplyTo = r.match[e.To+e.From+d.Match]
			delete(r.match, e.To+e.From+d.Match)
		}
		for _, f := range d.Fields {
			kind := describe.Value
			if f.Masked {
				kind = describe.Masked
			}
			n.Fields = append(n.Fields, &describe.Node{Name: f.Number, Kind: kind, Value: f.Value, Meaning: f.Name})
		}
	}
	raw, err := json.MarshalIndent(n, "", "  ")
	if err != nil {
		return err
	}
	_, err = r.write(e, ".json", append(raw, '\n'))
	return err
}

// write keeps a message. The caller holds the lock.
func (r *Recorder) write(e Entry, suffix string, file []byte) (int, error) {
	if r.n == entriesMax {
		return 0, fmt.Errorf("%s has %d messages: no more are recorded", r.dir, entriesMax)
	}
	r.n++
	e.Number = r.n
	e.File = fmt.Sprintf("%03d-%s-%s%s", e.Number, e.From, e.To, suffix)
	e.Time = e.Time.UTC()
	line, err := json.Marshal(e)
	if err != nil {
		return 0, err
	}
	if err := os.WriteFile(filepath.Join(r.dir, e.File), file, 0o600); err != nil {
		return 0, err
	}
	_, err = r.index.Write(append(line, '\n'))
	return e.Number, err
}

// Recording is what was recorded.
type Recording struct {
	Messages []*Message
}

// Message is one message of a recording, described.
type Message struct {
	Entry
	Node   *describe.Node
	keys   []string // what it shares with other messages of the same transaction
	octets []byte   // as they were recorded
}

// Read reads the recording in a directory and describes its messages. It trusts nothing in there.
func Read(dir string, d *describe.Describer) (*Recording, error) {
	index, err := os.Open(filepath.Join(dir, indexFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s has no %s: it is no recording of set-lab", dir, indexFile)
	} else if err != nil {
		return nil, err
	}
	defer index.Close()
	var found []*Message
	lines := bufio.NewScanner(index)
	for lines.Scan() {
		m := &Message{}
		if err := json.Unmarshal(lines.Bytes(), &m.Entry); err != nil {
			return nil, fmt.Errorf("%s, line %d: %w", index.Name(), len(found)+1, err)
		}
		if len(found) == entriesMax || !m.wellFormed(len(found)+1) {
			return nil, fmt.Errorf("%s, line %d: not as set-lab writes it", index.Name(), len(found)+1)
		}
		if m.octets, err = readFile(filepath.Join(dir, m.File)); err != nil {
			return nil, err
		}
		found = append(found, m)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", index.Name(), err)
	}
	return describeAll(found, d)
}

// Passed is a SET or initiation message that was kept elsewhere than in a directory. Of the entry it has who,
// when, media type and what it replies to.
type Passed struct {
	Entry
	Octets []byte
}

// Gather makes a recording of messages, in the order in which they passed, and describes them.
func Gather(passed []Passed, d *describe.Describer) (*Recording, error) {
	var all []*Message
	for i, p := range passed {
		m := &Message{Entry: p.Entry, octets: p.Octets}
		m.Number = i + 1
		m.fill(p.Octets)
		all = append(all, m)
	}
	return describeAll(all, d)
}

// describeAll describes messages, whose certificates all of them know.
func describeAll(messages []*Message, d *describe.Describer) (*Recording, error) {
	for _, m := range messages {
		if m.Media != MediaISO8583 {
			d.Meet(m.octets)
		}
	}
	for _, m := range messages {
		if err := m.describe(d); err != nil {
			return nil, fmt.Errorf("%s: %w", m.File, err)
		}
	}
	return &Recording{messages}, nil
}

// wellFormed tells whether an entry can be the one of that number.
func (e *Entry) wellFormed(number int) bool {
	return e.Number == number && e.ReplyTo < number && filepath.Base(e.File) == e.File && e.From != e.To && isParty(e.From) && isParty(e.To)
}

func isParty(name string) bool {
	return slices.ContainsFunc(lanes, func(l lane) bool { return l.party == name })
}

func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, describe.InputOctetsMax))
}

func (m *Message) describe(d *describe.Describer) (err error) {
	b := m.octets
	if m.Media == MediaISO8583 {
		m.Node = new(describe.Node)
		if err := json.Unmarshal(b, m.Node); err != nil {
			return err
		}
	} else if m.Node, err = d.Describe(bytes.Clone(b)); err != nil {
		return err
	}
	m.keys = sharedKeys(m, b)
	return nil
}

// sharedKeys are what ties a message to others of its transaction: the identifiers of its header, and
// the capture tokens that one message brings and another returns.
func sharedKeys(m *Message, b []byte) (keys []string) {
	add := func(kind string, octets []byte) {
		if len(octets) > 0 {
			keys = append(keys, kind+string(octets))
		}
	}
	if m.XID != "" {
		keys = append(keys, "xid"+m.XID)
	}
	if i, err := set.ParseInitiation(b); err == nil && m.Media == sethttp.MediaPaymentInitiation {
		add("lidm", i.LIDM)
	}
	w, err := set.Decode(b)
	if err != nil {
		return keys
	}
	h := w.MessageHeader
	if h.RRPID != nil {
		add("rrpid", h.RRPID[:])
	}
	if h.MessageIDs != nil {
		add("lidm", h.MessageIDs.LIDM)
		add("lidc", h.MessageIDs.LIDC)
	}
	if req := w.Message.PInitReq; req != nil {
		add("lidm", req.LIDM)
	}
	tokens(reflect.ValueOf(w.Message), func(octets []byte) { add("token", octets) })
	return keys
}

// tokens finds the tokens in v, whichever message brings or returns them.
func tokens(v reflect.Value, found func(octets []byte)) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			tokens(v.Elem(), found)
		}
	case reflect.Slice:
		for i := 0; v.Type().Elem().Kind() == reflect.Struct && i < v.Len(); i++ {
			tokens(v.Index(i), found)
		}
	case reflect.Struct:
		if !v.CanInterface() {
			return // a part of something that is no structure of SET
		}
		switch t := v.Interface().(type) {
		case set.CapToken:
			for _, ci := range []*cms.ContentInfo{t.Enc, t.EncX} {
				if ci != nil {
					found(ci.Content)
				}
			}
			return
		case set.AuthToken:
			found(t.Content)
			return
		case time.Time:
			return
		}
		for i := range v.NumField() {
			tokens(v.Field(i), found)
		}
	}
}
