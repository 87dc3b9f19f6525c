package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/sethttp"
	"github.com/setkit/setkit/roles/wallet"
	"github.com/setkit/setkit/roles/wallet/web"
	"github.com/setkit/setkit/smartcard"
	"github.com/setkit/setkit/smartcard/piv"
)

// Every error of cards, readers, peers and the wallet has a topic of its own, also where it is wrapped as its
// package wraps it, and every topic has help.
func TestExplain(t *testing.T) {
	t.Parallel()
	help := web.Topics()
	for _, c := range []struct {
		err   error
		topic web.Topic
		tries int
	}{
		{smartcard.NewPINError("PIN", 0x63C2), web.TopicWrongPIN, 2},
		{smartcard.NewPINError("PIN", smartcard.StatusBlocked), web.TopicBlocked, 0},
		{smartcard.NewPINError("PUK", 0x63C2), web.TopicWrongPUK, 2},
		{smartcard.NewPINError("PUK", smartcard.StatusBlocked), web.TopicPUKBlocked, 0},
		{piv.ErrLastTry, web.TopicLastTry, 0},
		{piv.ErrPINFormat, web.TopicPINFormat, 0},
		{piv.ErrWrongKey, web.TopicKeyReplaced, 0},
		{piv.ErrOtherCard, web.TopicOtherCard, 0},
		{piv.ErrNoPIV, web.TopicNoPIV, 0},
		{piv.ErrUnsupported, web.TopicUnsupported, 0},
		{piv.ErrNoKeypad, web.TopicUnsupported, 0},
		{smartcard.ErrPadTimeout, web.TopicPadTimeout, 0},
		{smartcard.ErrPadCancelled, web.TopicPadCancelled, 0},
		{smartcard.ErrPadLength, web.TopicPadLength, 0},
		{smartcard.ErrNoService, web.TopicNoService, 0},
		{smartcard.ErrDenied, web.TopicDenied, 0},
		{smartcard.ErrNoReader, web.TopicNoReader, 0},
		{smartcard.ErrNoCard, web.TopicNoCard, 0},
		{errors.Join(smartcard.ErrNoCard, smartcard.ErrInUse), web.TopicInUse, 0},
		{&piv.InterruptedError{Slot: piv.SlotSignature, Err: smartcard.ErrCardRemoved}, web.TopicRemoved, 0},
		{&piv.InterruptedError{Slot: piv.SlotSignature, Err: smartcard.ErrReset}, web.TopicReset, 0},
		{smartcard.ErrMute, web.TopicMute, 0},
		{smartcard.ErrUnavailable, web.TopicUnavailable, 0},
		{smartcard.StatusNotFound, web.TopicNoKeys, 0},
		{smartcard.StatusConditions, web.TopicStatus, 0},
		{lostSignature{&piv.InterruptedError{KeyUsed: true, Err: smartcard.ErrCardRemoved}}, web.TopicSignatureLost, 0},
		{wallet.ErrKeyReplaced, web.TopicKeyReplaced, 0},
		{wallet.ErrVault, web.TopicVault, 0},
		{wallet.ErrNoCard, web.TopicNotEnrolled, 0},
		{wallet.ErrOrderOpen, web.TopicOrderOpen, 0},
		{wallet.ErrNoBundle, web.TopicNoBank, 0},
		{&sethttp.UnreachableError{URL: "http://shop.example", Err: errors.New("refused")}, web.TopicPeerAway, 0},
		{&sethttp.UnreachableError{URL: "http://shop.example", Err: errLocalPeer}, web.TopicLocal, 0},
		{&set.ProtocolError{Code: set.ExpiredCertificate}, web.TopicCertificate, 0},
		{&set.ProtocolError{Code: set.SignatureFailure}, web.TopicCertificate, 0},
		{&set.ProtocolError{Code: set.ChallengeMismatch}, web.TopicProtocol, 0},
		{&set.PeerError{Code: set.DecodingFailure}, web.TopicPeerRefused, 0},
		{&set.CertStatusError{Code: set.RejectedByIssuer}, web.TopicCARefused, 0},
		{&set.CertStatusError{Code: set.RequestPended}, web.TopicCAPending, 0},
		{wallet.ErrNothingPending, web.TopicNoRequest, 0},
		{wallet.ErrBundleForm, web.TopicBundleForm, 0},
		{errNoBundle, web.TopicBundleForm, 0},
		{errRedirect, web.TopicBundleForm, 0},
		{wallet.ErrBundleTime, web.TopicBundleTime, 0},
		{wallet.ErrBundleSigner, web.TopicBundleSigner, 0},
		{wallet.ErrBundleOlder, web.TopicBundleOlder, 0},
		{&set.ReferralError{Reason: "another bank"}, web.TopicReferral, 0},
		{context.Canceled, web.TopicOther, 0},
	} {
		got := explain(fmt.Errorf("while paying: %w", c.err))
		if got.Topic != c.topic || got.Tries != c.tries || got.Detail == "" {
			t.Errorf("%v: %+v, want %s", c.err, got, c.topic)
		}
		if !slices.Contains(help, got.Topic) {
			t.Errorf("%s has no help", got.Topic)
		}
	}
}
