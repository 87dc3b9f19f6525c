//go:build race

package cmd_test

func init() { sequences = 6 }
