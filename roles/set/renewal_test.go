package set_test

import (
	"errors"
	"testing"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/der"
	"github.com/setkit/setkit/roles/set/pki"
	"github.com/setkit/setkit/roles/set/settest"
)

// renew gives the gateway new keys.
func (tr *trade) renew(t *testing.T) {
	t.Helper()
	tr.gateway = tr.Renewed(t, tr.gateway)
}

// Two renewals in the middle of three instalments: the tokens of each key lead to the next instalment, and the
// captures and reversals of those before stay possible, whether the tokens have the card number or not.
func TestTokensOutliveRenewals(t *testing.T) {
	t.Parallel()
	for name, merchant := range map[string]func(*trade) *set.Endpoint{
		"without card numbers": func(tr *trade) *set.Endpoint { return tr.merchant },
		"with card numbers":    func(tr *trade) *set.Endpoint { return tr.TrustedMerchant(t, settest.MerchantID) },
	} {
		t.Run(name, func(t *testing.T) {
			tr := repeated(t, set.Instalments(3))
			tr.merchant = merchant(tr)
			var made []set.AuthorizationRequest
			var tokens [][]byte
			r := authorization()
			for i := range 3 {
				r.Amount = usd(1000, -2)
				a := tr.approve(t, r, set.Authorization{Opaque: []byte{byte(i)}})
				made, tokens = append(made, r), append(tokens, a.CapToken)
				tr.renew(t)
				tr.sale.GatewayCert = tr.gateway.ExchangeCert.X509.Raw
				r = set.AuthorizationRequest{RRPID: set.NewRRPID(), AuthToken: a.AuthToken}
			}
			if r.AuthToken != nil {
				t.Error("a token after the last instalment")
			}
			for i, r := range made {
				item := tr.opened(t, tr.capture(r.RRPID, r.Amount, tokens[i]))
				if item.Code != set.CapSuccess || item.Token.TokenOpaque[0] != byte(i) {
					t.Errorf("capture of instalment %d, by the token of a former key: %v", i+1, item.Code)
				}
			}
			if o := tr.reverse(t, tr.reversal(made[1], tokens[1], usd(0, 0))); o.Code != set.AuthRevApproved {
				t.Errorf("reversal of instalment 2: %v", o.Code)
			}
			tr.gateway.Former = tr.gateway.Former[:1]
			if item := tr.opened(t, tr.capture(made[0].RRPID, made[0].Amount, tokens[0])); item.Code != set.CapInvalidCapToken {
				t.Errorf("capture by the token of a key that the gateway has not kept: %v", item.Code)
			}
		})
	}
}

// A token says by which keys it was made, and the signature is to be of the same holder of them: another gateway
// can encrypt for a former key, and a former key does not make tokens of the present one.
func TestTokensOfOneGeneration(t *testing.T) {
	t.Parallel()
	tr := taken(t)
	id, _, foreign := tr.tokens(t)
	before := tr.gateway
	tr.renew(t)
	tr.sale.GatewayCert = tr.gateway.ExchangeCert.X509.Raw
	if item := tr.opened(t, tr.capture(id, price, foreign)); item.Code != set.CapInvalidCapToken {
		t.Errorf("another gateway's token for the former key: %v", item.Code)
	}
	mixed := *tr.gateway
	mixed.SignKey, mixed.SignCert = before.SignKey, before.SignCert
	now := tr.gateway
	tr.gateway = &mixed
	id, ours, _ := tr.tokens(t)
	r := authorization()
	r.Amount, r.Subsequent = usd(1, 0), true
	token := tr.approve(t, r, set.Authorization{}).AuthToken
	tr.gateway = now
	if item := tr.opened(t, tr.capture(id, price, ours)); item.Code != set.CapInvalidCapToken {
		t.Errorf("a token for the present key, signed with the former one: %v", item.Code)
	}
	next := tr.authorize(t, set.AuthorizationRequest{RRPID: set.NewRRPID(), Amount: usd(1, 0), AuthToken: token})
	if _, err := tr.acquire(next); code(err) != set.SignatureFailure {
		t.Errorf("one that stands for payment instructions: %v", err)
	}
}

