package der

import (
	"math"
	"math/big"
	"strconv"
	"strings"
)

// Real is an ASN.1 REAL, kept as its contents octets; nil is zero. SET calls it FloatingPoint.
type Real []byte

// realOctetsMax bounds the contents of a REAL: far beyond what a ratio of two amounts needs.
const realOctetsMax = 32

// DERType says that a Real is a REAL.
func (Real) DERType() Type { return Type{Kind: RealContent, Max: realOctetsMax} }

// NewReal encodes f, a finite number, in the binary form with base 2 (X.690 §8.5.7, §11.3).
func NewReal(f float64) Real {
	if f == 0 || math.IsInf(f, 0) || math.IsNaN(f) {
		return nil
	}
	lead := byte(0x80)
	if f < 0 {
		lead, f = lead|0x40, -f
	}
	fraction, exponent := math.Frexp(f)
	mantissa := uint64(fraction * (1 << 53))
	exponent -= 53
	for mantissa&1 == 0 {
		mantissa, exponent = mantissa>>1, exponent+1
	}
	exp := bigContents(big.NewInt(int64(exponent)))
	out := append(Real{lead | byte(len(exp)-1)}, exp...)
	return append(out, new(big.Int).SetUint64(mantissa).Bytes()...)
}

// Float64 gives the number.
func (r Real) Float64() float64 {
	f, _ := parseReal(r)
	return f
}

func checkReal(b []byte) error {
	_, err := parseReal(b)
	return err
}

// parseReal reads the binary form with base 2 and the decimal forms NR1 to NR3.
func parseReal(b []byte) (float64, error) {
	if len(b) == 0 {
		return 0, nil
	}
	lead := b[0]
	switch {
	case lead&0xc0 == 0 && lead >= 1 && lead <= 3:
		s := strings.TrimSpace(string(b[1:]))
		if s == "" || strings.Trim(s, "0123456789+-.,Ee") != "" {
			return 0, fail("REAL with a malformed decimal")
		}
		f, err := strconv.ParseFloat(strings.Replace(s, ",", ".", 1), 64)
		if err != nil {
			return 0, fail("REAL with a malformed decimal")
		}
		return f, nil
	case lead&0x80 == 0 || lead&0x3c != 0 || lead&3 > 1:
		return 0, fail("REAL in a form that DER does not use")
	}
	size := int(lead&3) + 1
	if len(b) < 1+size+1 || len(b) > 1+size+8 {
		return 0, fail("REAL cut off or too long")
	}
	exponent, err := parseInt64(b[1 : 1+size])
	if err != nil {
		return 0, err
	}
	mantissa := new(big.Int).SetBytes(b[1+size:]).Uint64()
	if mantissa&1 == 0 || b[1+size] == 0 {
		return 0, fail("REAL whose mantissa is not odd or is padded")
	}
	f := math.Ldexp(float64(mantissa), int(exponent))
	if math.IsInf(f, 0) {
		return 0, fail("REAL out of range")
	}
	if lead&0x40 != 0 {
		f = -f
	}
	return f, nil
}
