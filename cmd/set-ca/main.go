// Set-ca is the certificate authority: the key ceremony that makes the hierarchy, and the server
// that certifies cardholders, merchants and payment gateways.
package main

import (
	urfave "github.com/urfave/cli/v2"

	"github.com/setkit/setkit/cmd/internal/cli"
)

func main() { cli.Main(app()) }

// app returns the command. An App runs once.
func app() *urfave.App {
	return &urfave.App{
		Name:  "set-ca",
		Usage: "the SET certificate authority",
		Commands: []*urfave.Command{
			ceremonyCommand(), serveCommand(), listCommand(), requestsCommand(), approveCommand(), rejectCommand(),
			revokeCommand(), crlCommand(), bciCommand(), auditCommand(),
		},
	}
}
