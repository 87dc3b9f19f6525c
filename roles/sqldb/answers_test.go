package sqldb_test

import (
	"crypto/sha256"
	"database/sql"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/setkit/setkit/roles/sqldb"
	"github.com/setkit/setkit/roles/sqldb/sqldbtest"
)

func TestAnswers(t *testing.T) {
	t.Parallel()
	sqldbtest.Each(t, func(t *testing.T, url string) {
		db := open(t, url)
		now := time.Now()
		key := sqldb.AnswerKey{Peer: "CN=merchant", Message: "AuthReq", RRPID: [20]byte{1}}
		digest := sha256.Sum256([]byte("request"))
		response := []byte{0, 1, 0xff, '\'', 0}

		if _, found, err := db.Answer(t.Context(), key, digest); found || err != nil {
			t.Fatalf("before any answer: found %v, err %v", found, err)
		}
		save := func(key sqldb.AnswerKey, digest [32]byte) error {
			return db.Tx(t.Context(), func(tx *sql.Tx) error {
				if _, err := tx.ExecContext(t.Context(), `UPDATE counter SET n = n + 1 WHERE id = $1`, 1); err != nil {
					return err
				}
				return db.SaveAnswer(t.Context(), tx, key, digest, response, now.Add(time.Hour))
			})
		}
		if err := save(key, digest); err != nil {
			t.Fatal(err)
		}
		got, found, err := db.Answer(t.Context(), key, digest)
		if !found || err != nil {
			t.Fatalf("after the answer: found %v, err %v", found, err)
		}
		if diff := cmp.Diff(response, got); diff != "" {
			t.Errorf("answer (-want +got):\n%s", diff)
		}

		if err := save(key, digest); !errors.Is(err, sqldb.ErrAnswered) {
			t.Errorf("second answer to one request gave %v, want ErrAnswered", err)
		}
		if n := counter(t, db, 1); n != 1 {
			t.Errorf("work was done %d times, want once", n)
		}
		if _, found, err := db.Answer(t.Context(), key, sha256.Sum256([]byte("other"))); found || !errors.Is(err, sqldb.ErrConflict) {
			t.Errorf("other bytes under the same key: found %v, err %v, want ErrConflict", found, err)
		}

		// Every part of the key tells requests apart.
		for _, other := range []sqldb.AnswerKey{
			{Peer: "CN=other", Message: key.Message, RRPID: key.RRPID},
			{Peer: key.Peer, Message: "CapReq", RRPID: key.RRPID},
			{Peer: key.Peer, Message: key.Message, RRPID: [20]byte{2}},
		} {
			if _, found, err := db.Answer(t.Context(), other, digest); found || err != nil {
				t.Errorf("%+v: found %v, err %v", other, found, err)
			}
		}

		if n, err := db.ExpireAnswers(t.Context(), now.Add(59*time.Minute)); n != 0 || err != nil {
			t.Errorf("expired %d answers before their time, err %v", n, err)
		}
		if n, err := db.ExpireAnswers(t.Context(), now.Add(61*time.Minute)); n != 1 || err != nil {
			t.Errorf("expired %d answers, err %v, want 1", n, err)
		}
		if _, found, err := db.Answer(t.Context(), key, digest); found || err != nil {
			t.Errorf("after expiry: found %v, err %v", found, err)
		}
	})
}

// Copies of one request that are worked on at the same time: one does the work, the others learn so.
func TestAnswersRace(t *testing.T) {
	t.Parallel()
	sqldbtest.Each(t, func(t *testing.T, url string) {
		db := open(t, url)
		const copies = 5
		results := make([]error, copies)
		var wg sync.WaitGroup
		for i := range copies {
			wg.Go(func() {
				results[i] = db.Tx(t.Context(), func(tx *sql.Tx) error {
					if _, err := tx.ExecContext(t.Context(), `UPDATE counter SET n = n + 1 WHERE id = $1`, 1); err != nil {
						return err
					}
					return db.SaveAnswer(t.Context(), tx, sqldb.AnswerKey{Message: "PReq"}, [32]byte{}, []byte("answer"), time.Now())
				})
			})
		}
		wg.Wait()
		won := 0
		for _, err := range results {
			switch {
			case err == nil:
				won++
			case !errors.Is(err, sqldb.ErrAnswered):
				t.Error(err)
			}
		}
		if n := counter(t, db, 1); won != 1 || n != 1 {
			t.Errorf("%d copies won and the work was done %d times, want 1 and 1", won, n)
		}
	})
}
