// Command set-hsm administers PKCS#11 tokens and the keys in them.
package main

import "github.com/setkit/setkit/cmd/internal/cli"

func main() { cli.Main(newApp()) }
