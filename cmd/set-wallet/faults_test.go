package main

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/setkit/setkit/cmd/internal/cli"
	"github.com/setkit/setkit/smartcard"
	"github.com/setkit/setkit/smartcard/cardtest"
	"github.com/setkit/setkit/smartcard/iso7816"
	"github.com/setkit/setkit/smartcard/pcsc"
	"github.com/setkit/setkit/smartcard/piv"
	"github.com/setkit/setkit/smartcard/virtual"
)

// A fault is what goes wrong with one APDU.
type fault struct {
	name string

	// strike is what the card does instead of answering.
	strike func(ctx context.Context, f *faultyCard, apdu []byte) ([]byte, error)

	// mend puts things right afterwards, as a person or a system does.
	mend func(s *stage)

	// after makes the next one possible.
	after func(s *stage)

	// status is the status word that was given; it has to be named.
	status smartcard.Status

	// heals says that the purchase goes on, unless the signature was lost.
	heals bool
}

var errPulled = errors.New("the card was pulled")

// Groups of faults.
const (
	slowGroup    = "slow"
	pulledGroup  = "pulled"
	resetGroup   = "reset"
	cutGroup     = "cut"
	refusedGroup = "refused"
	killedGroup  = "pcscd killed"
	goneGroup    = "reader gone"
)

// groups has every group, and among how many processes it is divided.
var groups = map[string]int{slowGroup: 1, pulledGroup: 2, resetGroup: 1, cutGroup: 3, refusedGroup: 1, killedGroup: 1, goneGroup: 1}

func faults(group string) []fault {
	switch group {
	case slowGroup:
		return []fault{{name: "answer after 5 s", heals: true, strike: func(ctx context.Context, f *faultyCard, apdu []byte) ([]byte, error) {
			answer, err := f.pass(ctx, apdu)
			select {
			case <-time.After(5 * time.Second):
			case <-ctx.Done():
			}
			return answer, err
		}}}
	case pulledGroup:
		replug := func(s *stage) { s.unplug(); s.plug() }
		return []fault{
			{name: "removed before", heals: true, mend: replug, strike: func(context.Context, *faultyCard, []byte) ([]byte, error) {
				return nil, errPulled
			}},
			{name: "removed after", heals: true, mend: replug, strike: func(ctx context.Context, f *faultyCard, apdu []byte) ([]byte, error) {
				_, _ = f.pass(ctx, apdu)
				return nil, errPulled
			}},
		}
	case resetGroup:
		return resets()
	case cutGroup:
		return cuts()
	case refusedGroup:
		return refusals()
	case killedGroup:
		return []fault{{name: group, heals: true, mend: func(s *stage) { s.restart(readersBefore) }, strike: func(ctx context.Context, f *faultyCard, apdu []byte) ([]byte, error) {
			_, _ = f.pass(ctx, apdu)
			return nil, errors.Join(errPulled, f.service.kill())
		}}}
	case goneGroup:
		return []fault{{name: group, heals: true, mend: func(s *stage) { s.restart(readersAfter) }, strike: func(_ context.Context, f *faultyCard, _ []byte) ([]byte, error) {
			return nil, errors.Join(errPulled, f.service.kill())
		}, after: func(s *stage) { s.restart(readersBefore) }}}
	}
	return nil
}

func resets() []fault {
	return []fault{
		{name: "reset by another program", heals: true, mend: func(s *stage) { s.reset() }, strike: func(ctx context.Context, f *faultyCard, apdu []byte) ([]byte, error) {
			return f.pass(ctx, apdu)
		}},
		{name: "reset unnoticed", strike: func(ctx context.Context, f *faultyCard, apdu []byte) ([]byte, error) {
			f.Reset()
			return f.pass(ctx, apdu)
		}},
	}
}

func cuts() []fault {
	return []fault{
		{name: "answer of one byte", heals: true, strike: func(ctx context.Context, f *faultyCard, apdu []byte) ([]byte, error) {
			answer, err := f.pass(ctx, apdu)
			return answer[:1], err
		}},
		{name: "half an answer", strike: func(ctx context.Context, f *faultyCard, apdu []byte) ([]byte, error) {
			answer, err := f.pass(ctx, apdu)
			return answer[:(len(answer)+1)/2], err
		}},
	}
}

func refusals() []fault {
	var all []fault
	for _, sw := range []smartcard.Status{0x6982, 0x6983, 0x63C2, 0x6A80, 0x6A82, 0x6F00} {
		all = append(all, fault{name: fmt.Sprintf("%04X", uint16(sw)), status: sw, strike: func(context.Context, *faultyCard, []byte) ([]byte, error) {
			return []byte{byte(sw >> 8), byte(sw)}, nil
		}})
	}
	return all
}

