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
	t := p.sender()
	t.RRN = p.printable(fieldRRN)
	if err := t.check(); err != nil && p.err == nil {
		p.err = err
	}
	return t
}

// sender reads the trace of a message that is not about one transaction.
func (p *parser) sender() Trace {
	t := Trace{
		Acquirer:     set.BIN(p.digits(fieldAcquirer)),
		STAN:         p.digits(fieldSTAN),
		Transmission: p.digits(fieldTransmission),
	}
	if err := t.checkSender(); err != nil && p.err == nil {
		p.err = err
	}
	return t
}

func (p *parser) amount() set.CurrencyAmount {
	n := p.number(fieldAmount, p.digits(fieldAmount))
	c := p.currency()
	if n == 0 {
		p.fail(fieldAmount, "is zero")
	}
	return FromMinorUnits(n, c)
}

func (p *parser) currency() set.Currency {
	c := set.Currency(p.number(fieldCurrency, p.digits(fieldCurrency)))
	if _, ok := MinorPlaces(c); !ok {
		p.fail(fieldCurrency, "currency is not carried")
	}
	return c
}

// number reads digits of a field, which fit.
func (p *parser) number(id int, digits string) int64 {
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil {
		p.fail(id, "not a number")
	}
	return n
}

// replacement reads field 95: what remains of an amount. The fields of other currencies and fees are zero.
func (p *parser) replacement(of set.CurrencyAmount) set.CurrencyAmount {
	none := set.CurrencyAmount{}
	if _, present := p.m.GetFields()[fieldReplacement]; !present {
		return none
	}
	s := text(p.m, fieldReplacement)
	if len(s) < amountDigits || !isDigits(s[:amountDigits]) || s[amountDigits:] != noReplacement {
		p.fail(fieldReplacement, "is not one amount")
		return none
	}
	n := p.number(fieldReplacement, s[:amountDigits])
	if n == 0 || n >= int64(of.Amount) {
		p.fail(fieldReplacement, "is zero, or not less than field 4")
	}
	return FromMinorUnits(n, of.Currency)
}

// noReplacement is the rest of field 95.
const noReplacement = "000000000000" + "C00000000" + "C00000000"

func (p *parser) settlement() Settlement {
	s := string(p.tag(tagSettlement))
	if len(s) != settlementDigits || !isDigits(s) {
		p.fail(fieldPrivate, "settlement number is not %d digits", settlementDigits)
		return 0
	}
	n := Settlement(p.number(fieldPrivate, s))
	if n == 0 {
		p.fail(fieldPrivate, "settlement number is zero")
	}
	return n
}

func (p *parser) totals() (t Totals) {
	for _, f := range t.fields() {
		f.sum.Count = p.number(f.count, p.digits(f.count))
		f.sum.Amount = p.number(f.amount, p.digits(f.amount))
	}
	if text(p.m, fieldNet) != t.net() {
		p.fail(fieldNet, "is not the sum of the others")
	}
	return t
}

func (p *parser) xid() (xid set.XID) {
	b := p.tag(tagXID)
	if len(b) != len(xid) {
		p.fail(fieldPrivate, "XID has %d octets", len(b))
	}
	copy(xid[:], b)
	return xid
}

// original reads field 90: the message type, STAN, transmission time and acquirer of an earlier message, of
// this kind.
func (p *parser) original(t Trace, k *kind) Trace {
	s := p.digits(fieldOriginal)
	if len(s) != 4+stanDigits+10+2*originalAcquirerDigits {
		p.fail(fieldOriginal, "has %d digits", len(s))
		return Trace{}
	}
	o := Trace{Acquirer: t.Acquirer, RRN: t.RRN, STAN: s[4:10], Transmission: s[10:20]}
	if s != originalElements(o, k) {
		p.fail(fieldOriginal, "does not name a message of type %s of the same acquirer", k.mti)
	}
	if err := o.check(); err != nil && p.err == nil {
		p.err = err
	}
	return o
}

func originalElements(o Trace, k *kind) string {
	return k.mti + o.STAN + o.Transmission + fmt.Sprintf("%0*s", originalAcquirerDigits, o.Acquirer) + noForwarder
}

