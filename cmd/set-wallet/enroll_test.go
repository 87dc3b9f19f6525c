package main

import (
	"encoding/json"
	"strconv"
	"strings"
	"testing"

	"github.com/setkit/setkit/roles/set/settest"
	"github.com/setkit/setkit/smartcard/cardtest"
	"github.com/setkit/setkit/smartcard/piv"
)

// A request that waits is asked about later; and the old smart card confirms a new one.
func TestEnrollLater(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.ca.Pend(true)
	again := []string{"enroll", "--dir", s.wallet(), "--continue", "--reader", s.card.Name, "--pin-source", "file:" + s.file("pin")}
	_, stderr := s.run(1, "", again...)
	if !strings.Contains(stderr, "leave --continue out") {
		t.Errorf("nothing waits: %s", stderr)
	}
	first := []string{
		"enroll", "--dir", s.wallet(), "--ca", s.ca.URL, "--root", s.file("root.pem"), "--brand", settest.Brand, "--reader", s.card.Name,
		"--pan-source", "file:" + s.file("pan"), "--expiry-source", "file:" + s.file("expiry"), "--pin-source", "file:" + s.file("pin"),
		"--answers", s.file("answers.yaml"), "--accept-policy",
	}
	for _, args := range [][]string{first, again} {
		if _, stderr := s.run(1, "", args...); !strings.Contains(stderr, "your request is being looked at: run later: set-wallet enroll --continue") {
			t.Errorf("%v: %s", args[:2], stderr)
		}
	}
	s.ca.Pend(false)
	var e enrolled
	stdout, _ := s.run(0, "", append(again, "--json")...)
	if err := json.Unmarshal([]byte(stdout), &e); err != nil || e.Card != "**** 1111" || e.APDUs.Count == 0 || len(e.Messages) != 2 {
		t.Errorf("enrolled %s, %v", stdout, err)
	}
	if stdout, _ := s.run(0, "", "refresh", "--dir", s.wallet()); !strings.Contains(stdout, "**** 1111: revocation lists are up to date") {
		t.Errorf("refresh: %s", stdout)
	}

	next := cardtest.New(t)
	makeKeys(t, next.Virtual, piv.ECDSAP256)
	stdout, _ = s.run(0, "", "enroll", "--dir", s.wallet(), "--renew-from", s.card.Name, "--old-pin-source", "file:"+s.file("pin"),
		"--reader", next.Name, "--pin-source", "file:"+s.file("pin"), "--answers", s.file("answers.yaml"), "--accept-policy", "--json")
	var r enrolled
	if err := json.Unmarshal([]byte(stdout), &r); err != nil || r.Card != e.Card || r.Certificate == e.Certificate {
		t.Errorf("renewed %s, %v", stdout, err)
	}
	if want := strconv.FormatUint(uint64(next.Virtual.Serial()), 10); r.Serial != want || s.ca.Renewed() == nil {
		t.Errorf("renewed for smart card %s, want %s, of %v", r.Serial, want, s.ca.Renewed())
	}
	for _, args := range [][]string{
		{"enroll", "--continue", "--ca", "x"}, {"enroll", "--continue", "--renew-from", "x"}, {"enroll", "--ca", "x", "--brand", "x"},
	} {
		s.run(2, "", args...)
	}
}
