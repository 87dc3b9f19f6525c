package hsm_test

import (
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/ThalesGroup/crypto11"
	"github.com/setkit/setkit/hsm"
	"github.com/setkit/setkit/hsm/hsmtest"
)

const (
	benchRounds = 9
	benchTurn   = 200 * time.Millisecond
)

var benchCallers = []int{1, 2, 8, 32}

// BenchmarkSign puts three ways to sign side by side: C_Sign through miekg/pkcs11 with a session for
// every goroutine (raw), crypto11, and this package; with and without a verification of each
// signature, which raw and crypto11 leave to their caller. They take turns that are short, because the
// machine may be busy with other things, and each is compared with raw's turn of the same round. The
// medians of the rounds are reported, and printed as a table at the end of each key type.
//
//	go test ./hsm -run '^$' -bench Sign
//
// takes a bit more than a minute; -benchtime 3x takes three times as many rounds.
func BenchmarkSign(b *testing.B) {
	for _, typ := range []hsm.KeyType{hsm.ECP256, hsm.RSA2048} {
		b.Run(string(typ), func(b *testing.B) { benchmarkSign(b, typ) })
	}
}

func benchmarkSign(b *testing.B, typ hsm.KeyType) {
	ways := signingWays(b, typ)
	turns := map[turnKey][]turn{}
	for b.Loop() {
		for round := range benchRounds {
			for _, callers := range benchCallers {
				for i := range ways {
					w := ways[(i+round)%len(ways)]
					key := turnKey{w.name, w.verified, callers}
					turns[key] = append(turns[key], takeTurn(b, w.callers[:callers]))
				}
			}
		}
	}
	b.ReportMetric(0, "ns/op") // it would be that of all rounds
	for _, verified := range []bool{false, true} {
		work := map[bool]string{false: "C_Sign", true: "C_Sign+verify"}[verified]
		for _, name := range []string{"crypto11", "hsm"} {
			b.ReportMetric(bestRatio(turns, name, verified), name+"/raw:"+work)
		}
		fmt.Fprintf(os.Stdout, "\n%s, %s: operations a second, median of %d rounds; in brackets the ratio to raw of the same round\n",
			typ, work, len(turns[turnKey{"raw", verified, 1}]))
		printTurns(os.Stdout, turns, verified)
	}
}

// way is one way to sign, for as many callers as there will be.
type way struct {
	name     string
	verified bool
	callers  []func() error
}

// turnKey is whose turn it was.
type turnKey struct {
	name     string
	verified bool
	callers  int
}

// turn is what came of a turn.
type turn struct {
	rate     float64 // operations a second
	p50, p99 time.Duration
}

// takeTurn lets the callers sign, all at once.
func takeTurn(b *testing.B, callers []func() error) turn {
	took := make([][]time.Duration, len(callers))
	errs := make([]error, len(callers))
	var all sync.WaitGroup
	start := time.Now()
	for i, sign := range callers {
		all.Go(func() {
			for before := start; before.Sub(start) < benchTurn; {
				if errs[i] = sign(); errs[i] != nil {
					return
				}
				after := time.Now()
				took[i] = append(took[i], after.Sub(before))
				before = after
			}
		})
	}
	all.Wait()
	whole := time.Since(start)
	if err := errors.Join(errs...); err != nil {
		b.Fatal(err)
	}
	each := slices.Sorted(slices.Values(slices.Concat(took...)))
	return turn{
		rate: float64(len(each)) / whole.Seconds(),
		p50:  each[len(each)/2], p99: each[len(each)*99/100],
	}
}

// signingWays makes a key and all ways to sign with it.
func signingWays(b *testing.B, typ hsm.KeyType) []way {
	tk := hsmtest.New(b)
	tok := tk.Open(b)
	generate(b, tok, "k", hsm.PurposeSign, typ)
	key, err := tok.Signer(b.Context(), "k")
	if err != nil {
		b.Fatal(err)
	}
	other := crypto11Signer(b, tk, "k")
	digest := sha256.Sum256([]byte("m"))
	var ways []way
	for _, verified := range []bool{false, true} {
		raw, c11, own := way{"raw", verified, nil}, way{"crypto11", verified, nil}, way{"hsm", verified, nil}
		for range slices.Max(benchCallers) {
			raw.callers = append(raw.callers, rawCaller(b, key, digest[:], verified))
			c11.callers = append(c11.callers, func() error {
				sig, err := other.Sign(nil, digest[:], crypto.SHA256)
				if err == nil && verified {
					err = verify(key.Public(), digest[:], sig)
				}
				return err
			})
			signer := key
			if !verified {
				signer = hsm.Unverified(key)
			}
			own.callers = append(own.callers, func() error {
				_, err := signer.Sign(nil, digest[:], crypto.SHA256)
				return err
			})
		}
		ways = append(ways, raw, c11, own)
	}
	return ways
}

