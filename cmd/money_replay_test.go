package cmd_test

import (
	"crypto/rand"
	"encoding/binary"
	"flag"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// sequences are how many are tried unless -rapid.checks says so. The race detector makes each far slower.
var sequences = 60

// replayable makes a test such that its seed tells what happens in it, and prints the seed.
func replayable(t *testing.T) *reporter {
	given := make(map[string]bool)
	flag.Visit(func(f *flag.Flag) { given[f.Name] = true })
	set := func(name, value string) {
		if _, env := os.LookupEnv(strings.ToUpper(strings.ReplaceAll(name, ".", "_"))); env || given[name] {
			return
		}
		before := flag.Lookup(name).Value.String()
		if err := flag.Set(name, value); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { flag.Set(name, before) })
	}
	set("rapid.checks", strconv.Itoa(sequences))
	set("rapid.seed", strconv.FormatUint(mathrand.Uint64N(1e12)+1, 10))
	set("rapid.v", "true") // the reporter is to hear everything
	t.Logf("the first sequence has -rapid.seed=%s", flag.Lookup("rapid.seed").Value)

	reader, threads := rand.Reader, runtime.GOMAXPROCS(1)
	rand.Reader = &chance
	t.Cleanup(func() {
		rand.Reader = reader
		runtime.GOMAXPROCS(threads)
	})
	chance.seed(0)
	return &reporter{T: t}
}

// reporter is the test as rapid sees it. It shows what happened in the first sequence that fails, whatever becomes of
// it when rapid tries it again and looks for a shorter one.
type reporter struct {
	*testing.T
	mu    sync.Mutex
	lines []string // since the last sequence ended
	shown bool
}

func (r *reporter) Log(args ...any) { r.Logf("%s", fmt.Sprint(args...)) }

func (r *reporter) Logf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.shown {
		r.T.Logf(format, args...)
		return
	}
	r.lines = append(r.lines, fmt.Sprintf(format, args...))
}

// ended passes on how a sequence has ended. For rapid two failures are the same one if they come from the same line,
// so what is none must not come from there.
func (r *reporter) ended(how any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if how == nil {
		r.lines = nil
		return
	}
	if fmt.Sprintf("%T", how) == "rapid.invalidData" { // rapid tried what is no sequence
		r.lines = nil
		panic(how)
	}
	if !r.shown {
		r.shown = true
		r.T.Logf("a sequence fails: %v\n%s", how, strings.Join(r.lines, "\n"))
	}
	panic(how)
}

// chance is where the parties' identifiers and the lengths of their pauses come from. It stands for rand.Reader.
var chance entropy

// entropy is a source that a seed begins. It begins anew at every moment that it is told, so that who drew first at
// one moment does not matter at the next.
type entropy struct {
	mu    sync.Mutex
	start [32]byte
	from  *mathrand.ChaCha8
}

func (e *entropy) seed(s uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.start = [32]byte{}
	binary.BigEndian.PutUint64(e.start[:], s)
	e.from = mathrand.NewChaCha8(e.start)
}

func (e *entropy) at(now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	binary.BigEndian.PutUint64(e.start[8:], uint64(now.UnixNano()))
	e.from.Seed(e.start)
}

func (e *entropy) Read(b []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.from.Read(b)
}
