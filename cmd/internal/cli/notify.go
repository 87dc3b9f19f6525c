package cli

import (
	"context"
	"log/slog"

	"github.com/coreos/go-systemd/v22/daemon"
)

// Ready tells the service manager (systemd's Type=notify) that a server answers, and when ctx ends that it stops.
// Nothing happens where no service manager waits for it.
func Ready(ctx context.Context, log *slog.Logger) {
	notify := func(state string) {
		if _, err := daemon.SdNotify(false, state); err != nil {
			log.Warn("the service manager is not told", "state", state, "error", err)
		}
	}
	notify(daemon.SdNotifyReady)
	context.AfterFunc(ctx, func() { notify(daemon.SdNotifyStopping) })
}
