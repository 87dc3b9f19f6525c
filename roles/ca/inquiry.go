package ca

import (
	"context"
	"database/sql"
	"errors"

	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/pki"
)

// inquire answers CertInqReq with what has become of the CertReq that it is about (SET §4.7). What an
// operator has approved meanwhile is certified now.
func (s *CA) inquire(a *authority) func(context.Context, *request) ([]byte, error) {
	return func(ctx context.Context, r *request) ([]byte, error) {
		o, err := a.Endpoint.OpenCertInqReq(r.w)
		if err != nil {
			return nil, err
		}
		app, err := findApplication(ctx, s.DB, r.now, a.name, o.Data.LIDCA, o.Data.LIDEE)
		if err != nil {
			return nil, err
		}
		if err := o.Verify(app.possessed); err != nil {
			return nil, err
		}
		if app.state != approved {
			return s.tell(ctx, r, a, o, app)
		}
		var certs []*pki.Certificate
		outcome := s.stillGood(ctx, a, app)
		if outcome == nil {
			certs, outcome = s.certify(r.now, a, app)
		}
		return s.fulfil(ctx, r, a, o, app, certs, outcome)
	}
}

// stillGood checks again, of an application that waited, what may have changed meanwhile.
func (s *CA) stillGood(ctx context.Context, a *authority, app *application) error {
	if err := keyUsed(ctx, s.DB, a.name, app.sign, app.exchange); err != nil || app.renews == "" {
		return err
	}
	var thumb pki.Digest
	if err := thumb.UnmarshalText([]byte(app.renews)); err != nil {
		return err
	}
	found, err := findCertified(ctx, s.DB, a.name, thumb)
	if err != nil {
		return err
	}
	if found == nil || found.revoked {
		return refuse(set.RejectedByCA, "the certificate to renew is revoked: register anew")
	}
	return nil
}

// tell repeats what is known of an application. An issued one gets its certificates again.
func (s *CA) tell(ctx context.Context, r *request, a *authority, o *set.OpenedCertInqReq, app *application) ([]byte, error) {
	status := set.CertStatus{CertStatusCode: app.status, EEMessage: set.Text128(app.message)}
	var certs []*pki.Certificate
	var err error
	if app.state == issued {
		if certs, err = certificatesOf(ctx, s.DB, app); err != nil {
			return nil, err
		}
		if a == s.cca {
			status.CAMsg = s.Cardholder.message(app.bin)
		}
	}
	response, err := s.inquiryAnswer(r, a, o, app, status, certs)
	if err != nil {
		return nil, err
	}
	return response, s.answer(ctx, r, response, func(*sql.Tx) error { return nil })
}

// fulfil issues an application that was approved, or refuses it after all.
func (s *CA) fulfil(ctx context.Context, r *request, a *authority, o *set.OpenedCertInqReq, app *application, certs []*pki.Certificate, outcome error) ([]byte, error) {
	for {
		var refusal *set.CertStatusError
		if outcome != nil && !errors.As(outcome, &refusal) {
			return nil, outcome
		}
		if refusal != nil {
			certs = nil
		}
		response, err := s.inquiryAnswer(r, a, o, app, s.status(a, app, refusal, len(certs) > 0), certs)
		if err != nil {
			return nil, err
		}
		err = s.answer(ctx, r, response, func(tx *sql.Tx) error {
			if err := app.advance(ctx, tx, approved); err != nil {
				return err
			}
			return addCertificates(ctx, tx, r.now, app, certs)
		})
		if errors.As(err, &refusal) && outcome == nil {
			outcome = err
			continue
		}
		if err != nil {
			return nil, err
		}
		s.logOutcome(a.name, app.lidCA, app.registrant, app.status, certs)
		return response, nil
	}
}

// inquiryAnswer makes CertInqRes. A cardholder's is encrypted under the back key of its CertReq.
func (s *CA) inquiryAnswer(r *request, a *authority, o *set.OpenedCertInqReq, app *application, status set.CertStatus, certs []*pki.Certificate) ([]byte, error) {
	if a != s.cca {
		return a.Endpoint.CertInqRes(r.now, o, false, nil, status, certs...)
	}
	kept, err := a.unseal(app)
	var refusal *set.CertStatusError
	if errors.As(err, &refusal) {
		return a.Endpoint.CertInqRes(r.now, o, true, nil, refusal.Status())
	}
	if err != nil {
		return nil, err
	}
	defer func() {
		clear(kept.NonceCCA[:])
		clear(kept.BackKey)
	}()
	if status.CertStatusCode == set.RequestComplete {
		status.NonceCCA = &kept.NonceCCA
	}
	return a.Endpoint.CertInqRes(r.now, o, true, kept.BackKey, status, certs...)
}
