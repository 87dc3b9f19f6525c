package sqldb

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	jobsAtOnceMax    = 8
	jobLease         = 10 * time.Second
	jobLeaseRenewal  = 3 * time.Second
	jobTimeout       = 2 * time.Minute
	jobPoll          = time.Second // finds jobs that another process wrote
	jobPauseMin      = 250 * time.Millisecond
	jobPauseMax      = time.Minute
	jobFinishTimeout = 5 * time.Second
)

// Job is work that a committed state change left to be done outside the database.
type Job struct {
	Kind    string // selects the handler
	Ref     string // what it belongs to, for the log: an XID, an order; never a secret
	Payload []byte
	Attempt int // 1 for the first delivery

	id, lease string
}

// Handler does one job. It first does the job's work outside the database, in a way that may be
// repeated, and then returns what to record of its outcome; record runs in the transaction that removes
// the job, under the rules of [DB.Tx]. A nil record records nothing. A job that has failed for good is
// one whose record says so. On an error the job is delivered again later; the error is logged, so it
// holds no secret. When ctx ends, the handler returns soon.
type Handler func(ctx context.Context, job Job) (record func(tx *sql.Tx) error, err error)

var errLeaseLost = errors.New("job was given to another runner, because this one could not renew its lease")

// Enqueue writes a job into the transaction that makes it necessary: if the transaction commits, the
// job will be done, and if not, it never was. It is due from notBefore on; the zero time is at once.
func (d *DB) Enqueue(ctx context.Context, tx *sql.Tx, kind, ref string, payload []byte, notBefore time.Time) error {
	if payload == nil {
		payload = []byte{}
	}
	due := max(notBefore.UnixMilli(), time.Now().UnixMilli())
	_, err := tx.ExecContext(ctx,
		`INSERT INTO sqldb_job (id, kind, ref, payload, due_ms, attempts, lease) VALUES ($1, $2, $3, $4, $5, 0, '')`,
		rand.Text(), kind, ref, payload, due)
	if err != nil {
		return fmt.Errorf("write a %s job: %w", kind, err)
	}
	d.enqueued.Store(tx, struct{}{})
	return nil
}

// RunJobs hands every job that is due to the handler of its kind, until ctx ends; it then waits for the
// handlers at work and returns nil. Jobs without a handler stay.
//
// A job is delivered until its handler succeeded and its record was committed: at least once, and
// recorded exactly once. A job is with one handler at a time, also when several processes run jobs on
// one database, as long as their clocks differ by less than a few seconds: a delivery holds a lease,
// which is renewed while the handler works. After a crash its jobs are delivered again when their
// leases end, in 10 seconds; after an orderly stop, at once.
//
// A failed job waits longer each time, from a quarter of a second up to a minute. Up to 8 jobs run at
// once, in no promised order. Jobs that must not wait for jobs of another kind are run by a RunJobs of their own. A job written through this DB is taken up as soon as its transaction
// committed, one written by another process within a second.
func (d *DB) RunJobs(ctx context.Context, log *slog.Logger, handlers map[string]Handler) error {
	if len(handlers) == 0 {
		return errors.New("run jobs: no handlers given")
	}
	r := &jobRunner{db: d, log: log, handlers: handlers, slots: make(chan struct{}, jobsAtOnceMax), wake: make(chan struct{}, 1)}
	d.runners.Store(r.wake, struct{}{})
	defer d.runners.Delete(r.wake)
	r.inKinds, r.kinds = kindList(handlers)
	defer r.atWork.Wait()
	for ctx.Err() == nil {
		free := cap(r.slots) - len(r.slots)
		jobs, next, err := r.claim(ctx, free)
		if err != nil {
			if ctx.Err() != nil {
				break
			}
			log.Error("jobs cannot be read", "err", err)
			next = jobPoll
		}
		for _, job := range jobs {
			r.slots <- struct{}{}
			r.atWork.Go(func() {
				r.deliver(ctx, job)
				<-r.slots
				wake(r.wake)
			})
		}
		if len(jobs) == 0 || len(jobs) == free {
			r.sleep(ctx, next)
		}
	}
	return nil
}

func (d *DB) wakeRunners() {
	d.runners.Range(func(runner, _ any) bool {
		wake(runner.(chan struct{}))
		return true
	})
}

func wake(runner chan struct{}) {
	select {
	case runner <- struct{}{}:
	default: // already woken
	}
}

type jobRunner struct {
	db       *DB
	log      *slog.Logger
	handlers map[string]Handler
	inKinds  string // "$1, $2, ..." for kinds
	kinds    []any
	slots    chan struct{}
	wake     chan struct{}
	atWork   sync.WaitGroup
}

func kindList(handlers map[string]Handler) (placeholders string, kinds []any) {
	marks := []string{}
	for _, kind := range slices.Sorted(maps.Keys(handlers)) {
		kinds = append(kinds, kind)
		marks = append(marks, fmt.Sprintf("$%d", len(kinds)))
	}
	return strings.Join(marks, ", "), kinds
}

func (r *jobRunner) sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-r.wake:
	case <-t.C:
	case <-ctx.Done():
	}
}

