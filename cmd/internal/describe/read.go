package describe

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"strings"
)

// InputOctetsMax is the most octets of one input: a message in hexadecimal, with room for white space.
const InputOctetsMax = 4 << 20

// Input is one thing out of a file.
type Input struct {
	Form string // how it was written: "DER", "PEM", "hexadecimal", "base64", "text" or "JSON"
	Name string // a PEM block's
	Raw  []byte // what it is
	Node *Node  // of JSON, which is a description already
}

// Read takes a file apart into what is to be described: PEM blocks, or one thing in DER, hexadecimal,
// base64, as an initiation message, or as the JSON of a Node.
func Read(b []byte) ([]Input, error) {
	if len(b) > InputOctetsMax {
		return nil, fmt.Errorf("input over %d octets", InputOctetsMax)
	}
	text := strings.TrimSpace(string(b))
	switch {
	case text == "":
		return nil, fmt.Errorf("there is nothing in it")
	case strings.HasPrefix(text, "{") && json.Valid([]byte(text)):
		n := new(Node)
		if err := json.Unmarshal([]byte(text), n); err != nil || n.Kind == "" {
			return nil, fmt.Errorf("JSON, but not of a description")
		}
		return []Input{{Form: "JSON", Node: n}}, nil
	case looksInitiation(b):
		return []Input{{Form: "text", Raw: b}}, nil
	case strings.Contains(text, "-----BEGIN "):
		return readPEM(b)
	}
	if raw, ok := fromHex(text); ok {
		return []Input{{Form: "hexadecimal", Raw: raw}}, nil
	}
	if raw, ok := fromBase64(text); ok {
		return []Input{{Form: "base64", Raw: raw}}, nil
	}
	return []Input{{Form: "DER", Raw: b}}, nil
}

func readPEM(b []byte) (all []Input, err error) {
	for {
		block, rest := pem.Decode(b)
		if block == nil {
			break
		}
		all, b = append(all, Input{Form: "PEM", Name: block.Type, Raw: block.Bytes}), rest
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("a PEM block that does not end, or is no base64")
	}
	return all, nil
}

// fromHex takes hexadecimal digits with white space and colons between them.
func fromHex(text string) ([]byte, bool) {
	digits := strings.Map(func(r rune) rune {
		if strings.ContainsRune(" \t\r\n:", r) {
			return -1
		}
		return r
	}, text)
	raw, err := hex.DecodeString(strings.TrimPrefix(digits, "0x"))
	return raw, err == nil && len(raw) > 0
}

// fromBase64 takes base64 that holds an element, so that a short text is not taken for it.
func fromBase64(text string) ([]byte, bool) {
	raw, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(text), ""))
	if err != nil || len(raw) < 2 {
		return nil, false
	}
	if _, err := readElement(raw); err != nil || bytes.IndexByte([]byte{0x30, 0x31, 0xa0}, raw[0]) < 0 {
		return nil, false
	}
	return raw, true
}
