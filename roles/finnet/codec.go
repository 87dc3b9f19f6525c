package finnet

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moov-io/iso8583"
	isoerrors "github.com/moov-io/iso8583/errors"
	"github.com/moov-io/iso8583/field"

	"github.com/setkit/setkit/roles/set"
)

// unpack parses the octets of one message. It takes only the one encoding that pack gives, so that what
// was checked is what was sent. Its errors never quote the message.
func unpack(octets []byte) (*iso8583.Message, error) {
	if len(octets) < messageBytesMin {
		return nil, fmt.Errorf("message of %d octets is too short", len(octets))
	}
	m := iso8583.NewMessage(messageSpec)
	if err := m.Unpack(octets); err != nil {
		// The library's text can hold parts of the message; the numbers of the fields cannot.
		if e, ok := errors.AsType[*isoerrors.UnpackError](err); ok {
			return nil, fmt.Errorf("message cannot be parsed at field %s", strings.Join(e.FieldIDs(), "."))
		}
		return nil, errors.New("message cannot be parsed")
	}
	again, err := m.Pack()
	if err != nil || !bytes.Equal(again, octets) {
		return nil, errors.New("message is not in its canonical encoding")
	}
	clear(again)
	return m, nil
}

// pack gives the frame of a message.
func pack(m *iso8583.Message) ([]byte, error) {
	octets, err := m.Pack()
	if err != nil {
		// The library's text can hold a field's value.
		return nil, errors.New("message cannot be encoded")
	}
	if len(octets) > frameBytesMax {
		return nil, fmt.Errorf("message of %d octets is longer than %d", len(octets), frameBytesMax)
	}
	frame := append([]byte{byte(len(octets) >> 8), byte(len(octets))}, octets...)
	clear(octets)
	return frame, nil
}

// text is a field of m, "" when it is absent.
func text(m *iso8583.Message, id int) string {
	s, err := m.GetString(id)
	if err != nil {
		return ""
	}
	return s
}

// kindOf finds the kind of a request and checks that it has exactly that kind's fields.
func kindOf(m *iso8583.Message) (*kind, error) {
	mti, processing := text(m, fieldMTI), text(m, fieldProcessing)
	i := slices.IndexFunc(kinds, func(k *kind) bool { return k.mti == mti && k.processing == processing })
	if i < 0 {
		return nil, errors.New("no known combination of message type and processing code")
	}
	k := kinds[i]
	present := m.GetFields()
	for _, id := range k.required {
		if _, ok := present[id]; !ok {
			return nil, fmt.Errorf("%s without field %d", k.name, id)
		}
	}
	for id := range present {
		if id > 1 && !slices.Contains(k.required, id) && !slices.Contains(k.optional, id) {
			return nil, fmt.Errorf("%s with field %d", k.name, id)
		}
	}
	tags := privateData(m)
	for _, tag := range k.tags {
		if _, ok := tags[tag]; !ok {
			return nil, fmt.Errorf("%s without field 48.%s", k.name, tag)
		}
	}
	for tag := range tags {
		if !slices.Contains(k.tags, tag) && !slices.Contains(k.tagsMaybe, tag) {
			return nil, fmt.Errorf("%s with field 48.%s", k.name, tag)
		}
	}
	return k, nil
}

func privateData(m *iso8583.Message) map[string]field.Field {
	c, ok := m.GetField(fieldPrivate).(*field.Composite)
	if !ok {
		return nil
	}
	return c.GetSubfields()
}

// parser takes fields out of a message and keeps the first error.
type parser struct {
	m   *iso8583.Message
	err error
}

func (p *parser) fail(id int, format string, args ...any) {
	if p.err == nil {
		p.err = fmt.Errorf("field %d: %s", id, fmt.Sprintf(format, args...))
	}
}

func (p *parser) digits(id int) string {
	s := text(p.m, id)
	if !isDigits(s) {
		p.fail(id, "not digits")
	}
	return s
}

