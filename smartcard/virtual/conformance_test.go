package virtual_test

import (
	"testing"

	"github.com/setkit/setkit/smartcard"
	"github.com/setkit/setkit/smartcard/cardtest"
	"github.com/setkit/setkit/smartcard/virtual"
)

func TestConformance(t *testing.T) {
	cardtest.Conformance(t, func(testing.TB) smartcard.Card { return virtual.NewCard() })
}