func rawCaller(b *testing.B, key *hsm.Signer, digest []byte, verified bool) func() error {
	sign, encode, done, err := hsm.RawSigner(key, digest, crypto.SHA256)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(done)
	return func() error {
		sig, err := sign()
		if err == nil && verified {
			if sig, err = encode(sig); err == nil {
				err = verify(key.Public(), digest, sig)
			}
		}
		return err
	}
}

// crypto11Signer is crypto11's key labelled label, with a session for every caller. Crypto11 wants to
// initialise the library itself, which one process can do once: so it has a copy of it.
func crypto11Signer(b *testing.B, tk *hsmtest.Token, label string) crypto.Signer {
	library, err := os.ReadFile(tk.ModulePath)
	if err != nil {
		b.Fatal(err)
	}
	path := filepath.Join(b.TempDir(), "library.so")
	if err := os.WriteFile(path, library, 0o700); err != nil {
		b.Fatal(err)
	}
	c11, err := crypto11.Configure(&crypto11.Config{
		Path: path, TokenSerial: tk.Serial, Pin: tk.PIN, MaxSessions: slices.Max(benchCallers) + 1,
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := c11.Close(); err != nil {
			b.Error(err)
		}
	})
	key, err := c11.FindKeyPair(nil, []byte(label))
	if err != nil {
		b.Fatal(err)
	}
	return key
}

func verify(public crypto.PublicKey, digest, sig []byte) error {
	switch public := public.(type) {
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(public, crypto.SHA256, digest, sig)
	case *ecdsa.PublicKey:
		if ecdsa.VerifyASN1(public, digest, sig) {
			return nil
		}
	}
	return errors.New("wrong signature")
}

// median is that of what f says of each round.
func median[T cmp.Ordered](rounds int, f func(round int) T) T {
	all := make([]T, rounds)
	for i := range all {
		all[i] = f(i)
	}
	slices.Sort(all)
	return all[len(all)/2]
}

// bestRatio compares name and raw where each is best, whatever the number of callers.
func bestRatio(turns map[turnKey][]turn, name string, verified bool) float64 {
	best := func(name string, round int) (rate float64) {
		for _, callers := range benchCallers {
			rate = max(rate, turns[turnKey{name, verified, callers}][round].rate)
		}
		return rate
	}
	return median(len(turns[turnKey{"raw", verified, 1}]), func(round int) float64 { return best(name, round) / best("raw", round) })
}

func printTurns(w io.Writer, turns map[turnKey][]turn, verified bool) {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	names := []string{"raw", "crypto11", "hsm"}
	fmt.Fprint(table, "callers\t")
	for _, name := range names {
		fmt.Fprintf(table, "%s\tp50 ms\tp99 ms\t", name)
	}
	fmt.Fprintln(table)
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	for _, callers := range benchCallers {
		fmt.Fprintf(table, "%d\t", callers)
		raw := turns[turnKey{"raw", verified, callers}]
		for _, name := range names {
			own := turns[turnKey{name, verified, callers}]
			rate := median(len(own), func(i int) float64 { return own[i].rate })
			ratio := median(len(own), func(i int) float64 { return own[i].rate / raw[i].rate })
			p50 := median(len(own), func(i int) time.Duration { return own[i].p50 })
			p99 := median(len(own), func(i int) time.Duration { return own[i].p99 })
			fmt.Fprintf(table, "%.0f [%.2f]\t%.3f\t%.3f\t", rate, ratio, ms(p50), ms(p99))
		}
		fmt.Fprintln(table)
	}
	fmt.Fprint(table, "best\t")
	for _, name := range names {
		fmt.Fprintf(table, "[%.2f]\t\t\t", bestRatio(turns, name, verified))
	}
	fmt.Fprintln(table)
	table.Flush()
}
