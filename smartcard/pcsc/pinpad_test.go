package pcsc_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"github.com/ebfe/scard"

	"github.com/setkit/setkit/smartcard"
	"github.com/setkit/setkit/smartcard/pcsc"
	"github.com/setkit/setkit/smartcard/piv"
	"github.com/setkit/setkit/smartcard/virtual"
)

// Control codes of the reader below.
const (
	codeVerify     = 0x42330006
	codeModify     = 0x42330007
	codeProperties = 0x4233000A
	codeTLV        = 0x42330012
)

// unhex decodes hex digits with spaces and comments between them.
func unhex(t testing.TB, lines ...string) []byte {
	t.Helper()
	var digits strings.Builder
	for _, line := range lines {
		line, _, _ = strings.Cut(line, "//")
		digits.WriteString(strings.ReplaceAll(line, " ", ""))
	}
	b, err := hex.DecodeString(digits.String())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A padReader is a reader with a keypad behind what PC/SC is to a Card. Like the
// reader it does only what the bytes of a request say.
type padReader struct {
	t        testing.TB
	card     *virtual.Card
	answers  map[uint32][]byte // to control codes
	typed    []string          // what the person enters next
	requests [][]byte          // VERIFY_PIN_DIRECT and MODIFY_PIN_DIRECT
	status   []byte            // of the reader, instead of the card's answer
	fails    error             // of the next request
}

func newPadReader(t testing.TB) *padReader {
	return &padReader{t: t, card: virtual.NewCard(), answers: map[uint32][]byte{
		pcsc.CodeGetFeatures: unhex(t,
			"06 04 42330006", // FEATURE_VERIFY_PIN_DIRECT
			"07 04 42330007", // FEATURE_MODIFY_PIN_DIRECT
			"0A 04 4233000A", // FEATURE_IFD_PIN_PROPERTIES
			"12 04 42330012", // FEATURE_GET_TLV_PROPERTIES
		),
		codeProperties: unhex(t, "1002 07 1E"), // wLcdLayout: two lines of 16
		codeTLV: unhex(t,
			"01 02 1002",       // wLcdLayout
			"06 01 04",         // bMinPINSize
			"07 01 08",         // bMaxPINSize
			"08 05 4630303037", // sFirmwareID
			"0A 04 00000100",   // dwMaxAPDUDataSize: 65536
		),
	}}
}

func (r *padReader) ActiveProtocol() scard.Protocol { return scard.ProtocolT1 }
func (r *padReader) Status() (*scard.CardStatus, error) {
	return &scard.CardStatus{Reader: "pad", Atr: r.card.ATR()}, nil
}
func (r *padReader) BeginTransaction() error            { return r.card.Begin(context.Background()) }
func (r *padReader) Disconnect(scard.Disposition) error { return nil }
func (r *padReader) Transmit(cmd []byte) ([]byte, error) {
	return r.card.Transmit(context.Background(), cmd)
}
func (r *padReader) EndTransaction(scard.Disposition) error { return r.card.End(smartcard.Leave) }
func (r *padReader) Reconnect(scard.ShareMode, scard.Protocol, scard.Disposition) error {
	return scard.ErrUnsupportedFeature
}

func (r *padReader) Control(code uint32, in []byte) ([]byte, error) {
	switch code {
	case codeVerify, codeModify:
		r.requests = append(r.requests, bytes.Clone(in))
		if r.fails != nil || r.status != nil {
			return r.status, r.fails
		}
		if code == codeVerify {
			return r.verify(in)
		}
		return r.modify(in)
	}
	if len(in) > 0 {
		r.t.Errorf("a question for %08X with % X", code, in)
	}
	if answer, ok := r.answers[code]; ok {
		return answer, nil
	}
	return nil, scard.ErrUnsupportedFeature
}

// verify is what a reader does with a PIN_VERIFY_STRUCTURE.
func (r *padReader) verify(b []byte) ([]byte, error) {
	format, block, lengthFormat, most, least := b[2], b[3], b[4], b[5], b[6]
	command := b[19:]
	if format != 0x82 || lengthFormat != 0 || b[7] != 0x02 || int(b[15])|int(b[16])<<8|int(b[17])<<16|int(b[18])<<24 != len(command) {
		return []byte{0x6B, 0x80}, nil
	}
	return r.fill(command, least, most, block, 0)
}

// modify is what a reader does with a PIN_MODIFY_STRUCTURE.
func (r *padReader) modify(b []byte) ([]byte, error) {
	format, block, lengthFormat, most, least := b[2], b[3], b[4], b[7], b[8]
	command := b[24:]
	if format != 0x82 || lengthFormat != 0 || b[9] != 0x03 || b[10] != 0x02 || int(b[20])|int(b[21])<<8|int(b[22])<<16|int(b[23])<<24 != len(command) {
		return []byte{0x6B, 0x80}, nil
	}
	return r.fill(command, least, most, block, b[5], b[6])
}

// fill puts what is typed into a command, and sends it.
func (r *padReader) fill(command []byte, least, most, block byte, offsets ...byte) ([]byte, error) {
	command = bytes.Clone(command)
	for _, offset := range offsets {
		pin := r.typed[0]
		r.typed = r.typed[1:]
		if len(pin) < int(least) || len(pin) > int(most) || len(pin) > int(block) {
			return []byte{0x64, 0x03}, nil
		}
		copy(command[5+int(offset):], pin)
	}
	return r.Transmit(command)
}

// open returns the card in the reader, closed at the end of the test.
func (r *padReader) open(t *testing.T) *pcsc.Card {
	t.Helper()
	c, err := pcsc.OpenHandle(r, "pad")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

var (
	verifyPIN = smartcard.PINEntry{Command: []byte("\x00\x20\x00\x80\x08\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF"), BlockBytes: 8, DigitsMin: 6, DigitsMax: 8}
	changePIN = smartcard.PINEntry{Command: append([]byte("\x00\x24\x00\x80\x10"), bytes.Repeat([]byte{0xFF}, 16)...), Replace: true, BlockBytes: 8, DigitsMin: 6, DigitsMax: 8}
)

// TestPINStructures compares what the reader is sent with the structures of PC/SC
// part 10, sections 2.5.2 and 2.5.3. Numbers of several bytes are little-endian.
func TestPINStructures(t *testing.T) {
	t.Parallel()
	r := newPadReader(t)
	c := r.open(t)
	if want := (smartcard.Keypad{Verify: true, Modify: true, Lines: 2, Columns: 16, DigitsMin: 4, DigitsMax: 8}); c.Keypad() != want {
		t.Errorf("got %+v, want %+v", c.Keypad(), want)
	}
	r.status = []byte{0x90, 0x00}
	for _, e := range []smartcard.PINEntry{verifyPIN, changePIN} {
		if answer, err := c.EnterPIN(t.Context(), e); err != nil || !bytes.Equal(answer, r.status) {
			t.Fatalf("got % X, %v", answer, err)
		}
	}
	verify := unhex(t,
		"1E 1E",       // bTimeOut, bTimeOut2
		"82 08 00",    // bmFormatString, bmPINBlockString, bmPINLengthFormat
		"0806",        // wPINMaxExtraDigit: 6 to 8
		"02 01",       // bEntryValidationCondition, bNumberMessage
		"0904 00",     // wLangId, bMsgIndex
		"000000",      // bTeoPrologue
		"0D000000",    // ulDataLength
		"00200080 08", // abData: VERIFY
		"FFFFFFFF FFFFFFFF",
	)
	modify := unhex(t,
		"1E 1E",         // bTimeOut, bTimeOut2
		"82 08 00",      // bmFormatString, bmPINBlockString, bmPINLengthFormat
		"00 08",         // bInsertionOffsetOld, bInsertionOffsetNew
		"0806",          // wPINMaxExtraDigit: 6 to 8
		"03 02 03",      // bConfirmPIN, bEntryValidationCondition, bNumberMessage
		"0904 00 01 02", // wLangId, bMsgIndex1 to 3
		"000000",        // bTeoPrologue
		"15000000",      // ulDataLength
		"00240080 10",   // abData: CHANGE REFERENCE DATA
		"FFFFFFFF FFFFFFFF FFFFFFFF FFFFFFFF",
	)
	for i, want := range [][]byte{verify, modify} {
		if got := r.requests[i]; !bytes.Equal(got, want) {
			t.Errorf("got  % X\nwant % X", got, want)
		}
	}

	// Without a display no texts are chosen, and the reader's limits count.
	delete(r.answers, codeProperties)
	r.answers[codeTLV] = unhex(t, "06 01 07", "07 01 0C")
	c = r.open(t)
	if _, err := c.EnterPIN(t.Context(), verifyPIN); err != nil {
		t.Fatal(err)
	}
	copy(verify[5:], unhex(t, "0807 02 00"))
	if got := r.requests[2]; !bytes.Equal(got, verify) {
		t.Errorf("got  % X\nwant % X", got, verify)
	}
	r.answers[codeTLV] = unhex(t, "07 01 05")
	if _, err := r.open(t).EnterPIN(t.Context(), verifyPIN); err == nil || !strings.Contains(err.Error(), "6 to 8 digits") {
		t.Errorf("a reader for short PINs: got %v", err)
	}
	if len(r.requests) != 3 {
		t.Errorf("the reader got %d requests, want 3", len(r.requests))
	}
}

func TestPadAnswers(t *testing.T) {
	t.Parallel()
	r := newPadReader(t)
	c := r.open(t)
	tests := []struct {
		status []byte
		fails  error
		want   error
	}{
		{[]byte{0x64, 0x00}, nil, smartcard.ErrPadTimeout},
		{[]byte{0x64, 0x01}, nil, smartcard.ErrPadCancelled},
		{[]byte{0x64, 0x02}, nil, smartcard.ErrPadMismatch},
		{[]byte{0x64, 0x03}, nil, smartcard.ErrPadLength},
		{nil, scard.ErrCancelledByUser, smartcard.ErrPadCancelled},
		{nil, scard.ErrTimeout, smartcard.ErrPadTimeout},
		{nil, scard.ErrResetCard, smartcard.ErrReset},
	}
	for _, tt := range tests {
		r.status, r.fails = tt.status, tt.fails
		_, err := c.EnterPIN(t.Context(), verifyPIN)
		if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), `reader "pad"`) {
			t.Errorf("% X, %v: got %v, want %v", tt.status, tt.fails, err, tt.want)
		}
		if sent := errors.Is(err, smartcard.ErrUnavailable); sent != (tt.want == smartcard.ErrReset) {
			t.Errorf("% X, %v: %v counts as unavailable: %v", tt.status, tt.fails, err, sent)
		}
	}
	// What the card says is the card's.
	r.status, r.fails = []byte{0x63, 0xC1}, nil
	if answer, err := c.EnterPIN(t.Context(), verifyPIN); err != nil || !bytes.Equal(answer, r.status) {
		t.Errorf("got % X, %v, want 63 C1", answer, err)
	}
	// Requests that make no sense don't reach the reader.
	n := len(r.requests)
	for _, e := range []smartcard.PINEntry{
		{}, {Command: verifyPIN.Command, BlockBytes: 16, DigitsMin: 6, DigitsMax: 8}, {Command: verifyPIN.Command, BlockBytes: 8, DigitsMin: 9, DigitsMax: 8},
		{Command: verifyPIN.Command, Replace: true, BlockBytes: 8, DigitsMin: 6, DigitsMax: 8}, {Command: changePIN.Command, BlockBytes: 8, DigitsMin: 6, DigitsMax: 8},
	} {
		if _, err := c.EnterPIN(t.Context(), e); err == nil {
			t.Errorf("%+v: no error", e)
		}
	}
	if len(r.requests) != n {
		t.Error("the reader got a request that makes no sense")
	}
}

