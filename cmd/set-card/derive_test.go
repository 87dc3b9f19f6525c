package main

import (
	"bytes"
	"crypto/aes"
	"encoding/hex"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/setkit/setkit/smartcard/piv"
)

// goCMAC is AES-CMAC in Go, NIST SP 800-38B section 6.2, for keys that no HSM would take.
func goCMAC(t *testing.T, key []byte) prf {
	t.Helper()
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	double := func(in []byte) []byte {
		out := make([]byte, len(in))
		for i := range in {
			out[i] = in[i] << 1
			if i+1 < len(in) {
				out[i] |= in[i+1] >> 7
			}
		}
		if in[0]&0x80 != 0 {
			out[len(out)-1] ^= 0x87
		}
		return out
	}
	return func(data []byte) ([]byte, error) {
		k := make([]byte, aes.BlockSize)
		block.Encrypt(k, k)
		k = double(k)
		data = bytes.Clone(data)
		if len(data) == 0 || len(data)%aes.BlockSize != 0 {
			k = double(k)
			data = append(data, 0x80)
			for len(data)%aes.BlockSize != 0 {
				data = append(data, 0)
			}
		}
		for i := range k {
			data[len(data)-aes.BlockSize+i] ^= k[i]
		}
		sum := make([]byte, aes.BlockSize)
		for ; len(data) > 0; data = data[aes.BlockSize:] {
			for i := range sum {
				sum[i] ^= data[i]
			}
			block.Encrypt(sum, sum)
		}
		return sum, nil
	}
}

func unhex(t *testing.T, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The vectors are of NIST's CAVP for SP 800-108, counter mode, counter of 32 bits before the fixed input.
func TestCounterKDF(t *testing.T) {
	t.Parallel()
	for _, v := range []struct{ name, key, fixed, want string }{
		{"CMAC-AES-256, count 0, one block", "d0b1b3b70b2393c48ca05159e7e28cbeadea93f28a7cdae964e5136070c45d5c",
			"dd2f151a3f173492a6fbbb602189d51ddf8ef79fc8e96b8fcbe6dabe73a35b48104f9dff2d63d48786d2b3af177091d646a9efae005bdfacb61a1214",
			"8c449fb474d1c1d4d2a33827103b656a"},
		{"CMAC-AES-128, count 10, two blocks", "695f1b1a16c949cea51cdf2554ec9d42",
			"4fce5942832a390aa1cbe8a0bf9d202cb799e986c9d6b51f45e4d597a6b57f06a4ebfec6467335d116b7f5f9c5b954062f661820f5db2a5bbb3e0625",
			"d34b601ec18c34dfa0f9e0b7523e218bdddb9befe8d08b6c0202d75ace0dba89"},
	} {
		want := unhex(t, v.want)
		got, err := counterKDF(goCMAC(t, unhex(t, v.key)), unhex(t, v.fixed), len(want))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: got %x, %v; want %s", v.name, got, err, v.want)
		}
	}
}

// openssl derives the same management keys.
func TestDerivedKeyIsOpenSSLs(t *testing.T) {
	t.Parallel()
	master := unhex(t, "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
	seen := map[string]string{}
	for _, a := range []piv.ManagementAlgorithm{piv.AES128, piv.AES192, piv.AES256} {
		for _, serial := range []string{"1", "12345678", "4294967295"} {
			got, err := deriveManagementKey(goCMAC(t, master), serial, a)
			if err != nil {
				t.Fatal(err)
			}
			out, err := exec.Command("openssl", "kdf", "-keylen", fmt.Sprint(a.KeyBytes()), "-binary", "-kdfopt", "mac:CMAC",
				"-kdfopt", "cipher:AES-256-CBC", "-kdfopt", "hexkey:"+hex.EncodeToString(master),
				"-kdfopt", "salt:"+derivationLabel, "-kdfopt", "info:"+serial, "KBKDF").Output()
			if err != nil {
				t.Fatalf("openssl kdf: %v", err)
			}
			if !bytes.Equal(got.Key, out) || got.Algorithm != a {
				t.Errorf("serial %s: got %x, openssl %x", serial, got.Key, out)
			}
			what := fmt.Sprintf("%d bytes for card %s", len(out), serial)
			if before, ok := seen[string(got.Key[:16])]; ok {
				t.Errorf("%s begin as %s", what, before)
			}
			seen[string(got.Key[:16])] = what
		}
	}
	for _, serial := range []string{"", "0", "4294967296", "00112233445566778899aabbccddeeff"} {
		if _, err := deriveManagementKey(goCMAC(t, master), serial, piv.AES256); err == nil || !strings.Contains(err.Error(), "serial number") {
			t.Errorf("serial %q: %v, want a refusal", serial, err)
		}
	}
}
