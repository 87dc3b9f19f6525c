package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/setkit/setkit/hsm"
)

const (
	clockSecondsMax = 60 // between the token's clock and the host's
	// sessionsMin is what a token must have left: one for the login, two for the making of keys and one
	// to work; sessionsComfort lets as many calls run at once as package hsm would.
	sessionsMin     = 4
	sessionsComfort = 11
)

// findToken finds the one token of the list that uri names.
func (d *diagnosis) findToken(uri hsm.URI, list []hsm.TokenInfo) (hsm.TokenInfo, error) {
	var found []hsm.TokenInfo
	for _, t := range list {
		if (uri.Token == "" || uri.Token == t.Label) && (uri.Serial == "" || uri.Serial == t.Serial) &&
			(uri.Manufacturer == "" || uri.Manufacturer == t.Manufacturer) && (uri.Model == "" || uri.Model == t.Model) {
			found = append(found, t)
		}
	}
	switch len(found) {
	case 1:
		d.Token, d.Serial = found[0].Label, found[0].Serial
		return found[0], nil
	case 0:
		d.add(severityError, "token", d.Token, "the library has no such token: it is not plugged in, or the library's configuration is another's",
			"plug it in, or mend the configuration, such as SOFTHSM2_CONF; then see whether it is there", d.listTokens())
		return hsm.TokenInfo{}, fmt.Errorf("no token %s: %w", d.Token, hsm.ErrUnavailable)
	}
	var serials []string
	for _, t := range found {
		serials = append(serials, t.Serial)
	}
	d.add(severityError, "token", d.Token, fmt.Sprintf("%d tokens are called this, with the serial numbers %s", len(found), strings.Join(serials, ", ")),
		"add ;serial="+serials[0]+", or another of them, to the URI")
	return hsm.TokenInfo{}, errFindings
}

// checkToken looks at what the token tells without a login, and reports whether to log in.
func (d *diagnosis) checkToken(t hsm.TokenInfo, uri hsm.URI) bool {
	d.add(severityOK, "token", t.Label, fmt.Sprintf("%s %s, hardware %s, firmware %s", t.Manufacturer, t.Model, t.Hardware, t.Firmware), "")
	if t.ErrorState {
		d.add(severityError, "token", t.Label, "a self-test of the token has failed", "take it out of service and call its vendor")
	}
	if t.WriteProtected {
		d.add(severityNote, "token", t.Label, "is write-protected: keys and certificates can neither be made nor deleted", "")
	}
	if !t.LoginRequired {
		d.add(severityWarning, "token", t.Label, "wants no PIN: whoever reaches it can use its keys", "have the token want a login, with its vendor's tool")
	}
	d.checkClock(t)
	d.checkSessions(t)
	d.checkOfficer(t)
	return d.checkPIN(t, uri)
}

// checkPIN reports whether a login is safe.
func (d *diagnosis) checkPIN(t hsm.TokenInfo, uri hsm.URI) bool {
	officer, command := "have the security officer set a new user PIN", d.command("pin", "--so-pin-source", "prompt:")
	switch {
	case !t.LoginRequired:
	case t.PINLocked:
		d.add(severityError, "pin", t.Label, "the user PIN is locked", officer, command)
		return false
	case !t.UserPIN:
		d.add(severityError, "pin", t.Label, "no user PIN is set", officer, command)
		return false
	case t.PINFinalTry:
		d.add(severityError, "pin", t.Label, "one more wrong PIN locks the token, so the doctor does not log in: keys and certificates were not looked at",
			"make sure that "+or(uri.PINSource, "the PIN source")+" has the right PIN, then log in with it", d.command("keys list"), d.command("doctor"))
		return false
	case t.PINLow:
		d.add(severityWarning, "pin", t.Label, "somebody has given a wrong PIN since the last right one", "find out which program or person it was; the right PIN resets the count")
	}
	if t.PINToChange {
		d.add(severityWarning, "pin", t.Label, "the user PIN is to be changed: it is the officer's, or has expired", "change it", d.command("pin"))
	}
	return true
}

func (d *diagnosis) checkOfficer(t hsm.TokenInfo) {
	switch {
	case t.SOPINLocked:
		d.add(severityWarning, "pin", t.Label, "the security officer's PIN is locked: a lost or locked user PIN cannot be replaced",
			"move the keys to another token while this one works")
	case t.SOPINFinalTry:
		d.add(severityWarning, "pin", t.Label, "one more wrong PIN locks the security officer out", "find the right one before another try")
	case t.SOPINLow:
		d.add(severityNote, "pin", t.Label, "somebody has given a wrong security officer's PIN", "")
	}
	if t.SOPINToChange {
		d.add(severityNote, "pin", t.Label, "the security officer's PIN is to be changed", "change it with the vendor's tool")
	}
}

func (d *diagnosis) checkClock(t hsm.TokenInfo) {
	if t.Clock.IsZero() {
		d.add(severityOK, "clock", t.Label, "the token has no clock", "")
		return
	}
	off := t.Clock.Sub(t.ClockRead).Round(time.Second)
	if off.Abs() > clockSecondsMax*time.Second {
		d.add(severityWarning, "clock", t.Label, fmt.Sprintf("the token's clock is %v off the host's (token %s, host %s)", off,
			t.Clock.Format(time.RFC3339), t.ClockRead.Format(time.RFC3339)), "see that the host's is right, then set the token's with its vendor's tool", "timedatectl")
		return
	}
	d.add(severityOK, "clock", t.Label, "the token's clock agrees with the host's", "")
}

func (d *diagnosis) checkSessions(t hsm.TokenInfo) {
	left := t.SessionsMax - max(t.Sessions, 0)
	switch {
	case t.SessionsMax == 0:
		d.add(severityOK, "sessions", t.Label, "the token tells no limit", "")
	case left < sessionsMin:
		d.add(severityError, "sessions", t.Label, fmt.Sprintf("%d of %d sessions are left, and %d are needed", left, t.SessionsMax, sessionsMin),
			"end programs that use the token, or raise the limit with the vendor's tool")
	case left < sessionsComfort:
		d.add(severityNote, "sessions", t.Label, fmt.Sprintf("%d of %d sessions are left: at most %d calls run at once", left, t.SessionsMax, left-sessionsMin+1), "")
	default:
		d.add(severityOK, "sessions", t.Label, fmt.Sprintf("%d of %d are left", left, t.SessionsMax), "")
	}
}