// Whoever stole a gateway's keys can make tokens with them: once their certificates are revoked, those are worth
// nothing.
func TestTokensOfRevokedKeys(t *testing.T) {
	t.Parallel()
	for name, revoked := range map[string]func(*set.Endpoint) *pki.Certificate{
		"signature":    func(e *set.Endpoint) *pki.Certificate { return e.SignCert },
		"key exchange": func(e *set.Endpoint) *pki.Certificate { return e.ExchangeCert },
	} {
		t.Run(name, func(t *testing.T) {
			tr := repeated(t, set.Instalments(3))
			r := authorization()
			r.Amount = usd(1, 0)
			a := tr.approve(t, r, set.Authorization{})
			before := tr.gateway
			instructions := tr.authorize(t, authorization())
			tr.renew(t)
			tr.sale.GatewayCert = tr.gateway.ExchangeCert.X509.Raw
			next := tr.authorize(t, set.AuthorizationRequest{RRPID: set.NewRRPID(), Amount: usd(1, 0), AuthToken: a.AuthToken})
			must[*set.OpenedAuthReq](t)(tr.acquire(next))
			must[*set.OpenedAuthReq](t)(tr.acquire(instructions))
			tr.gateway.Verifier = tr.Revoke(t, 1, revoked(before))
			for what, req := range map[string][]byte{"token": next, "payment instructions": instructions} {
				if _, err := tr.acquire(req); code(err) != set.RevokedCertificate {
					t.Errorf("%s for keys that are revoked: %v", what, err)
				}
			}
			if item := tr.opened(t, tr.capture(r.RRPID, r.Amount, a.CapToken)); item.Code != set.CapInvalidCapToken {
				t.Errorf("capture by a token of keys that are revoked: %v", item.Code)
			}
		})
	}
}

// Payment instructions that the merchant holds when the gateway renews are opened, and must name the certificate
// that they are encrypted for (profile A8).
func TestInstructionsOutliveRenewal(t *testing.T) {
	t.Parallel()
	tr := taken(t)
	before := tr.gateway
	tr.renew(t)
	now := tr.gateway
	r := authorization()
	if a := tr.approve(t, r, set.Authorization{}); a.Header.AuthCode != set.AuthApproved {
		t.Errorf("authorization %+v", a.Header)
	}
	other := must[[]byte](t)(der.Marshal(now.ExchangeCert.CertThumb()))
	tr.gateway = before
	tr.signAnew(t, func(tbe *set.PIDualSignedTBE) { tbe.Value.Value.Extensions[0].Value = other })
	tr.gateway = now
	if got := tr.refused(t, authorization()); got != set.AuthPIAuthMismatch {
		t.Errorf("instructions for the former certificate that name the present one: %v", got)
	}
}

// An unsigned purchase from before the gateway wants certificates is not authorized any more, but what was is
// taken back.
func TestUnsignedAcrossRenewal(t *testing.T) {
	t.Parallel()
	tr := newTrade(t)
	tr.gateway = tr.OpenGateway(t, "G-0001")
	tr.card.Endpoint = tr.World.Endpoint(t)
	tr.initiate(t)
	if err := tr.take(tr.request(t)); err != nil {
		t.Fatal(err)
	}
	r := authorization()
	a := tr.approve(t, r, set.Authorization{})
	before := *tr.gateway
	tr.gateway = tr.Gateway(t, "G-0001")
	tr.gateway.Former = []*set.Endpoint{&before}
	if got := tr.refused(t, authorization()); got != set.AuthSignatureRequired {
		t.Errorf("authorization after the renewal: %v", got)
	}
	if o := tr.reverse(t, tr.reversal(r, a.CapToken, usd(0, 0))); o.Code != set.AuthRevApproved {
		t.Errorf("reversal after the renewal: %v", o.Code)
	}
}

// A merchant that renews while an answer is under way, or stored at the gateway to be sent again, can read it.
func TestAnswersOutliveRenewal(t *testing.T) {
	t.Parallel()
	for name, merchant := range map[string]func(*trade) *set.Endpoint{
		"without card numbers": func(tr *trade) *set.Endpoint { return tr.merchant },
		"with card numbers":    func(tr *trade) *set.Endpoint { return tr.TrustedMerchant(t, settest.MerchantID) },
	} {
		t.Run(name, func(t *testing.T) {
			tr := taken(t)
			tr.merchant = merchant(tr)
			r := authorization()
			o := must[*set.OpenedAuthReq](t)(tr.acquire(tr.authorize(t, r)))
			res := must[[]byte](t)(tr.gateway.AuthRes(tr.Now, o, set.Authorization{Code: set.AuthApproved, Amount: price}))
			renewed := tr.Renewed(t, tr.merchant)
			must[*set.Authorized](t)(tr.sale.OpenAuthRes(renewed, tr.Now, r, res))
			renewed.Former = nil
			var p *set.ProtocolError
			if _, err := tr.sale.OpenAuthRes(renewed, tr.Now, r, res); !errors.As(err, &p) || p.Code != set.DecodingFailure {
				t.Errorf("without the former key: %v", err)
			}
		})
	}
}
