package web

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/setkit/setkit/roles/merchant"
)

const (
	webhookTimeout    = 10 * time.Second
	webhookOctetsMax  = 64 << 10
	webhookLife       = 3 * 24 * time.Hour // after which a change is told no more
	webhookHeadID     = "Webhook-Id"
	webhookHeadTime   = "Webhook-Timestamp"
	webhookHeadSigned = "Webhook-Signature"
)

// event is the body of a webhook request.
type event struct {
	ID    string    `json:"id"`
	Type  string    `json:"type"`
	At    time.Time `json:"at"`
	Order order     `json:"order"`
}

// Run tells the other shop of changes of its orders, until ctx ends. Its jobs are apart from the merchant's: a
// receiver that does not answer delays no payment.
func (s *Shop) Run(ctx context.Context) error {
	if s.api == nil || s.api.Webhook == "" {
		<-ctx.Done()
		return nil
	}
	client := &http.Client{
		Timeout:       webhookTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return s.m.Store.TellChanges(ctx, s.m.Log, func(ctx context.Context, c merchant.Change) error { return s.tell(ctx, client, c) })
}

// tell sends one event. It is taken when the answer is 2xx.
func (s *Shop) tell(ctx context.Context, client *http.Client, c merchant.Change) error {
	now := s.m.Now()
	if now.Sub(c.At) > webhookLife {
		s.m.Log.Error("the webhook was not told of a change, and will not be", "event", c.ID, "order", c.Order.Number, "tried for", webhookLife.String())
		return nil
	}
	body, err := json.Marshal(event{c.ID, "order.changed", c.At, s.orderView(c.Order)})
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.api.Webhook, bytes.NewReader(body))
	if err != nil {
		return err
	}
	at := strconv.FormatInt(now.Unix(), 10)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set(webhookHeadID, c.ID)
	req.Header.Set(webhookHeadTime, at)
	req.Header.Set(webhookHeadSigned, "v1,"+webhookSignature(s.api.WebhookKey, c.ID, at, body))
	res, err := client.Do(req)
	if inner, ok := errors.AsType[*url.Error](err); ok {
		err = inner.Err // without the URL, which may hold a secret
	}
	if err != nil {
		return fmt.Errorf("the webhook does not answer: %w", err)
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(res.Body, webhookOctetsMax)); err != nil {
		return fmt.Errorf("the webhook's answer: %w", err)
	}
	if res.StatusCode/100 != 2 {
		return fmt.Errorf("the webhook answers %s", res.Status)
	}
	s.m.Log.Info("webhook told", "event", c.ID, "order", c.Order.Number, "state", string(c.Order.State))
	return nil
}

// webhookSignature signs the time, too, so that who has listened cannot send it again later (Standard Webhooks).
func webhookSignature(key []byte, id, at string, body []byte) string {
	mac := hmac.New(sha256.New, key)
	fmt.Fprintf(mac, "%s.%s.", id, at)
	mac.Write(body)
	return base64.StdEncoding.EncodeToString(mac.Sum(nil))
}
