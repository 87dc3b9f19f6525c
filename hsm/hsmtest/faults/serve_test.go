package faults_test

import (
	"testing"

	"github.com/miekg/pkcs11"

	"github.com/setkit/setkit/hsm/hsmtest/faults"
)

func TestServer(t *testing.T) {
	t.Parallel()
	a, b := faults.Serve(t), faults.Serve(t)
	ca, cb := load(t, a.Token), load(t, b.Token)
	want(t, "sign", ca.sign(), pkcs11.CKR_OK)
	if err := a.Kill(); err != nil {
		t.Fatal(err)
	}
	want(t, "sign without a server", ca.sign(), pkcs11.CKR_DEVICE_ERROR)
	want(t, "sign at the other server", cb.sign(), pkcs11.CKR_OK)
	if err := a.Start(); err != nil {
		t.Fatal(err)
	}
	if err := a.Start(); err == nil {
		t.Error("starting a server that runs: no error")
	}
	_ = ca.Finalize()
	want(t, "initialise", ca.Initialize(), pkcs11.CKR_OK)
	want(t, "sign with the old session", ca.sign(), pkcs11.CKR_SESSION_HANDLE_INVALID)
	want(t, "open", ca.open(), pkcs11.CKR_OK)
	want(t, "sign", ca.sign(), pkcs11.CKR_OK)
	a.Fail(faults.SignInit, pkcs11.CKR_FUNCTION_FAILED, 1)
	want(t, "a fault of the client's side", ca.sign(), pkcs11.CKR_FUNCTION_FAILED)
	if a.Direct.Calls(faults.Login) != 0 || a.Logins(pkcs11.CKR_OK) != 2 {
		t.Errorf("%d logins without and %d with a server, want 0 and 2", a.Direct.Calls(faults.Login), a.Logins(pkcs11.CKR_OK))
	}
}
