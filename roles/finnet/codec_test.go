package finnet

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moov-io/iso8583"

	"github.com/setkit/setkit/roles/set"
)

var (
	testTrace = Trace{Acquirer: "412345", STAN: "000123", RRN: "ABCDEF123456", Transmission: "0229235959"}
	testXID   = set.XID{1, 2, 3, 19: 0xff}

	// The characters of a request, as a person writes them down from the package doc.
	authorizationText = "0100" + "7224048108618000" + "164111111111111111" + "000000" + "000000001050" + "0229235959" + "000123" +
		"3012" + "812" + "59" + "06412345" + "ABCDEF123456" + "SHOP-1         " + "Books & more                            " +
		"025" + "01020" + string(testXID[:]) + "840"
	reversalText = "0400" + "B220000108008000" + "0000004000000000" + "000000" + "000000001050" + "0301000001" + "000124" +
		"06412345" + "ABCDEF123456" + "840" + "0100" + "000123" + "0229235959" + "00000412345" + "00000000000"
	smallerText = "0400" + "B220000108008000" + "0000004200000000" + "000000" + "000000001050" + "0301000001" + "000124" +
		"06412345" + "ABCDEF123456" + "840" + "0100" + "000123" + "0229235959" + "00000412345" + "00000000000" +
		"000000001049" + "000000000000" + "C00000000" + "C00000000"
	reconciliationText = "0500" + "8220000100018000" + "0078078080000000" + "0301000002" + "000125" + "06412345" + "011" + "05006" + "000042" +
		"840" + "0000000001" + "0000000004" + "0000000003" + "0000000002" +
		"0000000000000050" + "0000000000000005" + "0000000000000100" + "0000000000000090" + "C0000000000000035"
)

func testClearing() *Clearing {
	return &Clearing{
		Trace: testTrace.Next(testTime), Original: testTrace, Amount: set.CurrencyAmount{Currency: 392, Amount: 7},
		ApprovalCode: "A1B2C3", Merchant: Merchant{ID: "M", Terminal: "T"}, XID: testXID, Settlement: 1,
	}
}

func testReconciliation() *Reconciliation {
	return &Reconciliation{
		Trace:      Trace{Acquirer: "412345", STAN: "000125", Transmission: "0301000002"},
		Settlement: 42, Currency: 840,
		Totals: Totals{Sales: Sum{3, 100}, SalesTaken: Sum{2, 90}, Refunds: Sum{1, 50}, RefundsTaken: Sum{4, 5}},
	}
}

func TestWireFormat(t *testing.T) {
	t.Parallel()
	amount := set.CurrencyAmount{Currency: 840, Amount: 1050, AmtExp10: -2}
	authorization := &Authorization{
		Trace: testTrace, PAN: set.PAN("4111111111111111"), Expiry: set.CardExpiry("203012"), Amount: amount,
		Merchant: Merchant{ID: "SHOP-1", Name: "Books & more"}, XID: testXID,
	}
	reversal := &Reversal{
		Trace:    Trace{Acquirer: "412345", STAN: "000124", RRN: "ABCDEF123456", Transmission: "0301000001"},
		Original: testTrace, Amount: amount,
	}
	smaller := *reversal
	smaller.Remains = set.CurrencyAmount{Currency: 840, Amount: 1049, AmtExp10: -2}
	reconciliation := testReconciliation()
	for _, tt := range []struct {
		name, want string
		encode     func() (*iso8583.Message, error)
		request    any
	}{
		{"authorization", authorizationText, authorization.encode, authorization},
		{"reversal", reversalText, reversal.encode, reversal},
		{"reversal in part", smallerText, smaller.encode, &smaller},
		{"reconciliation", reconciliationText, reconciliation.encode, reconciliation},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m, err := tt.encode()
			if err != nil {
				t.Fatal(err)
			}
			frame, err := pack(m)
			if err != nil {
				t.Fatal(err)
			}
			want := append([]byte{byte(len(tt.want) >> 8), byte(len(tt.want))}, tt.want...)
			if diff := cmp.Diff(string(want), string(frame)); diff != "" {
				t.Fatalf("frame (-want +got):\n%s", diff)
			}
			m, err = unpack([]byte(tt.want))
			if err != nil {
				t.Fatal(err)
			}
			got, err := decodeRequest(m)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.request, got); diff != "" {
				t.Errorf("decoded (-want +got):\n%s", diff)
			}
		})
	}
}

// change replaces the only occurrence of old in a message.
func change(t *testing.T, message, old, new string) string {
	t.Helper()
	if strings.Count(message, old) != 1 || len(old) != len(new) {
		t.Fatalf("%q is not there once, or differs in length from %q", old, new)
	}
	return strings.Replace(message, old, new, 1)
}