// faultyCard is a card that something happens to.
type faultyCard struct {
	*virtual.Card
	atr     []byte // nil: the card's own
	service *service

	mu     sync.Mutex
	n      int // APDUs until the fault; negative: none
	fault  fault
	struck chan struck
	use    byte // the slot of the last GENERAL AUTHENTICATE

	apdus, signatures int
}

// struck is the APDU that went wrong.
type struck struct {
	header [4]byte
	slot   byte // whose answer it collects
}

// loses says if what is lost with the APDU may be a signature.
func (s struck) loses() bool {
	return s.slot == byte(piv.SlotSignature) && s.header[0] == 0 && (s.header[1] == 0x87 || s.header[1] == 0xC0)
}

func (s struck) withdraws() bool { return s.header == [4]byte{0x00, 0x20, 0xFF, 0x80} }

func (f *faultyCard) ATR() []byte {
	if f.atr != nil {
		return f.atr
	}
	return f.Card.ATR()
}

func (f *faultyCard) Transmit(ctx context.Context, apdu []byte) ([]byte, error) {
	f.mu.Lock()
	f.apdus++
	if apdu[1] == 0x87 {
		f.use = apdu[3]
	} else if apdu[1] != 0xC0 {
		f.use = 0
	}
	now := f.n == 0
	if f.n >= 0 {
		f.n--
	}
	fault, at := f.fault, struck{[4]byte(apdu), f.use}
	f.mu.Unlock()
	if !now {
		return f.pass(ctx, apdu)
	}
	f.struck <- at
	return fault.strike(ctx, f, apdu)
}

// pass hands an APDU to the card, and counts the signatures that it makes.
func (f *faultyCard) pass(ctx context.Context, apdu []byte) ([]byte, error) {
	header := [4]byte(apdu)
	answer, err := f.Card.Transmit(ctx, apdu)
	last := header[0]&iso7816.ClassChaining == 0
	if n := len(answer); last && header[1] == 0x87 && header[3] == byte(piv.SlotSignature) && n >= 2 && (answer[n-2] == 0x90 || answer[n-2] == 0x61) {
		f.mu.Lock()
		f.signatures++
		f.mu.Unlock()
	}
	return answer, err
}

// arm lets the n-th APDU from now on go wrong; a negative n none.
func (f *faultyCard) arm(n int, fault fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.n, f.fault, f.struck = n, fault, make(chan struck, 1)
	f.apdus, f.signatures = 0, 0
}

func (f *faultyCard) count() (apdus, signatures int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.apdus, f.signatures
}

// plainATR is of a card that takes short APDUs only.
var plainATR = []byte{0x3B, 0xD5, 0x18, 0xFF, 0x81, 0x91, 0xFE, 0x1F, 0xC3, 0x80, 0x73, 0xC8, 0x21, 0x10, 0x0A}

// A kind is what a purchase's APDUs depend on.
type kind struct {
	name      string
	algorithm piv.Algorithm
	atr       []byte
}

var kinds = []kind{{"P-256, extended length", piv.ECDSAP256, nil}, {"RSA-2048, short", piv.RSA2048, plainATR}}

// stage is a scene with a card that things happen to. It has a reader for itself.
type stage struct {
	*scene
	pcscd   *service
	faulty  *faultyCard
	seen    map[string]bool // XIDs
	plugged *virtual.Plugged
	place   int // of the reader
}

func newStage(t *testing.T, k kind, host *service, place int) *stage {
	t.Helper()
	s := &stage{pcscd: host, seen: make(map[string]bool), place: place}
	s.faulty = &faultyCard{Card: virtual.NewCard(), atr: k.atr, service: host}
	s.faulty.arm(-1, fault{})
	makeKeys(t, s.faulty.Card, k.algorithm)
	s.scene = newSceneWith(t, &cardtest.Card{Virtual: s.faulty.Card, Reader: &cardtest.Reader{}})
	s.plug()
	t.Cleanup(func() { s.plugged.Unplug() })
	s.enroll()
	return s
}

// plug puts the card into its reader, or into the last one that is left.
func (s *stage) plug() {
	s.t.Helper()
	readers := s.pcscd.host.Readers
	r := readers[min(s.place, len(readers)-1)]
	var err error
	if s.plugged, err = virtual.Plug(context.Background(), r.Addr, s.faulty); err != nil {
		s.t.Fatal(err)
	}
	s.card.Name = r.Name
	s.await(true)
}

