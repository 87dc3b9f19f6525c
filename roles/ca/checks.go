package ca

import (
	"context"
	"crypto"
	"crypto/hmac"
	"crypto/subtle"
	"errors"
	"fmt"
	"time"

	"github.com/setkit/setkit/roles/finnet"
	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/pki"
)

// This file is what a CA checks (SET §12). Before a message comes here, package set has made the checks that
// need no record of earlier messages, each with its Error:
//
//	size                                            messageTooBig
//	strict DER, whole and nothing after it          decodingFailure
//	version                                         versionTooOld, versionTooNew
//	date window                                     messageTooOld, messageTooNew
//	critical extensions                             unrecognizedExtension
//	served here: message, brand, kind of requester  messageNotSupported
//	header and message agree                        wrapperMsgMismatch
//	encrypted for this CA, digest of PANOnly        decodingFailure, signatureFailure
//
// or, when it is a CertReq, its CertRes:
//
//	parts fit RequestType; a renewal names what it renews     regFormAnswerMalformed
//	back key usable                                           unableToEncryptCertRes
//	keys strong enough                                        rejectedByCA
//	signed by the key to be certified (proof of possession),
//	and by the certificate that the requester has: valid,
//	of this brand, not in the CRL that the BCI names          sigValidationFail
//
// A repeated request gets its answer again, and one with the same RRPID and other octets unspecifiedFailure
// (once, in ca.go). CertInqReq is signed by the key of the request that it is about, or signatureFailure
// (inquiry.go).

// candidate is a CertReq on its way through the checks. They fill in what they find.
type candidate struct {
	s *CA
	r *request
	a *authority
	o *set.OpenedCertReq
	e *enrolment

	answers []set.FieldText
	renewed *certified // by a renewal
	program *CardProgram
	cardEnd time.Time
	who     *registrant
}

// admission is what makes a CertReq one that belongs to a registration. What fails is answered by an Error,
// and changes nothing.
var admission = []struct {
	rule  string
	code  set.ErrorCode
	holds func(*candidate) error
}{
	{"chall-CA is the one that came with the form", set.ChallengeMismatch, (*candidate).fresh},
	{"the form was for the same RequestType", set.UnspecifiedFailure, (*candidate).sameType},
}

// check is one that is answered by a CertRes, and ends the registration.
type check struct {
	rule string
	code set.CertStatusCode
	// holds gives nil; unmet if the rule is not met; any other error when that cannot be told now.
	holds func(*candidate, context.Context) error
}

// cardholderChecks are those of the cardholder CA, in this order (SET §7.2).
var cardholderChecks = []check{
	{"the answers are to this form and complete", set.RegFormAnswerMalformed, (*candidate).form},
	{"the card is the one of RegFormReq", set.RejectedByCA, (*candidate).sameCard},
	{"the card's bank is served", set.InvalidBIN, (*candidate).knownBIN},
	{"the card has not expired", set.RejectedByCA, (*candidate).cardValid},
	{"a renewal is of a certificate of this card, not revoked", set.RejectedByCA, (*candidate).renewsCard},
	{"no key was certified before", set.RejectedByCA, (*candidate).keysNew},
	{"the issuer knows card, name and code", set.RejectedByIssuer, (*candidate).issuerApproves},
}

// entityChecks are those of merchant CA and payment CA, in this order (SET §7.3).
var entityChecks = []check{
	{"the acquirer has registered who asks, and the form was for it", set.RejectedByAcquirer, (*candidate).registered},
	{"the answers are to this form and complete", set.RegFormAnswerMalformed, (*candidate).form},
	{"the registration code is the acquirer's and good", set.RejectedByAcquirer, (*candidate).codeGood},
	{"who signs with a certificate is who asks, not revoked", set.SigValidationFail, (*candidate).sameSigner},
	{"a renewal is of a certificate of who asks, not revoked", set.RejectedByCA, (*candidate).renewsEntity},
	{"signature and key-exchange key differ", set.RejectedByCA, (*candidate).keysDiffer},
	{"no key was certified before", set.RejectedByCA, (*candidate).keysNew},
}

// unmet tells that a rule is not met. The requester sees the text.
func unmet(format string, args ...any) error {
	return &set.CertStatusError{Message: fmt.Sprintf(format, args...)}
}

// admit makes the checks of admission.
func (c *candidate) admit() error {
	for _, k := range admission {
		if err := k.holds(c); err != nil {
			return &set.ProtocolError{Code: k.code, Err: err}
		}
	}
	return nil
}

// pass makes the checks of a list. A rule that is not met is a *set.CertStatusError.
func (c *candidate) pass(ctx context.Context, checks []check) error {
	for _, k := range checks {
		err := k.holds(c, ctx)
		var refusal *set.CertStatusError
		if errors.As(err, &refusal) {
			return &set.CertStatusError{Code: k.code, Message: refusal.Message, FailedItems: refusal.FailedItems}
		}
		if err != nil {
			return fmt.Errorf("whether %s: %w", k.rule, err)
		}
	}
	return nil
}

func (c *candidate) fresh() error {
	if given := c.o.Data.ChallCA; given == nil || subtle.ConstantTimeCompare(given[:], c.e.challCA[:]) != 1 {
		return errors.New("chall-CA is missing or another")
	}
	return nil
}

