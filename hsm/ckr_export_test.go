package hsm

import (
	"cmp"
	"slices"

	"github.com/miekg/pkcs11"
)

// Code is what package hsm knows of a PKCS#11 return code.
type Code struct {
	Value            pkcs11.Error
	Name, Cause, Fix string
	Loss             string
}

var lossNames = map[loss]string{lossNone: "none", lossSession: "session", lossDevice: "device", lossUnclear: "unclear"}

// Codes lists every code that is known, in order.
func Codes() []Code {
	var all []Code
	for value, c := range codes {
		all = append(all, Code{value, c.name, c.cause, c.fix, lossNames[c.loss]})
	}
	slices.SortFunc(all, func(a, b Code) int { return cmp.Compare(a.Value, b.Value) })
	return all
}

// Named is the error that a failed PKCS#11 function becomes.
var Named = named

// LossOf is the class of an error, in a word.
func LossOf(err error) string { return lossNames[lossOf(err)] }

// CodeOf is the code in an error.
var CodeOf = codeOf
