package main

import (
	"errors"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/sethttp"
	"github.com/setkit/setkit/roles/wallet"
	"github.com/setkit/setkit/roles/wallet/web"
	"github.com/setkit/setkit/smartcard"
	"github.com/setkit/setkit/smartcard/piv"
)

// topics has what the window says to an error, the most telling first: an error often wraps others.
var topics = []struct {
	err   error
	topic web.Topic
}{
	{wallet.ErrSignatureLost, web.TopicSignatureLost},
	{wallet.ErrKeyReplaced, web.TopicKeyReplaced},
	{wallet.ErrVault, web.TopicVault},
	{wallet.ErrNoCard, web.TopicNotEnrolled},
	{wallet.ErrOrderOpen, web.TopicOrderOpen},
	{wallet.ErrNoBundle, web.TopicNoBank},
	{wallet.ErrNothingPending, web.TopicNoRequest},
	{wallet.ErrBundleForm, web.TopicBundleForm},
	{errNoBundle, web.TopicBundleForm},
	{errRedirect, web.TopicBundleForm},
	{wallet.ErrBundleTime, web.TopicBundleTime},
	{wallet.ErrBundleSigner, web.TopicBundleSigner},
	{wallet.ErrBundleOlder, web.TopicBundleOlder},
	{errLocalPeer, web.TopicLocal},
	{piv.ErrLastTry, web.TopicLastTry},
	{piv.ErrPINFormat, web.TopicPINFormat},
	{piv.ErrWrongKey, web.TopicKeyReplaced},
	{piv.ErrOtherCard, web.TopicOtherCard},
	{piv.ErrNoPIV, web.TopicNoPIV},
	{piv.ErrUnsupported, web.TopicUnsupported},
	{piv.ErrNoKeypad, web.TopicUnsupported},
	{smartcard.ErrPadTimeout, web.TopicPadTimeout},
	{smartcard.ErrPadCancelled, web.TopicPadCancelled},
	{smartcard.ErrPadLength, web.TopicPadLength},
	{smartcard.ErrPadMismatch, web.TopicPadLength},
	{smartcard.ErrNoService, web.TopicNoService},
	{smartcard.ErrDenied, web.TopicDenied},
	{smartcard.ErrInUse, web.TopicInUse},
	{smartcard.ErrMute, web.TopicMute},
	{smartcard.ErrReset, web.TopicReset},
	{smartcard.ErrCardRemoved, web.TopicRemoved},
	{smartcard.ErrNoReader, web.TopicNoReader},
	{smartcard.ErrNoCard, web.TopicNoCard},
	{smartcard.ErrUnavailable, web.TopicUnavailable},
	{smartcard.StatusNotFound, web.TopicNoKeys},
}

// explain says what an error means to the person before the window.
func explain(err error) web.Problem {
	p := web.Problem{Topic: topicOf(err), Detail: err.Error()}
	refused, ok := errors.AsType[*smartcard.PINError](err)
	if !ok {
		return p
	}
	p.Tries = refused.TriesLeft
	puk, blocked := refused.Reference == "PUK", refused.TriesLeft == 0
	switch {
	case puk && blocked:
		p.Topic = web.TopicPUKBlocked
	case puk:
		p.Topic = web.TopicWrongPUK
	case blocked:
		p.Topic = web.TopicBlocked
	default:
		p.Topic = web.TopicWrongPIN
	}
	return p
}

func topicOf(err error) web.Topic {
	for _, t := range topics {
		if errors.Is(err, t.err) {
			return t.topic
		}
	}
	var (
		away     *sethttp.UnreachableError
		referral *set.ReferralError
		refused  *set.CertStatusError
		peer     *set.PeerError
		protocol *set.ProtocolError
		status   smartcard.Status
	)
	switch {
	case errors.As(err, &away):
		return web.TopicPeerAway
	case errors.As(err, &referral):
		return web.TopicReferral
	case errors.As(err, &refused) && refused.Pending():
		return web.TopicCAPending
	case errors.As(err, &refused):
		return web.TopicCARefused
	case errors.As(err, &peer):
		return web.TopicPeerRefused
	case errors.As(err, &protocol):
		switch protocol.Code {
		case set.InvalidCertificate, set.ExpiredCertificate, set.RevokedCertificate, set.MissingCertificate, set.SignatureFailure:
			return web.TopicCertificate
		}
		return web.TopicProtocol
	case errors.As(err, &status):
		return web.TopicStatus
	}
	return web.TopicOther
}
