// Package tokenload says what a purchase asks of the token of each party.
//
// The figures are those of the lab, where each purchase is authorized and captured by itself, with a
// message for each. A test of set-lab counts them again, by the metrics of the servers.
package tokenload

// Call is a kind of call of a token: the purpose of a key and what is done with it.
type Call struct{ Purpose, Operation string }

// Role is a party and what it does with its token.
type Role struct {
	Name  string
	Token string       // label, as in the token plan
	Unit  string       // what the calls are for: one Purchase, or one cardholder or merchant who is certified
	Calls map[Call]int // for one unit
}

// Purchase is the unit of the parties that take part in each purchase.
const Purchase = "purchase"

// Roles are the parties whose tokens are at work.
var Roles = []Role{
	{Name: "gateway", Token: "gateway", Unit: Purchase, Calls: map[Call]int{
		{"sign", "sign"}: 3, {"key-exchange", "decrypt"}: 4, {"seal", "seal"}: 1,
	}},
	{Name: "merchant", Token: "merchant", Unit: Purchase, Calls: map[Call]int{
		{"sign", "sign"}: 4, {"key-exchange", "decrypt"}: 2,
	}},
	{Name: "issuer", Token: "issuer", Unit: Purchase, Calls: map[Call]int{
		{"mac", "mac"}: 2,
	}},
	{Name: "cardholder CA", Token: "cardholder-ca", Unit: "cardholder", Calls: map[Call]int{
		{"sign", "sign"}: 4, {"key-exchange", "decrypt"}: 2, {"mac", "mac"}: 3, {"cert-sign", "sign"}: 1,
	}},
	// One of the signatures is of the revocation lists that the merchant asks for when it begins to serve.
	{Name: "merchant CA", Token: "merchant-ca", Unit: "merchant", Calls: map[Call]int{
		{"sign", "sign"}: 4, {"key-exchange", "decrypt"}: 1, {"cert-sign", "sign"}: 2,
	}},
}
