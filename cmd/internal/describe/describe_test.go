package describe_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"flag"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/setkit/setkit/cmd/internal/describe"
	"github.com/setkit/setkit/roles/set"
	"github.com/setkit/setkit/roles/set/bundle"
	"github.com/setkit/setkit/roles/set/cms"
	"github.com/setkit/setkit/roles/set/der"
	"github.com/setkit/setkit/roles/set/settest"
)

var update = flag.Bool("update", false, "write the golden texts anew")

const (
	goldenDir    = "../../../testdata/golden"
	recordingDir = "../../../testdata/trace/recording"
	heldDir      = "../../../roles/ca/ceremony/testdata/held"
)

func read(t testing.TB, elem ...string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(elem...))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func files(t testing.TB, pattern string) []string {
	t.Helper()
	all, err := filepath.Glob(pattern)
	if err != nil || len(all) == 0 {
		t.Fatalf("%s: %d files, %v", pattern, len(all), err)
	}
	return all
}

func described(t testing.TB, d *describe.Describer, b []byte) *describe.Node {
	t.Helper()
	n, err := d.Describe(b)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func text(t testing.TB, n *describe.Node) string {
	t.Helper()
	var b strings.Builder
	if err := n.Text(&b, false); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(b.String()) {
		if c := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); c > 120 {
			t.Errorf("%d columns: %s", c, line)
		}
	}
	return b.String()
}

// Every golden message is shown field by field, in its order, with every value.
func TestEveryFieldIsShown(t *testing.T) {
	t.Parallel()
	for _, file := range files(t, goldenDir+"/*.der") {
		b := read(t, file)
		w, err := set.Decode(b)
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		n := described(t, new(describe.Describer), b)
		var names []string
		var values strings.Builder
		n.Walk(func(n *describe.Node) bool {
			names = append(names, strings.ReplaceAll(n.Name, "-", ""))
			fmt.Fprintf(&values, "%s %x\n", n.Value, []byte(n.Octets))
			if n.Kind == describe.Fault {
				t.Errorf("%s: %s", file, n.Value)
			}
			return true
		})
		c := &checker{t: t, file: filepath.Base(file), names: names, values: values.String()}
		c.fields(reflect.ValueOf(*w))
		if c.seen < 15 {
			t.Errorf("%s: %d fields were looked for", file, c.seen)
		}
		text(t, n)
	}
}

// checker looks for the fields of a structure among the names of a description, in order.
type checker struct {
	t      *testing.T
	file   string
	names  []string
	values string
	seen   int
}

func (c *checker) fields(v reflect.Value) {
	for i := range v.NumField() {
		f, fv := v.Type().Field(i), v.Field(i)
		if f.Type == reflect.TypeFor[der.Choice]() || fv.Kind() == reflect.Pointer && fv.IsNil() {
			continue
		}
		opt := strings.Contains(f.Tag.Get("der"), "opt")
		if opt && (fv.Kind() == reflect.String || fv.Kind() == reflect.Slice) && fv.Len() == 0 {
			continue
		}
		if f.Name != "Value" { // SET names what is linked by its type
			at := slices.IndexFunc(c.names, func(name string) bool { return strings.EqualFold(name, f.Name) })
			if at < 0 {
				c.t.Errorf("%s: field %s of %s is not shown, or not in its place", c.file, f.Name, v.Type())
				return
			}
			c.names = c.names[at+1:]
		}
		c.seen++
		c.value(f.Name, fv)
	}
}