// TestNoKeypad opens cards in readers that have none, each in its way.
func TestNoKeypad(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string][]byte{
		"not supported": nil, "empty": {}, "others": unhex(t, "01 04 42330001", "02 04 42330002", "12 04 42330012"), "cut off": unhex(t, "06 04 423300"), "short code": unhex(t, "06 02 0006"),
	} {
		r := newPadReader(t)
		if r.answers[pcsc.CodeGetFeatures] = answer; answer == nil {
			delete(r.answers, pcsc.CodeGetFeatures)
		}
		c := r.open(t)
		if k := c.Keypad(); k.Verify || k.Modify {
			t.Errorf("%s: got %+v", name, k)
		}
		if _, err := c.EnterPIN(t.Context(), verifyPIN); err == nil || len(r.requests) > 0 {
			t.Errorf("%s: got %v and %d requests", name, err, len(r.requests))
		}
	}
}

// TestPadPIV uses a PIV card at the keypad, all the way.
func TestPadPIV(t *testing.T) {
	t.Parallel()
	r := newPadReader(t)
	card := piv.New(smartcard.NewRecorder(r.open(t)), piv.Options{})
	var public crypto.PublicKey
	err := card.Do(t.Context(), func(tx *piv.Tx) (err error) {
		r.typed = []string{"123456", "654321"}
		if err := tx.ChangePINOnPad(); err != nil {
			return err
		}
		if err := tx.Authenticate(piv.ManagementKey{Key: piv.FactoryManagementKey()}); err != nil {
			return err
		}
		public, err = tx.Generate(piv.SlotSignature, piv.ECDSAP256, piv.PINPolicyDefault)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	session := card.NewSession(t.Context(), piv.SessionConfig{PIN: func(context.Context, piv.PINRequest) ([]byte, error) {
		t.Error("the PIN was asked for on the computer")
		return nil, errors.New("no")
	}})
	defer session.Close()
	signer, err := session.Signer(piv.SlotSignature, public)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte("purchase"))
	r.typed = []string{"654321", "1234", "000000"}
	sig, err := signer.Sign(nil, digest[:], crypto.SHA256)
	if err != nil || !ecdsa.VerifyASN1(public.(*ecdsa.PublicKey), digest[:], sig) {
		t.Fatalf("got % X, %v", sig, err)
	}
	if _, err := signer.Sign(nil, digest[:], crypto.SHA256); !errors.Is(err, smartcard.ErrPadLength) {
		t.Errorf("four digits: got %v, want ErrPadLength", err)
	}
	var wrong *smartcard.PINError
	if _, err := signer.Sign(nil, digest[:], crypto.SHA256); !errors.As(err, &wrong) || wrong.TriesLeft != 2 {
		t.Errorf("a wrong PIN: got %v, want 2 tries left", err)
	}
	for _, request := range r.requests { // the reader filled its own copy
		if bytes.Contains(request, []byte("654321")) || bytes.Contains(request, []byte("123456")) {
			t.Errorf("a PIN was on the computer: % X", request)
		}
	}
}

// TestExtended asks cards and readers for APDUs of extended length.
func TestExtended(t *testing.T) {
	t.Parallel()
	yubiKey := unhex(t, "3BFD1300008131FE158073C021C057597562694B657940")
	plain := unhex(t, "3B8D800180FBA000000308000010000100CD")
	for _, tt := range []struct {
		name  string
		atr   []byte
		limit []byte // dwMaxAPDUDataSize
		want  bool
	}{
		{"both", yubiKey, unhex(t, "0A 04 00000100"), true},
		{"reader doesn't tell", yubiKey, nil, true},
		{"short reader", yubiKey, unhex(t, "0A 04 00000000"), false},
		{"reader with little room", yubiKey, unhex(t, "0A 04 00020000"), false},
		{"card doesn't tell", plain, unhex(t, "0A 04 00000100"), false},
	} {
		r := newPadReader(t)
		r.answers[codeTLV] = tt.limit
		c, err := pcsc.OpenHandle(withATR{r, tt.atr}, "pad")
		if err != nil {
			t.Fatal(err)
		}
		if got := c.Extended(); got != tt.want {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
}

// withATR is a reader with another card.
type withATR struct {
	*padReader
	atr []byte
}

func (r withATR) Status() (*scard.CardStatus, error) { return &scard.CardStatus{Atr: r.atr}, nil }

// FuzzFeatures decodes what readers say of themselves.
func FuzzFeatures(f *testing.F) {
	r := newPadReader(f)
	f.Add(r.answers[pcsc.CodeGetFeatures], r.answers[codeProperties], r.answers[codeTLV])
	f.Add([]byte{6}, []byte{1}, []byte{6, 1})
	f.Add([]byte{6, 255, 1}, []byte{}, []byte{10, 4, 255, 255, 255, 255, 7, 0})
	f.Fuzz(func(t *testing.T, codes, pin, tlv []byte) {
		features, least, most := pcsc.ReadFeatures(codes, pin, tlv)
		if len(features)*6 > len(codes) || least < 0 || most < 0 {
			t.Errorf("%v, PINs of %d to %d digits", features, least, most)
		}
	})
}
