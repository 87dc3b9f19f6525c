package sqldb_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/setkit/setkit/roles/sqldb"
	"github.com/setkit/setkit/roles/sqldb/sqldbtest"
)

const waitMax = 20 * time.Second

var quiet = slog.New(slog.DiscardHandler)

func enqueue(t *testing.T, db *sqldb.DB, kind, ref string, notBefore time.Time) {
	t.Helper()
	err := db.Tx(t.Context(), func(tx *sql.Tx) error {
		return db.Enqueue(t.Context(), tx, kind, ref, []byte("payload of "+ref), notBefore)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// run starts a runner, and gives a function that stops it and waits for its end.
func run(t *testing.T, db *sqldb.DB, handlers map[string]sqldb.Handler) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := db.RunJobs(ctx, quiet, handlers); err != nil {
			t.Error(err)
		}
	}()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return stop
}

func receive[T any](t *testing.T, ch <-chan T, what string) (v T) {
	t.Helper()
	select {
	case v = <-ch:
	case <-time.After(waitMax):
		t.Fatalf("%s did not happen in %s", what, waitMax)
	}
	return v
}

func countJobs(t *testing.T, db *sqldb.DB) (n int) {
	t.Helper()
	err := db.View(t.Context(), func(tx *sql.Tx) error {
		return tx.QueryRowContext(t.Context(), `SELECT COUNT(*) FROM sqldb_job`).Scan(&n)
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func waitNoJobs(t *testing.T, db *sqldb.DB) {
	t.Helper()
	for deadline := time.Now().Add(waitMax); countJobs(t, db) > 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d jobs are left after %s", countJobs(t, db), waitMax)
		}
	}
}

func addOne(ctx context.Context) func(*sql.Tx) error {
	return func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE counter SET n = n + 1 WHERE id = $1`, 1)
		return err
	}
}

func TestJobFollowsItsTransaction(t *testing.T) {
	t.Parallel()
	sqldbtest.Each(t, func(t *testing.T, url string) {
		db := open(t, url)
		got := make(chan sqldb.Job, 10)
		run(t, db, map[string]sqldb.Handler{"reverse": func(_ context.Context, j sqldb.Job) (func(*sql.Tx) error, error) {
			got <- j
			return nil, nil
		}})
		rolledBack := errors.New("rolled back")
		err := db.Tx(t.Context(), func(tx *sql.Tx) error {
			if err := db.Enqueue(t.Context(), tx, "reverse", "never", nil, time.Time{}); err != nil {
				return err
			}
			return rolledBack
		})
		if !errors.Is(err, rolledBack) {
			t.Fatal(err)
		}
		enqueue(t, db, "reverse", "xid-1", time.Time{})
		job := receive(t, got, "delivery")
		want := sqldb.Job{Kind: "reverse", Ref: "xid-1", Payload: []byte("payload of xid-1"), Attempt: 1}
		if job.Kind != want.Kind || job.Ref != want.Ref || string(job.Payload) != string(want.Payload) || job.Attempt != want.Attempt {
			t.Errorf("delivered %+v, want %+v", job, want)
		}
		waitNoJobs(t, db)
		if len(got) != 0 {
			t.Errorf("a job of a transaction that was rolled back was delivered: %+v", <-got)
		}
	})
}

// Far fewer seconds than polls would need: the commit itself wakes the runner, also where others run other jobs.
func TestJobIsTakenUpAtOnce(t *testing.T) {
	t.Parallel()
	sqldbtest.Each(t, func(t *testing.T, url string) {
		db := open(t, url)
		got := make(chan string)
		run(t, db, map[string]sqldb.Handler{"k": func(_ context.Context, j sqldb.Job) (func(*sql.Tx) error, error) {
			got <- j.Ref
			return nil, nil
		}})
		for range 3 {
			run(t, db, map[string]sqldb.Handler{"other": func(context.Context, sqldb.Job) (func(*sql.Tx) error, error) { return nil, nil }})
		}
		const rounds = 20
		start := time.Now()
		for i := range rounds {
			ref := fmt.Sprint(i)
			enqueue(t, db, "k", ref, time.Time{})
			if r := receive(t, got, "delivery"); r != ref {
				t.Fatalf("delivered %s, want %s", r, ref)
			}
			waitNoJobs(t, db) // a runner that has just done a job looks for the next one anyway
		}
		if took := time.Since(start); took > rounds/2*time.Second {
			t.Errorf("%d jobs one after another took %s", rounds, took)
		}
	})
}

func TestJobIsRetriedAndRecordedOnce(t *testing.T) {
	t.Parallel()
	sqldbtest.Each(t, func(t *testing.T, url string) {
		db := open(t, url)
		var mu sync.Mutex
		var attempts []int
		run(t, db, map[string]sqldb.Handler{"k": func(ctx context.Context, j sqldb.Job) (func(*sql.Tx) error, error) {
			mu.Lock()
			defer mu.Unlock()
			attempts = append(attempts, j.Attempt)
			switch j.Attempt {
			case 1:
				return nil, errors.New("peer does not answer")
			case 2: // the work was done, and recording it fails
				return func(tx *sql.Tx) error {
					return errors.Join(addOne(ctx)(tx), errors.New("record fails"))
				}, nil
			}
			return addOne(context.WithoutCancel(ctx)), nil
		}})
		enqueue(t, db, "k", "r", time.Time{})
		enqueue(t, db, "nobody handles this", "r", time.Time{})
		for deadline := time.Now().Add(waitMax); countJobs(t, db) != 1; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("the job was not completed")
			}
		}
		mu.Lock()
		defer mu.Unlock()
		if diff := cmp.Diff([]int{1, 2, 3}, attempts); diff != "" {
			t.Errorf("attempts (-want +got):\n%s", diff)
		}
		if n := counter(t, db, 1); n != 1 {
			t.Errorf("outcome was recorded %d times, want once", n)
		}
	})
}

func TestJobWaitsForItsTime(t *testing.T) {
	t.Parallel()
	sqldbtest.Each(t, func(t *testing.T, url string) {
		db := open(t, url)
		got := make(chan time.Time)
		run(t, db, map[string]sqldb.Handler{"k": func(context.Context, sqldb.Job) (func(*sql.Tx) error, error) {
			got <- time.Now()
			return nil, nil
		}})
		due := time.Now().Add(300 * time.Millisecond)
		enqueue(t, db, "k", "r", due)
		if at := receive(t, got, "delivery"); at.Before(due.Truncate(time.Millisecond)) {
			t.Errorf("delivered %s too early", due.Sub(at))
		}
	})
}

func TestStopReturnsJobsAtOnce(t *testing.T) {
	t.Parallel()
	sqldbtest.Each(t, func(t *testing.T, url string) {
		db := open(t, url)
		started := make(chan int, 2)
		stop := run(t, db, map[string]sqldb.Handler{"k": func(ctx context.Context, j sqldb.Job) (func(*sql.Tx) error, error) {
			started <- j.Attempt
			<-ctx.Done()
			return nil, ctx.Err()
		}})
		enqueue(t, db, "k", "r", time.Time{})
		receive(t, started, "first delivery")
		stop()
		db.Close()

		again := open(t, url)
		at := time.Now()
		run(t, again, map[string]sqldb.Handler{"k": func(_ context.Context, j sqldb.Job) (func(*sql.Tx) error, error) {
			started <- j.Attempt
			return nil, nil
		}})
		if attempt := receive(t, started, "delivery after the restart"); attempt != 2 {
			t.Errorf("attempt %d after the restart, want 2", attempt)
		}
		if took := time.Since(at); took > 5*time.Second {
			t.Errorf("delivery after an orderly stop took %s", took)
		}
		waitNoJobs(t, again)
	})
}

// A delivery that outlasts its lease is taken for dead. The job is delivered again, by either runner,
// and what the first delivery still wants to record is dropped.
func TestLostLease(t *testing.T) {
	t.Parallel()
	sqldbtest.Each(t, func(t *testing.T, url string) {
		started, release := make(chan struct{}), make(chan struct{})
		letGo := sync.OnceFunc(func() { close(release) })
		attempts := make(chan int, 10)
		handler := func(_ context.Context, j sqldb.Job) (func(*sql.Tx) error, error) {
			if j.Attempt == 1 {
				close(started)
				<-release
			} else {
				attempts <- j.Attempt
			}
			return addOne(context.Background()), nil
		}
		db, other := open(t, url), open(t, url)
		stops := []func(){
			run(t, db, map[string]sqldb.Handler{"k": handler}),
			run(t, other, map[string]sqldb.Handler{"k": handler}),
		}
		t.Cleanup(letGo) // runs before the runners' own clean-up, which waits for the handler
		enqueue(t, db, "k", "r", time.Time{})
		receive(t, started, "first delivery")
		err := db.Tx(t.Context(), func(tx *sql.Tx) error { // time passes
			_, err := tx.ExecContext(t.Context(), `UPDATE sqldb_job SET due_ms = 0`)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if a := receive(t, attempts, "second delivery"); a != 2 {
			t.Errorf("second delivery is attempt %d, want 2", a)
		}
		waitNoJobs(t, db)
		letGo()
		for _, stop := range stops {
			stop()
		}
		if n := counter(t, db, 1); n != 1 {
			t.Errorf("outcome was recorded %d times, want once", n)
		}
	})
}

// Two processes share the work: every job is recorded once, and none is with two handlers at a time.
func TestRunnersShareJobs(t *testing.T) {
	t.Parallel()
	sqldbtest.Each(t, func(t *testing.T, url string) {
		const jobs = 40
		var atWork [jobs]atomic.Int32
		handler := func(ctx context.Context, j sqldb.Job) (func(*sql.Tx) error, error) {
			var i int
			if _, err := fmt.Sscan(j.Ref, &i); err != nil {
				t.Error(err)
				return nil, err
			}
			if n := atWork[i].Add(1); n != 1 {
				t.Errorf("job %d is with %d handlers", i, n)
			}
			defer atWork[i].Add(-1)
			if i%7 == 0 && j.Attempt == 1 {
				return nil, errors.New("first attempt fails")
			}
			return addOne(context.Background()), nil
		}
		db := open(t, url)
		for i := range jobs {
			enqueue(t, db, "k", fmt.Sprint(i), time.Time{})
		}
		run(t, db, map[string]sqldb.Handler{"k": handler})
		run(t, open(t, url), map[string]sqldb.Handler{"k": handler})
		waitNoJobs(t, db)
		if n := counter(t, db, 1); n != jobs {
			t.Errorf("%d outcomes recorded, want %d", n, jobs)
		}
	})
}
