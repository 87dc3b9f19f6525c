package main

import (
	urfave "github.com/urfave/cli/v2"
)

func traceCommand() *urfave.Command {
	return &urfave.Command{
		Name: "trace",
	}
}
