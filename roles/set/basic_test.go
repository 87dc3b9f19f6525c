package set_test

import (
	"encoding/asn1"
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/der"
)

func TestHex(t *testing.T) {
	t.Parallel()
	type ids struct {
		RRPID set.RRPID
		XID   set.XID
		Chall set.Challenge
		Nonce set.Nonce
		LID   set.LocalID
	}
	want := ids{series[set.RRPID](1), series[set.XID](2), series[set.Challenge](3), series[set.Nonce](4), set.LocalID{0xab, 0}}
	b, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	const text = `{"RRPID":"0102030405060708090a0b0c0d0e0f1011121314","XID":"02030405060708090a0b0c0d0e0f101112131415",` +
		`"Chall":"030405060708090a0b0c0d0e0f10111213141516","Nonce":"0405060708090a0b0c0d0e0f1011121314151617","LID":"ab00"}`
	if diff := cmp.Diff(text, string(b)); diff != "" {
		t.Errorf("JSON (-want +got):\n%s", diff)
	}
	var got ids
	if err := json.Unmarshal(b, &got); err != nil || !cmp.Equal(got, want) {
		t.Errorf("%v came back as %v, %v", want, got, err)
	}
	if got := fmt.Sprintf("%v %s", want.XID, want.LID); got != "02030405060708090a0b0c0d0e0f101112131415 ab00" {
		t.Errorf("printed as %s", got)
	}
	for _, bad := range []string{`{"XID":"02"}`, `{"XID":"zz030405060708090a0b0c0d0e0f101112131415"}`, `{"LID":""}`, `{"LID":"abc"}`,
		`{"LID":"000102030405060708090a0b0c0d0e0f1011121314"}`} {
		if err := json.Unmarshal([]byte(bad), &got); err == nil {
			t.Errorf("%s accepted", bad)
		}
	}
	if !cmp.Equal(got, want) {
		t.Error("a refused text changed the value")
	}
}

func TestBrandMatches(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		a, b set.BrandID
		want bool
	}{
		{"Visa", "VISA", true},
		{"Visa:Gold", "visa", true},
		{"Visa:Gold", "VISA:Gold", true},
		{"Visa:Gold", "Visa:gold", false},
		{"Visa", "MasterCard", false},
		{"Visa:Gold", "Visas:Gold", false},
	} {
		if c.a.Matches(c.b) != c.want || c.b.Matches(c.a) != c.want {
			t.Errorf("%q and %q match: %v, want %v", c.a, c.b, !c.want, c.want)
		}
	}
}

func TestExtensions(t *testing.T) {
	t.Parallel()
	a, b := asn1.ObjectIdentifier{2, 23, 42, 1, 1}, asn1.ObjectIdentifier{2, 23, 42, 1, 3}
	exts := set.MsgExtensions{{ID: a, Value: der.Raw{5, 0}}, {ID: b, Critical: true, Value: der.Raw{1, 1, 0}}}
	if id, ok := exts.Unknown(); !ok || !id.Equal(b) {
		t.Errorf("unknown critical extension: %v, %v, want %v", id, ok, b)
	}
	if id, ok := exts.Unknown(b); ok {
		t.Errorf("%v reported though known", id)
	}
	if id, ok := set.MsgExtensions(nil).Unknown(); ok {
		t.Errorf("%v reported in no extensions", id)
	}
	if got := exts.Find(b); string(got) != "\x01\x01\x00" {
		t.Errorf("Find = %x", got)
	}
	if got := exts.Find(set.ExtPEThumb); got != nil {
		t.Errorf("Find of an absent extension = %x", got)
	}
}

func TestOIDName(t *testing.T) {
	t.Parallel()
	for want, id := range map[string]asn1.ObjectIdentifier{
		"PANData": set.ContentPANData, "PI-TBS": set.ContentPITBS, "Me-AqCInitResTBS": set.ContentMeAqCInitResTBS,
		"BCIDistributionTBS": set.ContentBCIDistributionTBS, "passPhrase": set.FieldPassPhrase,
		"peThumb": set.ExtPEThumb, "walletBundle": set.ContentWalletBundle, "certificateType": {2, 23, 42, 7, 1}, "set-rootKeyThumb": {2, 23, 42, 3, 0, 0},
		"setext-cv": {2, 23, 42, 1, 8},
	} {
		if got := set.OIDName(id); got != want {
			t.Errorf("%v is called %q, want %q", id, got, want)
		}
	}
	for _, id := range []asn1.ObjectIdentifier{nil, {2, 23, 42}, {2, 23, 42, 0, 83}, {2, 23, 42, 0}, {2, 23, 42, 1, 2}, {2, 5, 4, 3, 1}} {
		if got := set.OIDName(id); got != "" {
			t.Errorf("%v is called %q, want nothing", id, got)
		}
	}
}