func (t Trace) check() error {
	if len(t.RRN) != rrnBytes || !isPrintable(t.RRN) {
		return fmt.Errorf("retrieval reference number has %d characters, want %d", len(t.RRN), rrnBytes)
	}
	return t.checkSender()
}

func (t Trace) checkSender() error {
	if len(t.Acquirer) != acquirerDigits || !isDigits(string(t.Acquirer)) {
		return fmt.Errorf("acquirer has %d characters, want %d digits", len(t.Acquirer), acquirerDigits)
	}
	if len(t.STAN) != stanDigits || !isDigits(t.STAN) {
		return fmt.Errorf("STAN has %d characters, want %d digits", len(t.STAN), stanDigits)
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
	b.set(fieldRRN, t.RRN)
	b.sender(t)
}

// sender sets the trace of a message that is not about one transaction.
func (b *builder) sender(t Trace) {
	b.check(t.checkSender())
	b.set(fieldAcquirer, string(t.Acquirer))
	b.set(fieldSTAN, t.STAN)
	b.set(fieldTransmission, t.Transmission)
}

func (b *builder) amount(a set.CurrencyAmount) {
	n, err := MinorUnits(a)
	b.check(err)
	if n == 0 {
		b.check(errors.New("amount is zero"))
	}
	b.set(fieldAmount, fmt.Sprintf("%0*d", amountDigits, n))
	b.currency(a.Currency)
}

func (b *builder) currency(c set.Currency) {
	if _, ok := MinorPlaces(c); !ok {
		b.check(fmt.Errorf("the network does not carry the currency %s", c))
	}
	b.set(fieldCurrency, fmt.Sprintf("%03d", int64(c)))
}

func (b *builder) replacement(of, remains set.CurrencyAmount) {
	whole, err := MinorUnits(of)
	b.check(err)
	n, err := MinorUnits(remains)
	b.check(err)
	if remains.Currency != of.Currency || n >= whole {
		b.check(fmt.Errorf("%s cannot remain of %s", remains, of))
	}
	b.set(fieldReplacement, fmt.Sprintf("%0*d", amountDigits, n)+noReplacement)
}

func (b *builder) settlement(n Settlement) {
	if n < 1 || n > SettlementMax {
		b.check(fmt.Errorf("settlement number %d: want 1 to %d", n, SettlementMax))
	}
	b.tag(tagSettlement, fmt.Appendf(nil, "%0*d", settlementDigits, int(n)))
}

func (b *builder) totals(t Totals) {
	for _, f := range t.fields() {
		if f.sum.Count < 0 || f.sum.Amount < 0 || f.sum.Count > countMax || f.sum.Amount > sumMax {
			b.check(fmt.Errorf("totals have a sum of %d in %d messages: out of range", f.sum.Amount, f.sum.Count))
			return
		}
		b.set(f.count, fmt.Sprintf("%0*d", countDigits, f.sum.Count))
		b.set(f.amount, fmt.Sprintf("%0*d", sumDigits, f.sum.Amount))
	}
	b.set(fieldNet, t.net())
}

const (
	countMax = 9_999_999_999
	sumMax   = 1_999_999_999_999_999 // so that the net fits in 16 digits
)

// totalField is where a message has a sum.
type totalField struct {
	count, amount int
	sum           *Sum
}

func (t *Totals) fields() []totalField {
	return []totalField{
		{fieldRefunds, fieldRefundsSum, &t.Refunds}, {fieldRefundsBack, fieldRefundsBackSum, &t.RefundsTaken},
		{fieldSales, fieldSalesSum, &t.Sales}, {fieldSalesBack, fieldSalesBackSum, &t.SalesTaken},
	}
}

// net is field 97: D and the amount when cardholders were debited, C when they were credited.
func (t Totals) net() string {
	if n := t.Net(); n < 0 {
		return fmt.Sprintf("C%0*d", sumDigits, -n)
	}
	return fmt.Sprintf("D%0*d", sumDigits, t.Net())
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

func (b *builder) original(t, original Trace, k *kind) {
	b.check(original.check())
	if t.Acquirer != original.Acquirer || t.RRN != original.RRN {
		b.check(errors.New("acquirer and retrieval reference number differ from the original's: use Trace.Next"))
	}
	b.set(fieldOriginal, originalElements(original, k))
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
