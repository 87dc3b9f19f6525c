package party

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/setkit/setkit/roles/sethttp"
)

// Serve answers requests and runs the party's jobs until ctx ends: it then takes no more requests, answers
// those under way, each of which takes answerTimeout at the most, and stops the jobs.
func Serve(ctx context.Context, ln net.Listener, h http.Handler, answerTimeout time.Duration, jobs func(context.Context) error, log *slog.Logger) error {
	jobsCtx, stopJobs := context.WithCancel(context.WithoutCancel(ctx))
	defer stopJobs()
	jobsEnded := make(chan error, 1)
	go func() { jobsEnded <- jobs(jobsCtx) }()

	server := sethttp.NewServer(h, answerTimeout)
	server.ErrorLog = slog.NewLogLogger(log.Handler(), slog.LevelWarn)
	served := make(chan error, 1)
	go func() { served <- server.Serve(ln) }()

	var err error
	select {
	case err = <-served:
	case err = <-jobsEnded:
		jobsEnded <- nil
	case <-ctx.Done():
		log.Info("stopping")
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), answerTimeout+time.Second)
	defer cancel()
	err = errors.Join(err, server.Shutdown(last))
	stopJobs()
	return errors.Join(err, <-jobsEnded)
}