func (p *parser) printable(id int) string {
	s := text(p.m, id)
	if !isPrintable(s) {
		p.fail(id, "not printable ASCII")
	}
	return s
}

func (p *parser) constant(id int, want string) {
	if text(p.m, id) != want {
		p.fail(id, "not %s", want)
	}
}

func (p *parser) terminal() string {
	s := p.printable(fieldTerminal)
	if _, present := p.m.GetFields()[fieldTerminal]; present && s == "" {
		p.fail(fieldTerminal, "is blank")
	}
	return s
}

func (p *parser) tag(tag string) []byte {
	f, ok := privateData(p.m)[tag]
	if !ok {
		return nil
	}
	b, err := f.Bytes()
	if err != nil || len(b) == 0 {
		p.fail(fieldPrivate, "tag %s is empty", tag)
	}
	return bytes.Clone(b)
}

func (p *parser) pan() set.PAN {
	pan, err := set.ParsePAN([]byte(text(p.m, fieldPAN)))
	if err != nil {
		p.fail(fieldPAN, "no card number")
	}
	return pan
}

func (p *parser) expiry() set.CardExpiry {
	e, err := set.ParseCardExpiry([]byte(century + text(p.m, fieldExpiry)))
	if err != nil {
		p.fail(fieldExpiry, "no expiry date")
	}
	return e
}

// century completes the two digits of a year in field 14.
const century = "20"

func (p *parser) trace() Trace {
	t := Trace{
		Acquirer:     set.BIN(p.digits(fieldAcquirer)),
		STAN:         p.digits(fieldSTAN),
		RRN:          p.printable(fieldRRN),
		Transmission: p.digits(fieldTransmission),
	}
	if err := t.check(); err != nil && p.err == nil {
		p.err = err
	}
	return t
}

func (p *parser) amount() set.CurrencyAmount {
	n, err := strconv.ParseInt(p.digits(fieldAmount), 10, 64)
	if err != nil {
		p.fail(fieldAmount, "not a number")
	}
	c, err := strconv.ParseInt(p.digits(fieldCurrency), 10, 64)
	if err != nil {
		p.fail(fieldCurrency, "not a number")
	}
	if _, ok := MinorPlaces(set.Currency(c)); !ok {
		p.fail(fieldCurrency, "currency is not carried")
	}
	if n == 0 {
		p.fail(fieldAmount, "is zero")
	}
	return FromMinorUnits(n, set.Currency(c))
}

func (p *parser) xid() (xid set.XID) {
	b := p.tag(tagXID)
	if len(b) != len(xid) {
		p.fail(fieldPrivate, "XID has %d octets", len(b))
	}
	copy(xid[:], b)
	return xid
}

// original reads field 90: the message type, STAN, transmission time and acquirer of the authorization.
func (p *parser) original(t Trace) Trace {
	s := p.digits(fieldOriginal)
	if len(s) != 4+stanDigits+10+2*originalAcquirerDigits {
		p.fail(fieldOriginal, "has %d digits", len(s))
		return Trace{}
	}
	o := Trace{Acquirer: t.Acquirer, RRN: t.RRN, STAN: s[4:10], Transmission: s[10:20]}
	if s != originalElements(o) {
		p.fail(fieldOriginal, "does not name an authorization of the same acquirer")
	}
	if err := o.check(); err != nil && p.err == nil {
		p.err = err
	}
	return o
}

func originalElements(o Trace) string {
	return kindAuthorize.mti + o.STAN + o.Transmission + fmt.Sprintf("%0*s", originalAcquirerDigits, o.Acquirer) + noForwarder
}

func (t Trace) check() error {
	if len(t.Acquirer) != acquirerDigits || !isDigits(string(t.Acquirer)) {
		return fmt.Errorf("acquirer has %d characters, want %d digits", len(t.Acquirer), acquirerDigits)
	}
	if len(t.STAN) != stanDigits || !isDigits(t.STAN) {
		return fmt.Errorf("STAN has %d characters, want %d digits", len(t.STAN), stanDigits)
	}
	if len(t.RRN) != rrnBytes || !isPrintable(t.RRN) {
		return fmt.Errorf("retrieval reference number has %d characters, want %d", len(t.RRN), rrnBytes)
	}
	// 2000 was a leap year.
	if _, err := time.Parse("2006"+transmissionLayout, "2000"+t.Transmission); err != nil || !isDigits(t.Transmission) {
		return errors.New("time of transmission is none, want MMDDhhmmss")
	}
	return nil
}

