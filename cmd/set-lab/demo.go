package main

import urfave "github.com/urfave/cli/v2"

func demo(c *urfave.Context) error { return up(c) }