func (s *stage) unplug() {
	s.t.Helper()
	s.plugged.Unplug()
	s.await(false)
}

// await waits until PC/SC has seen the card, or that it is gone.
func (s *stage) await(present bool) {
	s.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		readers, err := pcsc.Readers(s.t.Context())
		for _, r := range readers {
			if r.Name == s.card.Name && r.CardPresent == present {
				return
			}
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("PC/SC sees %v, %v", readers, err)
		}
	}
}

// reset resets the card as another program does, when it gets its turn.
func (s *stage) reset() {
	s.t.Helper()
	c, err := pcsc.Open(s.t.Context(), s.card.Name)
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.Close()
	if err := errors.Join(c.Begin(s.t.Context()), c.End(smartcard.Reset)); err != nil {
		s.t.Fatal(err)
	}
}

// restart ends pcscd, if it still runs, and starts one with so many readers.
func (s *stage) restart(readers int) {
	s.t.Helper()
	s.pcscd.stop()
	s.plugged.Unplug()
	s.pcscd.start(readers)
	s.plug()
}

// result is how a command ended.
type result struct {
	code           int
	stdout, stderr string
}

// attempt pays while the n-th APDU goes wrong. It returns false if there is none.
func (s *stage) attempt(n int, fault fault, pin string) (result, struck, bool) {
	s.faulty.arm(n, fault)
	done := make(chan result, 1)
	name := s.card.Name
	go func() {
		var out, errOut bytes.Buffer
		code := cli.Run(s.t.Context(), newApp(), append([]string{"set-wallet"}, s.pay(pin, "--yes", "--json", "--reader", name)...), strings.NewReader(""), &out, &errOut)
		done <- result{code, out.String(), errOut.String()}
	}()
	var at struck
	var r result
	hit := false
	select {
	case at = <-s.faulty.struck:
		hit = true
		if fault.mend != nil {
			fault.mend(s)
		}
		r = <-done
	case r = <-done:
	}
	s.output = append(s.output, r.stdout, r.stderr)
	return r, at, hit
}

