package merchant

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/sethttp"
	"github.com/setkit/setkit/roles/sqldb"
)

// Kinds of jobs. The payload of each is an XID.
const (
	jobAuthorize = "authorize"
	jobCapture   = "capture"
)

// authorize sends the authorization request of a sale and stores the outcome. It is repeated, with the
// same octets, until the gateway has answered in a way that can be relied on.
func (m *Merchant) authorize(ctx context.Context, job sqldb.Job) (func(*sql.Tx) error, error) {
	sl, err := m.Store.sale(ctx, set.XID(job.Payload))
	if err != nil || sl.state != saleAuthorizing {
		return nil, err
	}
	response, err := m.post(ctx, sl, sl.authReq)
	if err != nil {
		return nil, err
	}
	a := sl.Authorization
	res, err := sl.Sale.OpenAuthRes(m.Endpoint, m.Now(), a.Request, response)
	refusal, err := refused(err)
	if err != nil {
		return nil, fmt.Errorf("AuthRes: %w", err)
	}
	if res != nil {
		res.Clear()
	}
	a.At = m.Now().UTC().Truncate(time.Second)
	switch {
	case refusal != nil:
		a.Code, a.Failure = set.AuthUnspecifiedFailure, refusal.Error()
		sl.state = saleFailed
		if lateRefusal(refusal) {
			sl.state = saleUnresolved // an earlier copy may have been authorized
		}
	case res.Header.AuthCode == set.AuthApproved:
		a.Code, a.CapToken = res.Header.AuthCode, res.CapToken
		if codes := res.Header.ResponseData.AuthValCodes; codes != nil {
			a.ApprovalCode = string(codes.ApprovalCode)
		}
		sl.state = saleAuthorized
		if m.CaptureNow {
			sl.capture = CapturePending
		}
	default:
		a.Code, sl.state = res.Header.AuthCode, saleDeclined
	}
	// The outcome is stored here and not with the end of the job, so that whoever waits for it hears of it
	// after it is committed. A job that is delivered again finds it stored.
	if err := m.Store.resolve(ctx, sl); err != nil {
		return nil, err
	}
	m.outcomes.signal()
	m.Log.Info("authorization", "xid", sl.xid, "state", string(sl.state), "code", a.Code.String(), "failure", a.Failure)
	return nil, nil
}

// captureJob sends the capture request of a sale and stores the outcome. Its octets are made once.
func (m *Merchant) captureJob(ctx context.Context, job sqldb.Job) (func(*sql.Tx) error, error) {
	sl, err := m.capReq(ctx, set.XID(job.Payload))
	if err != nil || sl.capture != CapturePending {
		return nil, err
	}
	response, err := m.post(ctx, sl, sl.capReq)
	if err != nil {
		return nil, err
	}
	// The job's context is over when its outcome is recorded.
	recording := context.WithoutCancel(ctx)
	c := sl.record.Capture
	answer, err := m.Endpoint.OpenCapRes(m.Now(), &c.Request, response)
	refusal, err := refused(err)
	if err != nil {
		return nil, fmt.Errorf("CapRes: %w", err)
	}
	var res set.CapResPayload
	if refusal == nil {
		res = answer.CapResItemSeq[0].CapResPayload
	}
	if refusal != nil && lateRefusal(refusal) {
		// The octets are too old to be taken. New ones do no harm: the gateway knows an authorization
		// that was captured already.
		m.Log.Warn("capture request is too old and is made anew", "xid", sl.xid)
		return func(tx *sql.Tx) error {
			sl.record.Capture, sl.capReq = nil, nil
			if _, err := update(recording, tx, sl, saleAuthorized, CapturePending); err != nil {
				return err
			}
			return m.Store.db.Enqueue(recording, tx, jobCapture, sl.xid.String(), sl.xid[:], time.Time{})
		}, nil
	}
	c.At = m.Now().UTC().Truncate(time.Second)
	sl.capture = CaptureRefused
	switch {
	case refusal != nil:
		c.Code, c.Failure = set.CapUnspecifiedFailure, refusal.Error()
	case res.CapCode == set.CapSuccess:
		c.Code, c.Amount, sl.capture = res.CapCode, res.CapAmt, CaptureDone
	case res.CapCode == set.CapDuplicateRequest: // captured by an earlier request whose answer was lost
		c.Code, c.Amount, sl.capture = res.CapCode, c.Request.Items[0].Payload.CapReqAmt, CaptureDone
	default:
		c.Code = res.CapCode
	}
	m.Log.Info("capture", "xid", sl.xid, "state", string(sl.capture), "code", c.Code.String(), "failure", c.Failure)
	return func(tx *sql.Tx) error { return m.Store.recordCapture(recording, tx, sl) }, nil
}

// capReq gives a sale with the octets of its capture request, which it makes and stores if need be.
func (m *Merchant) capReq(ctx context.Context, xid set.XID) (*sale, error) {
	sl, err := m.Store.sale(ctx, xid)
	if err != nil || sl.capture != CapturePending || sl.capReq != nil {
		return sl, err
	}
	a, now := sl.Authorization, m.Now()
	sl.record.Capture = &capture{Request: set.CaptureRequest{
		RRPID: set.NewRRPID(), GatewayCert: sl.Sale.GatewayCert, MerTermIDs: a.Request.MerTermIDs,
		Items: []set.Capture{{
			TransIDs: sl.Sale.TransIDs, AuthRRPID: a.Request.RRPID, CapToken: a.CapToken,
			Payload: set.CapPayload{CapDate: now.UTC().Truncate(time.Second), CapReqAmt: a.Request.Amount},
		}},
	}}
	if sl.capReq, err = m.Endpoint.CapReq(now, &sl.record.Capture.Request); err != nil {
		return nil, err
	}
	if err := m.Store.storeCapReq(ctx, sl); err != nil {
		return nil, err
	}
	return m.Store.sale(ctx, xid) // what is stored counts, whoever stored it
}

// post sends octets to the gateway that the sale's payment instructions are for.
func (m *Merchant) post(ctx context.Context, sl *sale, octets []byte) ([]byte, error) {
	gateway, err := m.gateway(sl.Sale.BrandID, m.Now())
	if err != nil {
		return nil, err
	}
	return m.Client.Post(ctx, gateway.URL, sethttp.MediaPayment, octets)
}

// refused tells an Error message that the gateway has signed from every other failure. What nobody signed
// may come from anyone: it is no outcome.
func refused(err error) (*set.PeerError, error) {
	var p *set.PeerError
	if errors.As(err, &p) && p.Signer != nil {
		return p, nil
	}
	return nil, err
}

// lateRefusal tells that a gateway did not look at a request because of its date. Then it says nothing
// about earlier copies of the request.
func lateRefusal(p *set.PeerError) bool { return p.Code == set.MessageTooOld }
