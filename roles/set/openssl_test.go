package set_test

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/der"
	"github.com/setkit/setkit/roles/set/pki"
)

func openssl(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("openssl", args...).CombinedOutput(); err != nil {
		t.Errorf("openssl %v: %v\n%s", args, err, out)
	}
}

func file(t *testing.T, name string, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func pemOf(certs ...*pki.Certificate) []byte {
	var out []byte
	for _, c := range certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.X509.Raw})...)
	}
	return out
}

// Anybody's tools check what the parties say: the signature of PInitRes, the dual signature of PReq, and
// an authorization request opened with the gateway's key.
func TestOpenSSLReadsAPurchase(t *testing.T) {
	tr := newTrade(t)
	tr.initiate(t)
	init := must[*set.MessageWrapper](t)(set.Decode(tr.wire[1]))
	root := file(t, "root.pem", pemOf(tr.Root))
	raw := must[[]byte](t)(der.Marshal(cms.ContentInfo(*init.Message.PInitRes)))
	openssl(t, "cms", "-verify", "-inform", "DER", "-in", file(t, "pinitres.der", raw), "-CAfile", root,
		"-purpose", "any", "-ignore_critical", "-out", os.DevNull)

	preq := tr.request(t)
	dual := must[*set.MessageWrapper](t)(set.Decode(preq)).Message.PReq.PReqDualSigned
	tbs := set.PITBS{HPIData: dual.OIDualSigned.DD, HOIData: must[cms.DetachedDigest](t)(cms.DD(set.ContentOIData, dual.OIDualSigned.Value))}
	raw = must[[]byte](t)(der.Marshal(dual.PIDualSigned.PISignature))
	openssl(t, "cms", "-verify", "-inform", "DER", "-in", file(t, "pisignature.der", raw), "-binary",
		"-content", file(t, "pitbs.der", must[[]byte](t)(der.Marshal(tbs))), "-CAfile", root,
		"-purpose", "any", "-ignore_critical", "-out", os.DevNull)

	if err := tr.take(preq); err != nil {
		t.Fatal(err)
	}
	authReq := must[*set.MessageWrapper](t)(set.Decode(tr.authorize(t, set.AuthorizationRequest{RRPID: set.NewRRPID(), Amount: price})))
	key := must[[]byte](t)(x509.MarshalPKCS8PrivateKey(tr.gateway.ExchangeKey.(*rsa.PrivateKey)))
	out := file(t, "plaintext.der", nil)
	openssl(t, "cms", "-decrypt", "-inform", "DER", "-in", file(t, "authreq.der", must[[]byte](t)(der.Marshal(authReq.Message.AuthReq.Enc))),
		"-recip", file(t, "gateway.pem", pemOf(tr.gateway.ExchangeCert)),
		"-inkey", file(t, "key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})), "-out", out)
	plaintext := must[[]byte](t)(os.ReadFile(out))
	var signed cms.ContentInfo
	if err := der.Unmarshal(plaintext, &signed); err != nil {
		t.Fatalf("what openssl decrypted is no signed AuthReqTBS: %v", err)
	}
	content := file(t, "authreqtbs.der", nil)
	openssl(t, "cms", "-verify", "-inform", "DER", "-in", out, "-CAfile", root, "-purpose", "any", "-ignore_critical", "-out", content)
	var inner set.AuthReqTBS
	if err := set.Unmarshal(must[[]byte](t)(os.ReadFile(content)), &inner); err != nil {
		t.Errorf("what openssl verified is no AuthReqTBS: %v", err)
	}
	if bytes.Contains(plaintext, orderText) {
		t.Error("the gateway can read the order")
	}
}

func TestOpenSSLAcceptsEveryChain(t *testing.T) {
	tr := newTrade(t)
	root := file(t, "root.pem", pemOf(tr.Root))
	for name, e := range map[string]*set.Endpoint{
		"cardholder": tr.card.Endpoint, "merchant": tr.merchant, "gateway": tr.gateway,
		"cardholder CA": tr.CA(t, pki.CCA), "merchant CA": tr.CA(t, pki.MCA), "payment CA": tr.CA(t, pki.PCA),
	} {
		for _, leaf := range []*pki.Certificate{e.SignCert, e.ExchangeCert} {
			if leaf == nil && name == "cardholder" {
				continue // it has no key-exchange key
			}
			openssl(t, "verify", "-ignore_critical", "-CAfile", root, "-untrusted", file(t, "chain.pem", pemOf(e.Chain...)),
				file(t, "leaf.pem", pemOf(leaf)))
		}
	}
}
