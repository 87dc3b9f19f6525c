package gateway_test

import (
	"bytes"
	"testing"

	"github.com/setkit/setkit/roles/gateway"
	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/der"
	"github.com/setkit/setkit/roles/sqldb/sqldbtest"
)

// properties are those of SET §9 that a gateway shows by its records. The others stand beside the messages.
var properties = map[string]func(*testing.T){
	"PU-5":                       recordsHaveNoOrder,
	"W-PU1":                      unsignedIsTold,
	"W-PU2":                      onlyItsOwnMerchants,
	"W-PU5":                      paymentIsUsedOnce,
	"card numbers are encrypted": cardNumbersAreSealed,
}

func TestProperties(t *testing.T) {
	t.Parallel()
	for id, shown := range properties {
		t.Run(id, shown)
	}
}

// running is a gateway that runs.
func running(t *testing.T) *lab {
	t.Helper()
	l := newLab(t, sqldbtest.SQLite(t))
	l.start(t, nil)
	return l
}

// PU-5: what was ordered is in no record and no log of the gateway, and neither is the card or its secret.
func recordsHaveNoOrder(t *testing.T) {
	t.Parallel()
	l := running(t)
	o := l.order(t, l.merchant)
	o.authorize(t, set.AuthApproved)
	o.wantCapture(t, o.capture(price), set.CapSuccess)
	checkSecrecy(t, l)
}

// W-PU2: the cardholder's signature does not say which gateway is to be paid through, as far as the protocol goes.
// So a gateway serves its own acquirer's merchants alone, whatever genuine payment another one brings.
func onlyItsOwnMerchants(t *testing.T) {
	t.Parallel()
	l := newLab(t, sqldbtest.SQLite(t))
	l.acquirer = "499999"
	l.start(t, nil)
	l.wantError(t, l.order(t, l.merchant).authReq(t), set.InvalidCertificate)
	l.wantCounts(t, 0, 0, 0, 0)
}

// W-PU5: payment instructions are used once, whatever envelope they come in: a gateway that knew them by their
// octets would charge the card again for a copy that was encrypted anew.
func paymentIsUsedOnce(t *testing.T) {
	t.Parallel()
	l := running(t)
	o := l.order(t, l.merchant)
	o.authorize(t, set.AuthApproved)
	var pi set.PI
	if err := set.Unmarshal(o.sale.PI, &pi); err != nil {
		t.Fatal(err)
	}
	us := cms.Recipient{Key: l.endpoint.ExchangeKey, Certificate: l.endpoint.ExchangeCert.X509}
	plaintext, packed, err := us.Decrypt(pi.PIDualSigned.EXPIData, set.ContentPIDualSignedTBE, cms.WithPANData)
	if err != nil {
		t.Fatal(err)
	}
	var tbe set.PIDualSignedTBE
	if err := set.Unmarshal(plaintext, &tbe); err != nil {
		t.Fatal(err)
	}
	pi.PIDualSigned.EXPIData = must[cms.ContentInfo](t)(cms.Encrypt(l.endpoint.ExchangeCert.X509, set.ContentPIDualSignedTBE, tbe, cms.WithPANData, packed))
	again := must[[]byte](t)(der.Marshal(pi))
	if bytes.Equal(again, o.sale.PI) {
		t.Error("the envelope is the same")
	}
	o.sale.PI = again
	o.auth.RRPID = set.NewRRPID()
	o.authorize(t, set.AuthPIPreviouslyUsed)
	l.wantCounts(t, 1, 1, 0, 0)
}

// The card number that a gateway keeps, for what it will have to tell the issuer, is encrypted under its own key
// and bound to its record (SET §9.4).
func cardNumbersAreSealed(t *testing.T) {
	t.Parallel()
	l := running(t)
	l.order(t, l.merchant).authorize(t, set.AuthApproved)
	records := must[[]gateway.Transaction](t)(gateway.Transactions(t.Context(), l.db, l.sealer, 1))
	if len(records) != 1 || records[0].Card != l.card.Account.PAN.Masked() {
		t.Errorf("the records are %+v, want one of the card", records)
	}
	if _, err := gateway.Transactions(t.Context(), l.db, newSealer(t), 1); err == nil {
		t.Error("another key opens the account")
	}
	checkSecrecy(t, l)
}
