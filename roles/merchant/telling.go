package merchant

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/setkit/setkit/roles/sqldb"
)

// jobTell is the kind of the jobs that tell another shop of a change.
const jobTell = "tell"

// Change is a change of an order that is to be told.
type Change struct {
	ID    string    // the same whenever the change is told
	At    time.Time // when it happened
	Order *Order    // as it is now
}

// telling is the payload of a job.
type telling struct {
	ID, Order string
	At        time.Time
}

// TellChanges hands every change of an order that was made to be told of to tell, until ctx ends: what the
// customer or the merchant can see of its state and amounts. A change whose telling fails is told again, later
// each time; one that came before another may be told after it, and then shows the order as it is by then.
func (s *Store) TellChanges(ctx context.Context, log *slog.Logger, tell func(context.Context, Change) error) error {
	return s.db.RunJobs(ctx, log, map[string]sqldb.Handler{jobTell: func(ctx context.Context, job sqldb.Job) (func(*sql.Tx) error, error) {
		var t telling
		if err := json.Unmarshal(job.Payload, &t); err != nil {
			return nil, err
		}
		o, err := s.Order(ctx, t.Order)
		if err != nil {
			return nil, err
		}
		return nil, tell(ctx, Change{t.ID, t.At, o})
	}})
}

// changeOrder gives an order the state that its sale has brought it to, and leaves a job to tell of the change
// if it is to be told. before is the sale as it was. It is not ok when the sale does not pay the order.
func (s *Store) changeOrder(ctx context.Context, tx *sql.Tx, before, sl *sale) (ok bool, err error) {
	ok, err = changed(tx.ExecContext(ctx, `UPDATE shop_order SET state = $1 WHERE id = $2 AND xid = $3`, string(sl.orderState()), sl.orderID, sl.xid[:]))
	if err != nil || !ok || before.looks() == sl.looks() {
		return ok, err
	}
	return true, s.tell(ctx, tx, sl.orderID)
}

// looks is what of a sale is told.
func (s *sale) looks() string {
	authorized, captured, refunded := s.sums()
	return fmt.Sprint(s.orderState(), authorized, captured, refunded)
}

// tell leaves a job to tell of a change, if the order was made so.
func (s *Store) tell(ctx context.Context, tx *sql.Tx, orderID string) error {
	var number int64
	err := tx.QueryRowContext(ctx, `UPDATE shop_order SET version = version + 1 WHERE id = $1 AND tell = 1 RETURNING number`, orderID).Scan(&number)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("count a change: %w", err)
	}
	raw, err := json.Marshal(telling{ID: rand.Text(), Order: orderID, At: time.Now().UTC()})
	if err != nil {
		return err
	}
	return s.db.Enqueue(ctx, tx, jobTell, fmt.Sprintf("order %d", number), raw, time.Time{})
}
