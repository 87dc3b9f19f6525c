package virtual_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/setkit/setkit/smartcard/virtual"
)

// TestSlow measures commands by a clock that moves only while everyone waits.
func TestSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := withKeys(t)
		transmit(t, c, verify)
		l := virtual.Latency{Command: time.Second, Byte: time.Millisecond, UseRSA: time.Minute, UseEC: time.Hour}
		d := virtual.Slow(c, l)
		sign := "0087119a267c24820081" + "20" + "00000000000000000000000000000000000000000000000000000000000000ff" + "00"
		for _, tt := range []struct {
			apdu string
			work time.Duration
		}{
			{"00fd0000", 0},
			{"00200080", 0},
			{sign, time.Hour},
			{"10" + sign[2:], 0},                 // not yet the end of a chain
			{"00" + "8711" + "81" + sign[8:], 0}, // refused
		} {
			apdu := unhex(t, tt.apdu)
			start := time.Now()
			answer, err := d.Transmit(t.Context(), apdu)
			if err != nil {
				t.Fatal(err)
			}
			want := time.Second + time.Duration(len(apdu)+len(answer))*time.Millisecond + tt.work
			if got := time.Since(start); got != want {
				t.Errorf("%s: got %v, want %v", tt.apdu, got, want)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if _, err := d.Transmit(ctx, unhex(t, "00fd0000")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("pulled: got %v", err)
		}
	})
}