func (c *checker) value(name string, v reflect.Value) {
	for v.Kind() == reflect.Pointer && v.Type() != reflect.TypeFor[*big.Int]() {
		v = v.Elem()
	}
	var want string
	switch x := v.Interface().(type) {
	case time.Time:
		want = x.Format("2006-01-02 15:04:05 UTC")
	case der.Raw:
		return // its elements are shown, which TestElements looks at
	case cms.DetachedDigest:
		want = hex.EncodeToString(x.Content.Digest)
	case set.CertThumb:
		want = hex.EncodeToString(x.Thumbprint[:])
	case set.CurrencyAmount:
		want = x.String()
	case cms.AlgorithmIdentifier:
		want = x.Algorithm.String()
	case set.MsgExtension:
		want = x.ID.String()
	case fmt.Stringer:
		if v.Kind() == reflect.Int {
			want = fmt.Sprintf("%s (%d)", x, v.Int())
		} else if v.Kind() == reflect.Array || v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Uint8 {
			want = x.String()
		}
	}
	switch {
	case want != "":
	case v.Kind() == reflect.Struct:
		c.fields(v)
		return
	case v.Kind() == reflect.Slice && v.Type().Elem().Kind() != reflect.Uint8:
		for i := range v.Len() {
			c.value(name, v.Index(i))
		}
		return
	case v.Kind() == reflect.Array || v.Kind() == reflect.Slice:
		want = fmt.Sprintf("%x", v.Interface())
	case v.Kind() == reflect.Bool:
		want = map[bool]string{true: "yes", false: "no"}[v.Bool()]
	default:
		want = fmt.Sprint(v.Interface())
	}
	if !strings.Contains(c.values, want) {
		c.t.Errorf("%s: %s has not its value %q", c.file, name, want)
	}
}

// opaque are the octet strings that say nothing more to a person, by the names of their fields: what is
// random, a digest, a signature or encrypted.
var opaque = []string{
	"XID", "RRPID", "LID-C", "LID-M", "LID-EE", "LID-CA", "Chall-C", "Chall-M", "Chall-EE", "Chall-EE2", "Chall-EE3", "Chall-CA", "ODSalt",
	"HOD", "DD", "PEThumb", "CAEThumb", "Thumbprint", "Signature", "EncryptedKey", "EncryptedContent", "MAC", "Nonce", "KeyIdentifier",
	"TransStain", "HPIData", "HOIData", "HOD2", "TokenOpaque",
}

// What real parties said is shown without octets that nobody explains.
func TestNothingIsLeftUnnamed(t *testing.T) {
	t.Parallel()
	d := new(describe.Describer)
	for _, file := range files(t, recordingDir+"/*.der") {
		d.Meet(read(t, file))
	}
	for _, file := range files(t, recordingDir+"/*.der") {
		n := described(t, d, read(t, file))
		var path []string
		var visit func(*describe.Node)
		visit = func(n *describe.Node) {
			path = append(path, n.Name)
			defer func() { path = path[:len(path)-1] }()
			here := strings.Join(path, "/")
			switch {
			case n.Kind == describe.Fault:
				t.Errorf("%s: %s: %s", file, here, n.Value)
			case n.Kind == describe.Octets && !slices.Contains(opaque, n.Name) && !strings.Contains(here, "Thumbs/") &&
				!strings.Contains(here, "Parameters/") && !strings.Contains(here, "SignedAttrs/") && !strings.Contains(here, "SubjectPublicKeyInfo/"):
				t.Errorf("%s: %s is %d octets and no more", file, here, len(n.Octets))
			}
			for _, s := range n.Signers {
				if s.Role == "" && s.Serial != "" {
					t.Errorf("%s: %s is signed by somebody unknown: %v", file, here, s)
				}
				if strings.Contains(s.Checked, "NOT") {
					t.Errorf("%s: %s: %s", file, here, s.Checked)
				}
			}
			if r := n.Recipient; r != nil && r.Role == "" && !r.BackKey {
				t.Errorf("%s: %s is encrypted for somebody unknown: %v", file, here, r)
			}
			for _, f := range n.Fields {
				visit(f)
			}
		}
		visit(n)
		text(t, n)
	}
}

