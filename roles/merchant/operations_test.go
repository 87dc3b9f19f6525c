package merchant_test

import (
	"errors"
	"strings"

	"github.com/setkit/setkit/roles/merchant"
)

// orderError tells whether err is an OrderError that says text.
func orderError(err error, text string) bool {
	e, ok := errors.AsType[*merchant.OrderError](err)
	return ok && strings.Contains(e.Error(), text)
}