func TestEnumNames(t *testing.T) {
	t.Parallel()
	for want, v := range map[string]fmt.Stringer{
		"cardInitialSig": set.CardInitialSig, "merInitialSig": set.MerInitialSig, "cardRenewalSig": set.CardRenewalSig,
		"pgwyRenewalBoth": set.PgwyRenewalBoth, "merRenewalSig": set.MerRenewalSig,
		"unspecifiedFailure": set.UnspecifiedFailure, "challengeMismatch": set.ChallengeMismatch, "signatureFailure": set.SignatureFailure,
		"thumbsMismatch": set.ThumbsMismatch, "messageTooBig": set.MessageTooBig,
		"unableToEncryptCertRes": set.UnableToEncryptCertRes, "creditPerformed": set.CreditPerformed,
		"declined": set.AuthDeclined, "cardMerchBrandMismatch": set.AuthCardMerchBrandMismatch,
		"standInIssuerRequest": set.RespStandInIssuerRequest, "proprietary": set.CardProprietary,
		"fullMatch": set.AVSFullMatch, "incrementalAuth": set.AuthCharIncrementalAuth, "transport": set.MarketSpecTransport,
		"preferredCustomer": set.SpecialPreferredCustomer, "unspecifiedReason": set.CardSuspectUnspecified,
		"commercialTravel": set.MerchCommercialTravel, "other": set.MerchOther, "level-3": set.PrestigeLevel3,
		"unknownLID": set.CapUnknownLID, "batchClosed": set.CapRevOrCredBatchClosed, "callCustomerService": set.AcqCardCallCustomerService,
		"closedbyAcquirer": set.ClosedByAcquirer, "otherMailOrder": set.PayOtherMailOrder,
		"stopOverAllowed": set.StopOverAllowed, "specialVehicle": set.AutoNoShowSpecialVehicle,
		"guaranteedLateArrival": set.HotelNoShowGuaranteedLateArrival, "unspecifiedRestriction": set.UnspecifiedRestriction,
		"unknown(2)": set.RequestType(2), "unknown(-1)": set.AuthCode(-1), "unknown(23)": set.ErrorCode(23),
	} {
		if got := v.String(); got != want {
			t.Errorf("%T %d is called %q, want %q", v, v, got, want)
		}
	}
}

func TestLogRefID(t *testing.T) {
	t.Parallel()
	for text, tag := range map[string]byte{"0042": 0x12, "A-42": 0x1a} {
		b, err := der.Marshal(set.NewLogRefID(text))
		if err != nil || b[0] != tag {
			t.Errorf("%s encodes as %x, %v, want tag %x", text, b, err, tag)
		}
		var got set.LogRefID
		if err := der.Unmarshal(b, &got); err != nil || got.String() != text {
			t.Errorf("%s came back as %v, %v", text, got, err)
		}
	}
}

func TestProtocolError(t *testing.T) {
	t.Parallel()
	cause := errors.New("of the signer")
	thumb := set.CertThumb{Thumbprint: set.Digest{0xab}}
	var err error = &set.ProtocolError{Code: set.ExpiredCertificate, Thumb: &thumb, Err: cause}
	want := "expiredCertificate, certificate with thumbprint ab" + fmt.Sprintf("%062d", 0) + ": of the signer"
	if err.Error() != want || !errors.Is(err, cause) {
		t.Errorf("error %q, want %q", err, want)
	}
	err = &set.ProtocolError{Code: set.UnrecognizedExtension, OID: set.ExtPEThumb}
	if want := "unrecognizedExtension, extension 2.23.42.9.99.1"; err.Error() != want {
		t.Errorf("error %q, want %q", err, want)
	}
}
