package finnet

import (
	"github.com/moov-io/iso8583"
	"github.com/moov-io/iso8583/encoding"
	"github.com/moov-io/iso8583/field"
	"github.com/moov-io/iso8583/padding"
	"github.com/moov-io/iso8583/prefix"
	"github.com/moov-io/iso8583/sort"
)

// Fields of ISO 8583:1987 that the network uses.
const (
	fieldMTI            = 0
	fieldPAN            = 2
	fieldProcessing     = 3
	fieldAmount         = 4
	fieldTransmission   = 7
	fieldSTAN           = 11
	fieldExpiry         = 14
	fieldCategory       = 18
	fieldEntryMode      = 22
	fieldCondition      = 25
	fieldAcquirer       = 32
	fieldRRN            = 37
	fieldApproval       = 38
	fieldResponse       = 39
	fieldTerminal       = 41
	fieldMerchant       = 42
	fieldMerchantName   = 43
	fieldPrivate        = 48
	fieldCurrency       = 49
	fieldBalance        = 66
	fieldNetwork        = 70
	fieldRefunds        = 74 // how many, and in the next three fields
	fieldRefundsBack    = 75
	fieldSales          = 76
	fieldSalesBack      = 77
	fieldRefundsSum     = 86 // how much, and in the next three fields
	fieldRefundsBackSum = 87
	fieldSalesSum       = 88
	fieldSalesBackSum   = 89
	fieldOriginal       = 90
	fieldReplacement    = 95
	fieldNet            = 97
)

// Tags of field 48.
const (
	tagXID        = "01"
	tagTransStain = "02"
	tagHolder     = "03"
	tagSecret     = "04"
	tagSettlement = "05"
)

// Limits of what the network carries.
const (
	HolderBytesMax         = 64 // cardholder's name, UTF-8
	SecretBytesMax         = 64 // registration secret
	MerchantIDBytesMax     = 15
	TerminalBytesMax       = 8
	merchantNameBytes      = 40
	transStainBytes        = 32
	privateBytesMax        = 255
	frameBytesMax          = 1024
	messageBytesMin        = 4 + 16
	amountDigits           = 12
	acquirerDigits         = 6
	stanDigits             = 6
	rrnBytes               = 12
	approvalBytes          = 6
	originalAcquirerDigits = 11
	settlementDigits       = 6
	countDigits            = 10
	sumDigits              = 16
)

// Values that every message of their kind has.
const (
	purchase       = "000000" // field 3
	refund         = "200000"
	accountCheck   = "330000"
	entryECommerce = "812" // field 22: electronic commerce, no PIN
	overInternet   = "59"  // field 25: over a public network
	echoTest       = "301" // field 70
	noForwarder    = "00000000000"
	inBalance      = "1" // field 66
	outOfBalance   = "2"
)

var messageSpec = &iso8583.MessageSpec{
	Name: "setkit",
	Fields: map[int]field.Field{
		fieldMTI: fixed("message type", 4),
		1: field.NewBitmap(&field.Spec{
			Length: 8, Description: "bitmap", Enc: encoding.BytesToASCIIHex, Pref: prefix.Hex.Fixed,
		}),
		fieldPAN:          variable("primary account number", 19),
		fieldProcessing:   fixed("processing code", 6),
		fieldAmount:       fixed("amount, in minor units of field 49", amountDigits),
		fieldTransmission: fixed("transmission date and time, MMDDhhmmss UTC", 10),
		fieldSTAN:         fixed("systems trace audit number", stanDigits),
		fieldExpiry:       fixed("date of expiration, YYMM", 4),
		fieldCategory:     fixed("merchant category", 4),
		fieldEntryMode:    fixed("point of service entry mode", 3),
		fieldCondition:    fixed("point of service condition", 2),
		fieldAcquirer:     variable("acquiring institution", 11),
		fieldRRN:          fixed("retrieval reference number", rrnBytes),
		fieldApproval:     fixed("approval code", approvalBytes),
		fieldResponse:     fixed("response code", 2),
		fieldTerminal:     padded("terminal", TerminalBytesMax),
		fieldMerchant:     padded("merchant", MerchantIDBytesMax),
		fieldMerchantName: padded("merchant's name", merchantNameBytes),
		fieldPrivate: field.NewComposite(&field.Spec{
			Length: privateBytesMax, Description: "private data", Pref: prefix.ASCII.LLL,
			Tag: &field.TagSpec{Length: 2, Enc: encoding.ASCII, Sort: sort.StringsByInt},
			Subfields: map[string]field.Field{
				tagXID:        octets("XID", 20),
				tagTransStain: octets("TransStain", transStainBytes),
				tagHolder:     octets("cardholder's name", HolderBytesMax),
				tagSecret:     octets("registration secret", SecretBytesMax),
				tagSettlement: octets("settlement number", settlementDigits),
			},
		}),
		fieldCurrency:       fixed("currency, ISO 4217 numeric", 3),
		fieldBalance:        fixed("settlement code", 1),
		fieldNetwork:        fixed("network management code", 3),
		fieldRefunds:        fixed("credits, number", countDigits),
		fieldRefundsBack:    fixed("credits, reversal number", countDigits),
		fieldSales:          fixed("debits, number", countDigits),
		fieldSalesBack:      fixed("debits, reversal number", countDigits),
		fieldRefundsSum:     fixed("credits, amount", sumDigits),
		fieldRefundsBackSum: fixed("credits, reversal amount", sumDigits),
		fieldSalesSum:       fixed("debits, amount", sumDigits),
		fieldSalesBackSum:   fixed("debits, reversal amount", sumDigits),
		fieldOriginal:       fixed("original data elements", 4+stanDigits+10+2*originalAcquirerDigits),
		fieldReplacement:    fixed("replacement amounts", 2*amountDigits+18),
		fieldNet:            fixed("net settlement amount", 1+sumDigits),
	},
}