// tries asks the card itself.
func (s *stage) tries() (n int) {
	s.t.Helper()
	err := piv.New(s.faulty.Card, piv.Options{}).Do(s.t.Context(), func(tx *piv.Tx) (err error) {
		n, err = tx.PINTries()
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

// news are the outcomes of the purchases that the wallet has not shown before.
func (s *stage) news() []string {
	s.t.Helper()
	var outcomes []string
	for _, xid := range s.newXIDs() {
		stdout, _ := s.run(0, "", "history", "show", "--dir", s.wallet(), "--json", xid)
		var r receipt
		if err := json.Unmarshal([]byte(stdout), &r); err != nil {
			s.t.Fatal(err)
		}
		outcomes = append(outcomes, r.Outcome)
	}
	return outcomes
}

func (s *stage) newXIDs() (xids []string) {
	s.t.Helper()
	db, err := sql.Open("sqlite", filepath.Join(s.wallet(), "wallet.db"))
	if err != nil {
		s.t.Fatal(err)
	}
	defer db.Close()
	rows, err := db.Query(`SELECT xid FROM purchase`)
	if err != nil {
		s.t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var xid string
		if err := rows.Scan(&xid); err != nil {
			s.t.Fatal(err)
		}
		if !s.seen[xid] {
			s.seen[xid] = true
			xids = append(xids, xid)
		}
	}
	if err := rows.Err(); err != nil {
		s.t.Fatal(err)
	}
	return xids
}

// pair tries one pair of APDU and fault with the right PIN: whatever happens, what
// the wallet says is true, and one payment arrives when it is asked once more.
func (s *stage) pair(n int, fault fault) {
	s.t.Helper()
	defer s.shop.NewOrder()
	if fault.after != nil {
		defer fault.after(s)
	}
	paid := len(s.shop.Payments())
	r, at, hit := s.attempt(n, fault, "pin")
	if !hit {
		s.t.Errorf("%s: there is no APDU %d", fault.name, n)
		return
	}
	failed := func(format string, args ...any) {
		s.t.Helper()
		s.t.Errorf("APDU %d (% X), %s: %s\nexit code %d\n%s%s", n, at.header, fault.name, fmt.Sprintf(format, args...), r.code, r.stdout, r.stderr)
	}
	_, signatures := s.faulty.count()
	sent, news := len(s.shop.Payments())-paid, fmt.Sprint(s.news())
	switch {
	case signatures > 1 || sent > 1:
		failed("%d signatures, %d payments", signatures, sent)
	case r.code == 0 && (signatures != 1 || sent != 1 || news != "[approved]"):
		failed("approved with %d signatures, %d payments; the history says %s", signatures, sent, news)
	case r.code != 0 && sent != 0:
		failed("failed, and paid")
	case r.code != 0 && (signatures == 1) != (news == "[unsent]") && !(at.loses() && news == "[unsent]"):
		failed("failed after %d signatures; the history says %s", signatures, news)
	case news == "[unsent]" && !(strings.Contains(r.stderr, "nothing was paid") && strings.Contains(r.stderr, "pay again")):
		failed("no advice")
	case fault.heals && r.code != 0 && (!at.loses() || news != "[unsent]"):
		failed("it did not go on")
	case r.code != 0 && r.code != 1 && r.code != 3:
		failed("exit code")
	}
	s.checkStatus(fault, at, r, failed)
	if tries := s.tries(); tries != 3 {
		failed("%d tries left", tries)
	}
	// Once more, with nothing in the way.
	again, _, _ := s.attempt(-1, fault, "pin")
	_, more := s.faulty.count()
	if want := 1 - sent; again.code != 0 || more != want || len(s.shop.Payments()) != paid+1 {
		failed("then exit code %d after %d signatures, want %d; %d payments\n%s%s", again.code, more, want, len(s.shop.Payments())-paid, again.stdout, again.stderr)
	}
	s.news()
}

// checkStatus looks for the status word in the error, and for advice.
func (s *stage) checkStatus(fault fault, at struck, r result, failed func(string, ...any)) {
	s.t.Helper()
	if fault.status == 0 || at.withdraws() {
		return // a PIN that is not withdrawn is by a reset
	}
	_, counts := fault.status.TriesLeft()
	verify := at.header[1] == 0x20
	switch {
	case verify && counts && r.code == 0: // an answer like another
	case r.code == 0:
		failed("no error")
	case !strings.Contains(r.stderr, fault.name):
		failed("the status word is not named")
	case verify && fault.status == smartcard.StatusBlocked && !strings.Contains(r.stderr, "set-wallet unblock"):
		failed("no advice")
	}
}

// wrong tries one pair with a wrong PIN: it costs one try at most.
func (s *stage) wrong(n int, fault fault) {
	s.t.Helper()
	r, at, hit := s.attempt(n, fault, "wrong")
	if fault.after != nil {
		fault.after(s)
	}
	_, signatures := s.faulty.count()
	if tries := s.tries(); !hit || tries < 2 || signatures > 0 || r.code == 0 || len(s.news()) > 0 {
		s.t.Errorf("APDU %d (% X), %s, wrong PIN: %d tries left, %d signatures, exit code %d\n%s", n, at.header, fault.name, tries, signatures, r.code, r.stderr)
	}
	s.allTries()
}

// allTries gives the PIN its tries back.
func (s *stage) allTries() {
	s.t.Helper()
	err := piv.New(s.faulty.Card, piv.Options{}).Do(s.t.Context(), func(tx *piv.Tx) error { return tx.VerifyPIN([]byte(testPIN)) })
	if err != nil {
		s.t.Fatal(err)
	}
}

// length counts the APDUs of a purchase that nothing goes wrong with.
func (s *stage) length(pin string) int {
	s.t.Helper()
	r, _, _ := s.attempt(-1, fault{}, pin)
	apdus, _ := s.faulty.count()
	if (r.code == 0) != (pin == "pin") || apdus == 0 {
		s.t.Fatalf("exit code %d after %d APDUs\n%s", r.code, apdus, r.stderr)
	}
	s.news()
	s.shop.NewOrder()
	s.allTries()
	return apdus
}

// Variables that tell a process which faults it is to try.
const (
	kindVariable  = "SET_WALLET_TEST_KIND"
	groupVariable = "SET_WALLET_TEST_FAULTS"
	partVariable  = "SET_WALLET_TEST_PART"
)

var pairsTried = regexp.MustCompile(`(\d+) pairs tried`)

// TestPurchaseFaults lets every APDU of a purchase go wrong in every way, through
// the real pcscd. Each group of faults has a process and a pcscd of its own:
// libpcsclite knows one per process, and a wallet that looks for its card asks
// every other.
func TestPurchaseFaults(t *testing.T) {
	if group := os.Getenv(groupVariable); group != "" { // one of those processes
		i, err := strconv.Atoi(os.Getenv(kindVariable))
		if err != nil {
			t.Fatal(err)
		}
		part, err := strconv.Atoi(os.Getenv(partVariable))
		if err != nil {
			t.Fatal(err)
		}
		tryFaults(t, kinds[i], group, part, groups[group])
		return
	}
	t.Parallel()
	var wg sync.WaitGroup
	var mu sync.Mutex
	total := 0
	for i := range kinds {
		for group, parts := range groups {
			for part := range parts {
				wg.Go(func() {
					start := time.Now()
					cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestPurchaseFaults$", "-test.v")
					cmd.Env = append(os.Environ(), kindVariable+"="+strconv.Itoa(i), groupVariable+"="+group, partVariable+"="+strconv.Itoa(part))
					out, err := cmd.CombinedOutput()
					tried := pairsTried.FindSubmatch(out)
					if err != nil || tried == nil {
						t.Errorf("%s, %s: %v\n%s", kinds[i].name, group, err, out)
						return
					}
					n, _ := strconv.Atoi(string(tried[1]))
					t.Logf("%s, %s: %d pairs in %v", kinds[i].name, group, n, time.Since(start).Round(time.Second))
					mu.Lock()
					defer mu.Unlock()
					total += n
				})
			}
		}
	}
	wg.Wait()
	t.Logf("%d pairs of APDU and fault", total)
}

// tryFaults tries each fault of a group with each APDU, or its part of them.
func tryFaults(t *testing.T, k kind, group string, part, parts int) {
	host := &service{t: t, dir: t.TempDir()}
	if group == slowGroup {
		tryAtOnce(t, k, host)
		return
	}
	host.start(readersBefore)
	defer host.stop()
	s := newStage(t, k, host, readersBefore-1)
	right, wrong := s.length("pin"), s.length("wrong")
	pairs := 0
	for i, f := range faults(group) {
		for n := range right {
			if (i+n)%parts == part {
				s.pair(n, f)
				pairs++
			}
		}
		for n := range wrong {
			if (i+n)%parts == part {
				s.wrong(n, f)
				pairs++
			}
		}
	}
	t.Logf("%d pairs tried (%d APDUs, %d with a wrong PIN)", pairs, right, wrong)
}

// tryAtOnce tries a slow card: each APDU of a purchase has a stage for itself.
func tryAtOnce(t *testing.T, k kind, host *service) {
	host.start(virtual.ReadersMax)
	defer host.stop()
	slow := faults(slowGroup)[0]
	first := newStage(t, k, host, 0)
	right, wrong := first.length("pin"), first.length("wrong")
	if right > virtual.ReadersMax-1 {
		t.Fatalf("%d APDUs, %d readers", right, virtual.ReadersMax-1)
	}
	var wg sync.WaitGroup
	for n := range right {
		wg.Go(func() {
			t.Run(strconv.Itoa(n), func(t *testing.T) {
				s := newStage(t, k, host, n+1)
				s.pair(n, slow)
				if n < wrong {
					s.wrong(n, slow)
				}
			})
		})
	}
	wg.Wait()
	t.Logf("%d pairs tried (%d APDUs, %d with a wrong PIN)", right+wrong, right, wrong)
}

// service is a pcscd that can be killed.
type service struct {
	t    *testing.T
	dir  string
	host *virtual.Host
}

const (
	readersBefore = 4
	readersAfter  = 2 // when one is gone
)

// start starts pcscd, where libpcsclite looks for it.
func (s *service) start(readers int) {
	s.t.Helper()
	var err error
	if s.host, err = virtual.StartHost(context.Background(), virtual.HostConfig{Dir: s.dir, Readers: readers}); err != nil {
		s.t.Fatal(err)
	}
	if err := os.Setenv("PCSCLITE_CSOCK_NAME", s.host.Socket); err != nil {
		s.t.Fatal(err)
	}
}

func (s *service) stop() {
	s.t.Helper()
	if err := s.host.Stop(); err != nil {
		s.t.Error(err)
	}
}

// kill ends pcscd in the middle of what it does. A shell is its parent.
func (s *service) kill() error {
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", s.host.PID, s.host.PID))
	if err != nil {
		return err
	}
	for _, pid := range strings.Fields(string(children)) {
		n, err := strconv.Atoi(pid)
		if err != nil {
			return err
		}
		if name, _ := os.ReadFile("/proc/" + pid + "/comm"); string(name) != "pcscd\n" {
			continue
		}
		pcscd, err := os.FindProcess(n)
		if err != nil {
			return err
		}
		if err := pcscd.Kill(); err != nil {
			return err
		}
		<-s.host.Exited()
		return nil
	}
	return fmt.Errorf("process %d has no pcscd", s.host.PID)
}