func TestGoldenTexts(t *testing.T) {
	t.Parallel()
	pemBlock := func(file string) []byte {
		block, _ := pem.Decode(read(t, heldDir, file))
		return block.Bytes
	}
	truncated := read(t, goldenDir, "PInitReq.der")
	for name, b := range map[string][]byte{
		"PReq":        read(t, recordingDir, "020-wallet-merchant.der"),
		"AuthRes":     read(t, recordingDir, "024-gateway-merchant.der"),
		"Error":       read(t, goldenDir, "Error-UnsignedError.der"),
		"initiation":  read(t, recordingDir, "017-merchant-wallet.txt"),
		"certificate": pemBlock("brand.pem"),
		"crl":         pemBlock("brand.crl"),
		"bci":         read(t, heldDir, "brand.bci"),
		"truncated":   truncated[:len(truncated)*2/3],
	} {
		got := text(t, described(t, new(describe.Describer), b))
		file := filepath.Join("testdata", name+".txt")
		if *update {
			if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if diff := cmp.Diff(string(read(t, file)), got); diff != "" {
			t.Errorf("%s: if that is meant, run with -update (-want +got):\n%s", name, diff)
		}
	}
}

func TestMalformed(t *testing.T) {
	t.Parallel()
	good := read(t, goldenDir, "PInitReq.der")
	date := bytes.Index(good, []byte("20261122"))
	brand := bytes.Index(good, []byte("Brand:Product"))
	change := func(at int, to byte) []byte {
		b := bytes.Clone(good)
		b[at] = to
		return b
	}
	for name, c := range map[string]struct {
		b             []byte
		at            int
		says, shows   string
		shows2, hides string
	}{
		"a date that is none":   {change(date, 'x'), date - 2, "time is not", "Version", "Date", "SWIdent"},
		"a tag that is another": {change(brand-2, 0x05), brand - 2, "unexpected tag", "Chall-C", "BrandID", "BIN"},
		"cut off":               {good[:brand+3], brand + 3, "octets too early", "Chall-C", "LID-M", "BIN"},
		"cut off early":         {good[:20], 20, "octets too early", "MessageHeader", "Version", "PInitReq"},
		"more at the end":       {append(bytes.Clone(good), 1, 2), len(good), "2 octets after the end", "BIN", "PInitReq", "no such"},
	} {
		n := described(t, new(describe.Describer), c.b)
		var faults []*describe.Node
		n.Walk(func(n *describe.Node) bool {
			if n.Kind == describe.Fault {
				faults = append(faults, n)
			}
			return true
		})
		if !slices.ContainsFunc(faults, func(f *describe.Node) bool {
			return f.Offset != nil && *f.Offset == c.at && strings.Contains(f.Value, c.says)
		}) {
			t.Errorf("%s: no fault at %d that says %q:\n%s", name, c.at, c.says, text(t, n))
		}
		if n.Find(c.shows) == nil || n.Find(c.shows2) == nil || n.Find(c.hides) != nil {
			t.Errorf("%s: shows not %s and %s, or shows %s:\n%s", name, c.shows, c.shows2, c.hides, text(t, n))
		}
	}
}

// A value that SET reserves is shown, and told.
func TestReservedValue(t *testing.T) {
	t.Parallel()
	b := bytes.Replace(read(t, goldenDir, "MeAqCInitReq.der"), []byte{0x0a, 1, 6}, []byte{0x0a, 1, 2}, 1)
	got := text(t, described(t, new(describe.Describer), b))
	if !strings.Contains(got, "unknown(2) (2)") || !strings.Contains(got, "a value that SET reserves") {
		t.Errorf("a reserved request type:\n%s", got)
	}
}

const testPAN = "4111111111111111"

// purchase makes the messages of a purchase up to AuthReq.
func purchase(t *testing.T) (w *settest.World, gateway *set.Endpoint, preq, authReq []byte) {
	t.Helper()
	w = settest.NewWorld(t)
	order, price := []byte("1 x Atlas"), set.CurrencyAmount{Currency: 840, Amount: 3650, AmtExp10: -2}
	card, merchant := w.Card(t, testPAN), w.Merchant(t, settest.MerchantID)
	gateway = w.Gateway(t, "G-0001")
	sale := &set.Sale{OD: order, PurchAmt: price, LIDM: set.NewLocalID()}
	p, err := set.NewPurchase(&set.Initiation{PurchAmt: &price, Brands: []set.BrandID{settest.Brand}, LIDM: sale.LIDM, Order: order}, settest.Brand, "411111", "en")
	check(t, err)
	initReq, err := p.InitReq(card.Endpoint, w.Now)
	check(t, err)
	m, err := merchant.Receive(w.Now, initReq, set.PInitReqType)
	check(t, err)
	opened, err := m.OpenPInitReq()
	check(t, err)
	initRes, err := sale.InitRes(merchant, w.Now, opened, gateway.ExchangeCert, gateway.Chain)
	check(t, err)
	_, err = p.OpenInitRes(card.Endpoint, w.Now, initRes)
	check(t, err)
	preq, err = p.Request(card.Endpoint, w.Now, &card.Account)
	check(t, err)
	m, err = merchant.Receive(w.Now, preq, set.PReqType)
	check(t, err)
	o, err := merchant.OpenPReq(w.Now, m)
	check(t, err)
	check(t, sale.Take(o))
	authReq, err = sale.AuthReq(merchant, w.Now, set.AuthorizationRequest{Amount: price})
	check(t, err)
	return w, gateway, preq, authReq
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// The gateway's key opens both halves of AuthReq; what is secret stays masked unless it is asked for,
// and some of it even then.
func TestOpen(t *testing.T) {
	t.Parallel()
	_, gateway, preq, authReq := purchase(t)
	shut := text(t, described(t, new(describe.Describer), authReq))
	if strings.Contains(shut, "AuthReqAmt") || strings.Contains(shut, "PurchAmt") {
		t.Errorf("without the key:\n%s", shut)
	}
	for _, b := range [][]byte{preq, authReq} {
		n := described(t, &describe.Describer{Key: gateway.ExchangeKey}, b)
		got := text(t, n)
		for _, want := range []string{"36.50 USD", ": opened", "PIHead", "PAN         **** 1111", "CardExpiry  ***", "PANSecret   ***", "ExNonce     ***"} {
			if !strings.Contains(got, want) {
				t.Errorf("opened, it does not show %q:\n%s", want, got)
			}
		}
		asJSON, err := json.Marshal(n)
		check(t, err)
		for form, text := range map[string]string{"text": got, "JSON": string(asJSON), "HTML": string(n.HTML(nil))} {
			if strings.Contains(text, testPAN) || strings.Contains(text, hex.EncodeToString([]byte(testPAN))) {
				t.Errorf("the %s shows the card number", form)
			}
		}
		asked := text(t, described(t, &describe.Describer{Key: gateway.ExchangeKey, ShowPAN: true}, b))
		if !strings.Contains(asked, testPAN) || !strings.Contains(asked, "PANSecret   ***") {
			t.Errorf("asked for, it shows not the card number, or the secret:\n%s", asked)
		}
	}
	n := described(t, &describe.Describer{Key: gateway.ExchangeKey}, authReq)
	if signed := n.Find("opened"); signed == nil || len(signed.Signers) != 1 || signed.Signers[0].Role != "merchant" || !strings.HasPrefix(signed.Signers[0].Checked, "verifies") {
		t.Errorf("inside the envelope: %+v", signed)
	}
}

// Another's key opens nothing, which is no error.
func TestAnothersKey(t *testing.T) {
	t.Parallel()
	w, _, _, authReq := purchase(t)
	other := w.Gateway(t, "G-0002")
	n := described(t, &describe.Describer{Key: other.ExchangeKey}, authReq)
	n.Walk(func(n *describe.Node) bool {
		if n.Opened {
			t.Errorf("%s was opened", n.Name)
		}
		return true
	})
}

// A signature is tried under the certificate that it names.
func TestSignatures(t *testing.T) {
	t.Parallel()
	b := read(t, recordingDir, "019-merchant-wallet.der")
	checked := func(b []byte) string {
		n := described(t, new(describe.Describer), b).Find("PInitRes")
		if n == nil || len(n.Signers) != 1 {
			t.Fatalf("PInitRes: %+v", n)
		}
		return n.Signers[0].Role + " " + n.Signers[0].Checked
	}
	if got := checked(b); got != "merchant verifies under that certificate" {
		t.Errorf("as recorded: %q", got)
	}
	w, err := set.Decode(b)
	check(t, err)
	at := bytes.Index(b, w.MessageHeader.RRPID[:])
	at += 20 + bytes.Index(b[at+20:], w.MessageHeader.RRPID[:]) // the second one is signed
	changed := bytes.Clone(b)
	changed[at] ^= 1
	if got := checked(changed); got != "merchant DOES NOT VERIFY under that certificate" {
		t.Errorf("changed: %q", got)
	}
}

// A wallet bundle is shown with its signer, whose certificate is nobody's but its own.
func TestWalletBundle(t *testing.T) {
	t.Parallel()
	w := settest.NewWorld(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	signed, err := bundle.Sign(bundle.Bundle{
		Sequence: 3, NotBefore: w.Now, NotAfter: w.Now.Add(24 * time.Hour), Bank: bundle.Bank{Name: "Nordhavn Bank"},
		Brands:   []bundle.Brand{{ID: settest.Brand, CA: "https://ca.example/cca"}},
		Policies: []bundle.Policy{{Language: "en", Text: "Keep the PIN to yourself."}},
	}, w.Root, key, nil)
	check(t, err)
	n := described(t, new(describe.Describer), signed.Raw)
	got := text(t, n)
	for _, want := range []string{"WalletBundle", "Nordhavn Bank", "Sequence     3", "https://ca.example/cca", "root CA, authority", "Keep the PIN", "verifies under that"} {
		if !strings.Contains(got, want) {
			t.Errorf("it does not show %q:\n%s", want, got)
		}
	}
	if strings.Contains(got, "malformed") {
		t.Errorf("it is said to be malformed:\n%s", got)
	}
	cut := text(t, described(t, new(describe.Describer), signed.Raw[:len(signed.Raw)/2]))
	if !strings.HasPrefix(cut, "WalletBundle") || !strings.Contains(cut, "the input ends here") {
		t.Errorf("cut off:\n%s", cut)
	}
}

func TestRead(t *testing.T) {
	t.Parallel()
	want := read(t, goldenDir, "PInitReq.der")
	colons := strings.ToUpper(strings.TrimSuffix(strings.Join(strings.SplitAfter(hex.EncodeToString(want), "30"), "\n"), "\n"))
	for form, b := range map[string][]byte{
		"DER":         want,
		"PEM":         pem.EncodeToMemory(&pem.Block{Type: "SET MESSAGE", Bytes: want}),
		"hexadecimal": []byte(colons + "\n"),
		"base64":      []byte(base64.StdEncoding.EncodeToString(want) + "\n"),
	} {
		in, err := describe.Read(b)
		if err != nil || len(in) != 1 || in[0].Form != form || !bytes.Equal(in[0].Raw, want) {
			t.Errorf("%s: %+v, %v", form, in, err)
		}
	}
	n := described(t, new(describe.Describer), want)
	asJSON, err := json.Marshal(n)
	check(t, err)
	in, err := describe.Read(asJSON)
	if err != nil || len(in) != 1 || cmp.Diff(n, in[0].Node) != "" {
		t.Errorf("JSON: %v\n%s", err, cmp.Diff(n, in[0].Node))
	}
	for name, b := range map[string]string{
		"nothing": " \n", "an unended PEM block": "-----BEGIN X-----\nMAA=\n", "JSON of something else": `{"a":1}`,
		"too much": strings.Repeat("30", describe.InputOctetsMax),
	} {
		if in, err := describe.Read([]byte(b)); err == nil {
			t.Errorf("%s is read as %+v", name, in)
		}
	}
	two := slices.Concat(read(t, heldDir, "root.pem"), read(t, heldDir, "brand.pem"))
	if in, err := describe.Read(two); err != nil || len(in) != 2 || in[1].Name != "CERTIFICATE" {
		t.Errorf("two PEM blocks: %d, %v", len(in), err)
	}
}

func TestElements(t *testing.T) {
	t.Parallel()
	b, err := hex.DecodeString("a1" + "1f" + "0101ff" + "0201ff" + "06032a0304" + "0c0141" + "1e020042" + "0500" + "0402beef" + "0a0105")
	check(t, err)
	got := text(t, described(t, new(describe.Describer), b))
	for _, want := range []string{"[1]", "yes", "-1", "(1.2.3.4)", "A", "B", "null", "beef", "5"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in:\n%s", want, got)
		}
	}
}

func seeds(f *testing.F) {
	for _, pattern := range []string{goldenDir + "/*.der", recordingDir + "/0*", heldDir + "/brand.*"} {
		for _, file := range files(f, pattern) {
			f.Add(read(f, file))
		}
	}
}

// Whatever the input, it is read or refused.
func FuzzRead(f *testing.F) {
	seeds(f)
	f.Add([]byte("30 03 02:01\n01"))
	f.Add([]byte("MAMCAQE="))
	f.Fuzz(func(t *testing.T, b []byte) {
		in, err := describe.Read(b)
		if (err == nil) == (len(in) == 0) {
			t.Errorf("%d things, %v", len(in), err)
		}
	})
}

// Whatever the input, it is described, in lines of no more than 120 columns, and as the same in JSON.
func FuzzDescribe(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		n := described(t, new(describe.Describer), b)
		text(t, n)
		n.HTML(nil)
		asJSON, err := json.Marshal(n)
		if err != nil {
			t.Fatal(err)
		}
		var again describe.Node
		if err := json.Unmarshal(asJSON, &again); err != nil {
			t.Fatal(err)
		}
	})
}