// claim leases up to limit due jobs, and says how long to wait when there are none.
func (r *jobRunner) claim(ctx context.Context, limit int) (jobs []Job, next time.Duration, err error) {
	if limit == 0 {
		return nil, jobPoll, nil
	}
	// Looking takes no write lock; most looks find nothing.
	err = r.db.View(ctx, func(tx *sql.Tx) error {
		var due sql.NullInt64
		err := tx.QueryRowContext(ctx, `SELECT MIN(due_ms) FROM sqldb_job WHERE kind IN (`+r.inKinds+`)`, r.kinds...).Scan(&due)
		next = jobPoll
		if due.Valid {
			next = min(time.Until(time.UnixMilli(due.Int64)), jobPoll)
		}
		return err
	})
	if err != nil || next > 0 {
		return nil, next, err
	}
	err = r.db.Tx(ctx, func(tx *sql.Tx) error {
		jobs, err = r.lease(ctx, tx, limit)
		return err
	})
	return jobs, jobPoll, err
}

func (r *jobRunner) lease(ctx context.Context, tx *sql.Tx, limit int) (jobs []Job, err error) {
	n := len(r.kinds)
	now := time.Now()
	rows, err := tx.QueryContext(ctx, fmt.Sprintf(
		`SELECT id, kind, ref, payload, attempts FROM sqldb_job WHERE kind IN (%s) AND due_ms <= $%d ORDER BY due_ms, id LIMIT $%d`,
		r.inKinds, n+1, n+2), append(slices.Clone(r.kinds), now.UnixMilli(), limit)...)
	if err != nil {
		return nil, fmt.Errorf("read due jobs: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var j Job
		if err := rows.Scan(&j.id, &j.Kind, &j.Ref, &j.Payload, &j.Attempt); err != nil {
			return nil, fmt.Errorf("read a due job: %w", err)
		}
		j.Attempt++
		j.lease = rand.Text()
		jobs = append(jobs, j)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read due jobs: %w", err)
	}
	rows.Close()
	for _, j := range jobs {
		_, err := tx.ExecContext(ctx, `UPDATE sqldb_job SET lease = $1, attempts = $2, due_ms = $3 WHERE id = $4`,
			j.lease, j.Attempt, now.Add(jobLease).UnixMilli(), j.id)
		if err != nil {
			return nil, fmt.Errorf("lease a job: %w", err)
		}
	}
	return jobs, nil
}

func (r *jobRunner) deliver(ctx context.Context, job Job) {
	log := r.log.With("job", job.Kind, "ref", job.Ref, "attempt", job.Attempt)
	work, cancel := context.WithTimeout(ctx, jobTimeout)
	renewing := make(chan struct{})
	go func() {
		defer close(renewing)
		r.renew(work, cancel, job)
	}()
	record, err := r.handlers[job.Kind](work, job)
	cancel()
	<-renewing

	// What was done must be recorded even while the runner is being stopped.
	finish, done := context.WithTimeout(context.WithoutCancel(ctx), jobFinishTimeout)
	defer done()
	if err == nil {
		err = r.complete(finish, job, record)
	}
	switch {
	case err == nil:
	case errors.Is(err, errLeaseLost):
		log.Warn("job delivery was superseded", "err", err)
	case ctx.Err() != nil:
		r.postpone(finish, log, job, 0)
	default:
		pause := jobPause(job.Attempt)
		log.Warn("job failed and will be tried again", "err", err, "pause", pause.String())
		r.postpone(finish, log, job, pause)
	}
}

// renew keeps the lease of a delivery until ctx ends, and cancels the delivery when the lease is lost
// or can no longer be assured.
func (r *jobRunner) renew(ctx context.Context, cancel context.CancelFunc, job Job) {
	held := time.Now()
	for wait(ctx, jobLeaseRenewal) == nil {
		now := time.Now()
		err := r.db.Tx(ctx, func(tx *sql.Tx) error {
			return setLeased(ctx, tx, job, `UPDATE sqldb_job SET due_ms = $1 WHERE id = $2 AND lease = $3`, now.Add(jobLease).UnixMilli())
		})
		switch {
		case err == nil:
			held = now
		case errors.Is(err, errLeaseLost), time.Since(held) > jobLease-jobLeaseRenewal:
			cancel()
			return
		}
	}
}

// complete removes the job and records its outcome, in one transaction.
func (r *jobRunner) complete(ctx context.Context, job Job, record func(tx *sql.Tx) error) error {
	return r.db.Tx(ctx, func(tx *sql.Tx) error {
		if err := setLeased(ctx, tx, job, `DELETE FROM sqldb_job WHERE id = $1 AND lease = $2`); err != nil {
			return err
		}
		if record == nil {
			return nil
		}
		return record(tx)
	})
}

func (r *jobRunner) postpone(ctx context.Context, log *slog.Logger, job Job, pause time.Duration) {
	due := time.Now().Add(pause).UnixMilli()
	err := r.db.Tx(ctx, func(tx *sql.Tx) error {
		return setLeased(ctx, tx, job, `UPDATE sqldb_job SET due_ms = $1, lease = '' WHERE id = $2 AND lease = $3`, due)
	})
	if err != nil && !errors.Is(err, errLeaseLost) {
		log.Warn("job could not be put back and waits for its lease to end", "err", err)
	}
}

// setLeased runs a statement whose last two parameters are the job's id and lease, and which must find it.
func setLeased(ctx context.Context, tx *sql.Tx, job Job, query string, args ...any) error {
	res, err := tx.ExecContext(ctx, query, append(args, job.id, job.lease)...)
	if err != nil {
		return fmt.Errorf("update a %s job: %w", job.Kind, err)
	}
	n, err := res.RowsAffected()
	if err != nil {
		return fmt.Errorf("update a %s job: %w", job.Kind, err)
	}
	if n == 0 {
		return errLeaseLost
	}
	return nil
}

func jobPause(attempt int) time.Duration {
	p := min(jobPauseMin<<min(attempt-1, 10), jobPauseMax)
	return p/2 + spread(p/2)
}