func TestDecodeRefuses(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, text, want string }{
		{"empty", "", "too short"},
		{"cut", authorizationText[:len(authorizationText)-1], "field 49"},
		{"trailing octet", authorizationText + "0", "canonical"},
		{"length with a sign", change(t, authorizationText, "025"+"01", "+25"+"01"), "canonical"},
		{"lower-case bitmap", change(t, reversalText, "B220", "b220"), "canonical"},
		{"undefined field", change(t, authorizationText, "7224", "7A24"), "field 5"},
		{"unknown message type", change(t, reversalText, "0400B2", "0401B2"), "no known combination"},
		{"unknown processing code", change(t, authorizationText, "1111"+"000000"+"0000", "1111"+"010000"+"0000"), "no known combination"},
		{"bad check digit", change(t, authorizationText, "4111111111111111", "4111111111111112"), "field 2"},
		{"zero amount", change(t, authorizationText, "000000001050", "000000000000"), "field 4"},
		{"unknown currency", change(t, reversalText, "840"+"0100", "999"+"0100"), "field 49"},
		{"letters in the STAN", change(t, authorizationText, "000123", "00012A"), "field 11"},
		{"no such day", change(t, authorizationText, "0229235959", "0230235959"), "time of transmission"},
		{"no such month", change(t, authorizationText, "3012"+"812", "3013"+"812"), "field 14"},
		{"control characters", change(t, authorizationText, "SHOP-1", "SHOP\n1"), "field 42"},
		{"blank merchant", change(t, authorizationText, "SHOP-1", "      "), "field 42"},
		{"short XID", strings.Replace(authorizationText, "025"+"01020"+string(testXID[:]), "024"+"01019"+string(testXID[:19]), 1), "field 48"},
		{"unknown tag", change(t, authorizationText, "01020", "09020"), "field 48.09"},
		{"tag of another kind", change(t, authorizationText, "01020", "03020"), "without field 48.01"},
		{"original of another acquirer", change(t, reversalText, "00000412345", "00000412346"), "field 90"},
		{"original that is no authorization", change(t, reversalText, "8400100", "8400200"), "field 90"},
		{"not ASCII", change(t, authorizationText, "Books", "B\xf6oks"), "field 43"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m, err := unpack([]byte(tt.text))
			if err == nil {
				_, err = decodeRequest(m)
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got error %v, want one with %q", err, tt.want)
			}
			if err != nil && strings.Contains(err.Error(), "411111") {
				t.Errorf("error shows a card number: %v", err)
			}
		})
	}
}

// Whatever is accepted as a request means exactly the octets that were received.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(authorizationText))
	f.Add([]byte(reversalText))
	for _, req := range []interface {
		encode() (*iso8583.Message, error)
	}{
		&AccountCheck{Trace: testTrace, PAN: set.PAN("4111111111111111"), Expiry: set.CardExpiry("203012"), Holder: "Zoë", Secret: []byte("1234")},
		&Reversal{
			Trace: testTrace.Next(testTime), Original: testTrace, Amount: set.CurrencyAmount{Currency: 392, Amount: 7},
			Remains: set.CurrencyAmount{Currency: 392, Amount: 6},
		},
		testClearing(), (*Refund)(testClearing()),
		&Withdrawal{
			Trace: testTrace.Next(testTime), Original: testTrace, Amount: set.CurrencyAmount{Currency: 392, Amount: 7}, Settlement: 12,
		},
		&Withdrawal{
			Trace: testTrace.Next(testTime), Original: testTrace, Refund: true, Amount: set.CurrencyAmount{Currency: 392, Amount: 7},
			Settlement: SettlementMax,
		},
		testReconciliation(),
	} {
		m, err := req.encode()
		if err != nil {
			f.Fatal(err)
		}
		frame, err := pack(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(frame[2:])
	}
	m, err := encodeEcho("000001", "0101000000")
	if err != nil {
		f.Fatal(err)
	}
	frame, err := pack(m)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(frame[2:])
	f.Fuzz(func(t *testing.T, octets []byte) {
		if len(octets) > frameBytesMax {
			return
		}
		m, err := unpack(bytes.Clone(octets))
		if err != nil {
			return
		}
		if mti := text(m, fieldMTI); isRequest(mti) {
			if _, err := respond(m, reply{Answer: Answer{Code: FormatError}}); err != nil {
				t.Errorf("no answer can be made: %v", err)
			}
		}
		req, err := decodeRequest(m)
		if err != nil {
			return
		}
		again, ok := req.(interface {
			encode() (*iso8583.Message, error)
		})
		if !ok {
			return // an echo has nothing else
		}
		m, err = again.encode()
		if err != nil {
			t.Fatalf("what was decoded does not encode: %v", err)
		}
		frame, err := pack(m)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(frame[2:], octets) {
			t.Errorf("decoded and encoded again:\n%s\nreceived:\n%s", hex.Dump(frame[2:]), hex.Dump(octets))
		}
	})
}
