package web

import (
	"bytes"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"net/http"

	"github.com/setkit/setkit/roles/set/bundle"
)

const (
	formOctetsMax   = 16 << 10
	formFieldsMax   = 64
	uploadOctetsMax = 16 << 20 // of a form with a file, whatever file that is
)

// fileField is the field of a form that may be a file.
const fileField = "file"

// form is what a page sent. Its values are where the body was read to: a string would leave a PIN in
// memory for as long as the collector likes.
type form map[string][]byte

var errForm = errors.New("this is no form of the wallet's pages")

// readForm reads the body of a POST. The caller clears the form.
func readForm(r *http.Request) (form, error) {
	kind, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	switch {
	case err != nil:
	case kind == "application/x-www-form-urlencoded":
		return readFields(r.Body)
	case kind == "multipart/form-data":
		return readParts(r.Body, params["boundary"])
	}
	return nil, errForm
}

func readFields(r io.Reader) (form, error) {
	body := make([]byte, formOctetsMax+1)
	n, err := io.ReadFull(r, body)
	if n > formOctetsMax || err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		clear(body)
		return nil, errForm
	}
	f, err := parseForm(body[:n])
	if err != nil {
		clear(body)
	}
	return f, err
}

// readParts reads a form with a file, which has no secrets. Of a file that is no bundle it keeps so much
// that bundle.Open says so.
func readParts(r io.Reader, boundary string) (form, error) {
	f := make(form)
	for parts := multipart.NewReader(io.LimitReader(r, uploadOctetsMax), boundary); ; {
		p, err := parts.NextPart()
		if err == io.EOF { // the last boundary; where it is missing the error wraps this
			return f, nil
		}
		if err != nil {
			return nil, errForm
		}
		name, limit := p.FormName(), int64(formOctetsMax)
		if name == fileField {
			limit = bundle.SizeMax + 1
		}
		value, err := io.ReadAll(io.LimitReader(p, limit))
		long := name != fileField && len(value) == formOctetsMax
		if _, twice := f[name]; err != nil || twice || long || len(f) == formFieldsMax {
			return nil, errForm
		}
		f[name] = value
	}
}

// parseForm takes a body apart in its place.
func parseForm(body []byte) (form, error) {
	f := make(form)
	for len(body) > 0 {
		var pair []byte
		pair, body, _ = bytes.Cut(body, []byte("&"))
		name, value, _ := bytes.Cut(pair, []byte("="))
		name, nameOK := unescape(name)
		value, valueOK := unescape(value)
		if _, twice := f[string(name)]; twice || !nameOK || !valueOK || len(f) == formFieldsMax {
			return nil, errForm
		}
		f[string(name)] = value
	}
	return f, nil
}

// unescape decodes in place.
func unescape(b []byte) ([]byte, bool) {
	n := 0
	for i := 0; i < len(b); i++ {
		c := b[i]
		switch c {
		case '+':
			c = ' '
		case '%':
			if i+2 >= len(b) {
				return nil, false
			}
			high, low := digit(b[i+1]), digit(b[i+2])
			if high < 0 || low < 0 {
				return nil, false
			}
			c = byte(high<<4 | low)
			i += 2
		}
		b[n] = c
		n++
	}
	clear(b[n:])
	return b[:n], true
}

func digit(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

func (f form) text(name string) string { return string(f[name]) }

// take gives a secret away: who takes it clears it.
func (f form) take(name string) []byte {
	v := bytes.Clone(f[name])
	clear(f[name])
	return v
}

func (f form) clear() {
	for _, v := range f {
		clear(v)
	}
}