func fixed(what string, length int) field.Field {
	return field.NewString(&field.Spec{Length: length, Description: what, Enc: encoding.ASCII, Pref: prefix.ASCII.Fixed})
}

func variable(what string, most int) field.Field {
	return field.NewString(&field.Spec{Length: most, Description: what, Enc: encoding.ASCII, Pref: prefix.ASCII.LL})
}

func padded(what string, length int) field.Field {
	return field.NewString(&field.Spec{
		Length: length, Description: what, Enc: encoding.ASCII, Pref: prefix.ASCII.Fixed, Pad: padding.Right(' '),
	})
}

func octets(what string, most int) field.Field {
	return field.NewBinary(&field.Spec{Length: most, Description: what, Enc: encoding.Binary, Pref: prefix.ASCII.LLL})
}

// kind is a row of the package doc's table.
type kind struct {
	name       string
	mti        string
	processing string // field 3, if the kind has one
	required   []int
	optional   []int
	tags       []string // required in field 48
	tagsMaybe  []string
}

var (
	kindAuthorize = &kind{
		name: "authorization", mti: "0100", processing: purchase,
		required: []int{fieldPAN, fieldProcessing, fieldAmount, fieldTransmission, fieldSTAN, fieldExpiry, fieldEntryMode,
			fieldCondition, fieldAcquirer, fieldRRN, fieldMerchant, fieldMerchantName, fieldPrivate, fieldCurrency},
		optional: []int{fieldCategory, fieldTerminal},
		tags:     []string{tagXID}, tagsMaybe: []string{tagTransStain},
	}
	kindVerify = &kind{
		name: "account check", mti: "0100", processing: accountCheck,
		required: []int{fieldPAN, fieldProcessing, fieldAmount, fieldTransmission, fieldSTAN, fieldExpiry, fieldAcquirer,
			fieldRRN, fieldPrivate},
		tags: []string{tagHolder, tagSecret},
	}
	kindReverse = &kind{
		name: "reversal", mti: "0400", processing: purchase,
		required: []int{fieldProcessing, fieldAmount, fieldTransmission, fieldSTAN, fieldAcquirer, fieldRRN, fieldCurrency,
			fieldOriginal},
		optional: []int{fieldReplacement},
	}
	kindClear = &kind{
		name: "clearing", mti: "0220", processing: purchase,
		required: adviceFields, optional: []int{fieldTerminal}, tags: []string{tagXID, tagSettlement},
	}
	kindRefund = &kind{
		name: "refund", mti: "0220", processing: refund,
		required: adviceFields, optional: []int{fieldTerminal}, tags: []string{tagXID, tagSettlement},
	}
	kindUnclear = &kind{
		name: "reversal of a clearing", mti: "0420", processing: purchase, required: withdrawalFields, tags: []string{tagSettlement},
	}
	kindUnrefund = &kind{
		name: "reversal of a refund", mti: "0420", processing: refund, required: withdrawalFields, tags: []string{tagSettlement},
	}
	kindReconcile = &kind{
		name: "reconciliation", mti: "0500",
		required: append([]int{fieldTransmission, fieldSTAN, fieldAcquirer, fieldPrivate, fieldCurrency}, totalFields...),
		tags:     []string{tagSettlement},
	}
	kindEcho = &kind{
		name: "echo", mti: "0800",
		required: []int{fieldTransmission, fieldSTAN, fieldNetwork},
	}
	kinds = []*kind{
		kindAuthorize, kindVerify, kindReverse, kindClear, kindRefund, kindUnclear, kindUnrefund, kindReconcile, kindEcho,
	}
)

// Fields of advices, of what takes them back, and of totals.
var (
	adviceFields = []int{fieldProcessing, fieldAmount, fieldTransmission, fieldSTAN, fieldAcquirer, fieldRRN, fieldApproval,
		fieldMerchant, fieldPrivate, fieldCurrency, fieldOriginal}
	withdrawalFields = []int{fieldProcessing, fieldAmount, fieldTransmission, fieldSTAN, fieldAcquirer, fieldRRN, fieldPrivate,
		fieldCurrency, fieldOriginal}
	totalFields = []int{fieldRefunds, fieldRefundsBack, fieldSales, fieldSalesBack,
		fieldRefundsSum, fieldRefundsBackSum, fieldSalesSum, fieldSalesBackSum, fieldNet}
)

// echoed are the fields that a response repeats from its request.
var echoed = []int{fieldProcessing, fieldAmount, fieldTransmission, fieldSTAN, fieldAcquirer, fieldRRN, fieldTerminal,
	fieldMerchant, fieldCurrency, fieldNetwork}