func (c *candidate) sameType() error {
	if c.o.Data.RequestType != c.e.typ {
		return fmt.Errorf("CertReq for %v after a form for %v", c.o.Data.RequestType, c.e.typ)
	}
	return nil
}

func (c *candidate) form(context.Context) (err error) {
	c.answers, err = c.o.Answers(c.a.formFor(c.o.Data.RequestType).RegTemplate)
	return err
}

func (c *candidate) sameCard(context.Context) error {
	mac, err := c.s.panMAC(c.e.lidCA, c.o.Account.PANData0.PAN)
	if err != nil {
		return err
	}
	if !hmac.Equal(mac, c.e.panMAC) {
		return unmet("the form was for another card")
	}
	return nil
}

func (c *candidate) knownBIN(context.Context) error {
	if c.program = c.s.Cardholder.program(c.o.Account.PANData0.PAN.BIN()); c.program == nil {
		return unmet("cards of this bank cannot be registered here")
	}
	return nil
}

func (c *candidate) cardValid(context.Context) (err error) {
	if c.cardEnd, err = c.o.Account.PANData0.CardExpiry.End(); err != nil || !c.cardEnd.After(c.r.now) {
		return unmet("the card has expired, or its expiry is no month")
	}
	return nil
}

// renewsCard finds the certificate to renew by its thumbprint. That its key has signed is known already;
// what is kept of its card tells whether it is the same.
func (c *candidate) renewsCard(ctx context.Context) error {
	if !c.o.Renewal() {
		return nil
	}
	if err := c.findRenewed(ctx); err != nil {
		return err
	}
	mac, err := c.s.panMAC(c.renewed.lidCA, c.o.Account.PANData0.PAN)
	if err != nil {
		return err
	}
	if !hmac.Equal(mac, c.renewed.panMAC) {
		return unmet("the certificate to renew is of another card")
	}
	return nil
}

func (c *candidate) findRenewed(ctx context.Context) (err error) {
	if c.renewed, err = findCertified(ctx, c.s.DB, c.a.name, c.o.Data.EEThumb.Thumbprint); err != nil {
		return err
	}
	switch {
	case c.renewed == nil:
		return unmet("this CA has not issued the certificate to renew")
	case c.renewed.revoked:
		return unmet("the certificate to renew is revoked: register anew")
	}
	return nil
}

func (c *candidate) keysNew(ctx context.Context) error {
	return keyUsed(ctx, c.s.DB, c.e.ca, c.o.SignKey, c.o.ExchangeKey)
}

func (c *candidate) issuerApproves(ctx context.Context) error {
	account := c.o.Account.PANData0
	secret := []byte(c.answers[fieldSecret])
	defer clear(secret)
	code, err := c.s.Issuer.Verify(ctx, &finnet.AccountCheck{
		Trace: finnet.NewTrace(c.s.Cardholder.Network, c.r.now), PAN: account.PAN, Expiry: account.CardExpiry,
		Holder: string(c.answers[fieldHolder]), Secret: secret,
	})
	switch {
	case errors.Is(err, finnet.ErrNoReply), errors.Is(err, finnet.ErrUnavailable), err == nil && code == finnet.IssuerUnavailable:
		return errors.Join(err, ctx.Err(), errIssuerAway)
	case err != nil: // nothing was sent, because it does not fit the network
		return unmet("the bank cannot be asked with these answers")
	case code != finnet.Approved:
		return unmet("the bank does not know this card under this name and code")
	}
	return nil
}

var errIssuerAway = errors.New("no answer from the issuer")

func (c *candidate) registered(context.Context) error {
	c.who = c.s.registrant(c.o.Data.IDData)
	if c.who != nil && c.who.name != c.e.registrant {
		c.who = nil
	}
	if c.who == nil {
		return unmet("no acquirer has registered this party, or the form was for another")
	}
	return nil
}

// codeGood does not ask for a code in renewals: the certificate that is renewed vouches for who asks.
func (c *candidate) codeGood(ctx context.Context) error {
	if c.o.Renewal() {
		return nil
	}
	return c.s.checkCode(ctx, c.who, c.answers[fieldCode])
}

func (c *candidate) sameSigner(ctx context.Context) error {
	if c.o.Signer == nil {
		return nil
	}
	if c.o.Signer.Subject != c.who.names {
		return unmet("the request is signed by another party, or one that had another name")
	}
	found, err := findCertified(ctx, c.s.DB, c.a.name, c.o.Signer.Thumbprint())
	if err != nil {
		return err
	}
	if found != nil && found.revoked {
		return unmet("the certificate that signs the request is revoked")
	}
	return nil
}

func (c *candidate) renewsEntity(ctx context.Context) error {
	if !c.o.Renewal() {
		return nil
	}
	if err := c.findRenewed(ctx); err != nil {
		return err
	}
	use := pki.Signature
	if c.o.SignKey == nil {
		use = pki.KeyExchange
	}
	if c.renewed.registrant != c.who.name || c.renewed.cert.Subject != c.who.names || c.renewed.cert.Use != use {
		return unmet("the certificate to renew is of another party or use, or has another name")
	}
	return nil
}

func (c *candidate) keysDiffer(context.Context) error {
	if sign, ok := c.o.SignKey.(interface{ Equal(crypto.PublicKey) bool }); ok && sign.Equal(c.o.ExchangeKey) {
		return unmet("signature and key-exchange key are the same")
	}
	return nil
}
