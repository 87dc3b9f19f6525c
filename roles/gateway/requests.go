package gateway

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"time"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/pki"
	"github.com/setkit/setkit/roles/sqldb"
)

// answerTriesMax bounds how often a request is judged anew because the records changed.
const answerTriesMax = 8

var errChanged = errors.New("the records changed while a request was being answered")

// request names a message that is to be answered once.
type request struct {
	key    sqldb.AnswerKey
	digest [sha256.Size]byte
}

func newRequest(w *set.MessageWrapper, merchant *pki.Certificate, octets []byte) request {
	key := sqldb.AnswerKey{Peer: merchant.Merchant.MerchantID, Message: w.Message.Type().String(), RRPID: *w.MessageHeader.RRPID}
	return request{key, sha256.Sum256(octets)}
}

// answer is a response and what must be kept with it. keep looks at the records again, and gives errChanged when
// the response is not true any more.
type answer struct {
	response []byte
	keep     func(ctx context.Context, tx *sql.Tx) error
}

// answered gives the stored answer of a request or has one made. Answers are signed by the HSM, which must not
// be waited for inside a transaction: so the records are looked at, the answer is made, and the records are
// looked at again where it is kept. What is in flight is waited for.
func (g *Gateway) answered(ctx context.Context, r request, once func(context.Context) (answer, error)) ([]byte, error) {
	for tries := 0; tries < answerTriesMax; {
		response, found, err := g.DB.Answer(ctx, r.key, r.digest)
		if err != nil || found {
			return response, err
		}
		a, err := once(ctx)
		if err == nil {
			err = g.DB.Tx(ctx, func(tx *sql.Tx) error {
				if err := a.keep(ctx, tx); err != nil {
					return err
				}
				return g.DB.SaveAnswer(ctx, tx, r.key, r.digest, a.response, g.expiry())
			})
		}
		switch {
		case err == nil:
			return a.response, nil
		case errors.Is(err, errInFlight):
			select {
			case <-ctx.Done():
				return nil, err
			case <-time.After(awaitPause):
			}
		case errors.Is(err, errChanged), errors.Is(err, sqldb.ErrAnswered):
			tries++
		default:
			return nil, err
		}
	}
	return nil, errChanged
}
