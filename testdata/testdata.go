// Package testdata holds what the lab runs with: the accounts, the catalogue, the key ceremony, the logos and each
// server's configuration, which is also its full example. Golden messages lie beside them as files.
package testdata

import "embed"

// Lab has the files of the lab by their names here.
//
//go:embed ceremony config wallet accounts.yaml catalogue.yaml
var Lab embed.FS