func isDigits(s string) bool {
	return s != "" && strings.IndexFunc(s, func(r rune) bool { return r < '0' || r > '9' }) < 0
}

func isPrintable(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) < 0
}

// builder puts fields into a message and keeps the first error.
type builder struct {
	m   *iso8583.Message
	err error
}

func newBuilder(mti string) *builder {
	b := &builder{m: iso8583.NewMessage(messageSpec)}
	b.m.MTI(mti)
	return b
}

func (b *builder) set(id int, value string) {
	if err := b.m.Field(id, value); err != nil && b.err == nil {
		b.err = fmt.Errorf("field %d cannot be set", id)
	}
}

func (b *builder) check(err error) {
	if b.err == nil {
		b.err = err
	}
}

func (b *builder) tag(tag string, value []byte) {
	if err := b.m.MarshalPath(fmt.Sprintf("%d.%s", fieldPrivate, tag), field.NewBinaryValue(value)); err != nil && b.err == nil {
		b.err = fmt.Errorf("field 48.%s cannot be set", tag)
	}
}

func (b *builder) trace(t Trace) {
	b.check(t.check())
	b.set(fieldAcquirer, string(t.Acquirer))
	b.set(fieldSTAN, t.STAN)
	b.set(fieldRRN, t.RRN)
	b.set(fieldTransmission, t.Transmission)
}

func (b *builder) amount(a set.CurrencyAmount) {
	n, err := MinorUnits(a)
	b.check(err)
	if n == 0 {
		b.check(errors.New("amount is zero"))
	}
	b.set(fieldAmount, fmt.Sprintf("%0*d", amountDigits, n))
	b.set(fieldCurrency, fmt.Sprintf("%03d", int64(a.Currency)))
}

func (b *builder) card(pan set.PAN, expiry set.CardExpiry) {
	if _, err := set.ParsePAN(pan); err != nil {
		b.check(err)
		return
	}
	if _, err := set.ParseCardExpiry(expiry); err != nil {
		b.check(err)
		return
	}
	if string(expiry[:2]) != century {
		b.check(errors.New("card expiry is not in this century"))
		return
	}
	b.set(fieldPAN, string(pan))
	b.set(fieldExpiry, string(expiry[2:]))
}

func (b *builder) merchant(m Merchant) {
	id := string(m.ID)
	if id == "" || len(id) > MerchantIDBytesMax || !isPrintable(id) || strings.HasSuffix(id, " ") {
		b.check(fmt.Errorf("merchant identifier %q is not 1 to %d characters of ASCII", id, MerchantIDBytesMax))
		return
	}
	b.set(fieldMerchant, id)
	if m.Terminal == "" {
		return
	}
	if len(m.Terminal) > TerminalBytesMax || !isPrintable(m.Terminal) || strings.HasSuffix(m.Terminal, " ") {
		b.check(fmt.Errorf("terminal identifier %q is not at most %d characters of ASCII", m.Terminal, TerminalBytesMax))
		return
	}
	b.set(fieldTerminal, m.Terminal)
}

func (b *builder) original(t, original Trace) {
	b.check(original.check())
	if t.Acquirer != original.Acquirer || t.RRN != original.RRN {
		b.check(errors.New("acquirer and retrieval reference number differ from the authorization's: use Trace.Next"))
	}
	b.set(fieldOriginal, originalElements(original))
}

// asciiName makes a merchant's name fit for field 43.
func asciiName(name string) string {
	name = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, name)
	if len(name) > merchantNameBytes {
		name = name[:merchantNameBytes]
	}
	return strings.TrimRight(name, " ")
}
