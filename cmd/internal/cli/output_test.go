package cli

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
)

func TestTable(t *testing.T) {
	t.Parallel()
	var got bytes.Buffer
	if err := Table(&got, []string{"LABEL", "TYPE"}, [][]string{{"sign", "ec-p256"}, {"evil\x1b[31m\t", "rsa"}}); err != nil {
		t.Fatal(err)
	}
	want := "LABEL       TYPE\nsign        ec-p256\nevil?[31m?  rsa\n"
	if got.String() != want {
		t.Errorf("got\n%q, want\n%q", got.String(), want)
	}
}

func TestTableEndsWithoutSpaces(t *testing.T) {
	t.Parallel()
	var got bytes.Buffer
	if err := Table(&got, []string{"KEY", "DETAIL"}, [][]string{{"sign", ""}, {"", "late"}}); err != nil {
		t.Fatal(err)
	}
	if want := "KEY   DETAIL\nsign\n      late\n"; got.String() != want {
		t.Errorf("got\n%q, want\n%q", got.String(), want)
	}
}

func TestLine(t *testing.T) {
	t.Parallel()
	word := strings.Repeat("w", 60)
	for text, want := range map[string]string{
		"":                       "-> \n",
		"a  b\tc":                "-> a b?c\n",
		word + " " + word:        "-> " + word + "\n   " + word + "\n",
		word + word + " " + word: "-> " + word + word + "\n   " + word + "\n",
		"\u00e9" + word + " x":   "-> \u00e9" + word + " x\n",
	} {
		var got bytes.Buffer
		if err := Line(&got, "-> ", text); err != nil {
			t.Fatal(err)
		}
		if got.String() != want {
			t.Errorf("%q: got\n%q, want\n%q", text, got.String(), want)
		}
	}
}

func TestGrouped(t *testing.T) {
	t.Parallel()
	for digits, want := range map[string]string{"": "", "0123": "0123", "01234": "0123 4", "0123456789ab": "0123 4567 89ab"} {
		if got := Grouped(digits); got != want {
			t.Errorf("%q is %q, want %q", digits, got, want)
		}
	}
}

func TestPrintJSON(t *testing.T) {
	t.Parallel()
	var got bytes.Buffer
	if err := PrintJSON(&got, map[string]string{"uri": "a?b&c<d>"}); err != nil {
		t.Fatal(err)
	}
	if want := "{\n  \"uri\": \"a?b&c<d>\"\n}\n"; got.String() != want {
		t.Errorf("got %q, want %q", got.String(), want)
	}
}

func TestNewLogger(t *testing.T) {
	t.Parallel()
	var got bytes.Buffer
	log := NewLogger(&got, slog.LevelWarn)
	log.Info("quiet")
	log.Warn("loud", "xid", "01")
	if s := got.String(); strings.Count(s, "\n") != 1 || !strings.Contains(s, `"msg":"loud","xid":"01"`) {
		t.Errorf("got %q, want one JSON line with msg and xid", s)
	}
}
