package main

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/setkit/setkit/hsm"
	"github.com/setkit/setkit/hsm/hsmtest"
	"github.com/setkit/setkit/smartcard/cardtest"
	"github.com/setkit/setkit/smartcard/piv"
	"github.com/setkit/setkit/smartcard/virtual"
)

// bank is what an issuing bank has: a card master key in an HSM, and the
// certificate of the maker of its cards.
type bank struct {
	masterKey string // URI
	maker     string // file
	dir       string
	hsm       *hsm.Token
}

func newBank(t *testing.T) *bank {
	t.Helper()
	tk := hsmtest.New(t)
	b := &bank{masterKey: tk.KeyURI("card-master"), dir: t.TempDir(), hsm: tk.Open(t)}
	if _, err := b.hsm.GenerateKey(t.Context(), "card-master", hsm.PurposeMAC, hsm.AES256); err != nil {
		t.Fatal(err)
	}
	b.maker = b.file(t, "maker.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: virtual.NewCard().Maker()})))
	return b
}

func (b *bank) file(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(b.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func (b *bank) path(name string) string { return filepath.Join(b.dir, name) }

// managementKey derives a card's management key apart from the command.
func (b *bank) managementKey(t *testing.T, serial uint32) piv.ManagementKey {
	t.Helper()
	mac, err := b.hsm.CMAC(t.Context(), "card-master")
	if err != nil {
		t.Fatal(err)
	}
	var key []byte
	for i := byte(1); i <= 2; i++ {
		input := fmt.Appendf([]byte{0, 0, 0, i}, "setkit PIV management key\x00%d\x00\x00\x01\x00", serial)
		sum, err := mac.Sum(input)
		if err != nil {
			t.Fatal(err)
		}
		key = append(key, sum...)
	}
	return piv.ManagementKey{Algorithm: piv.AES256, Key: key}
}

// inLetters finds what the letters say, by what it is of: one page each.
func inLetters(t *testing.T, text string) map[string]string {
	t.Helper()
	found := map[string]string{}
	pages := strings.Split(text, "\f")
	if pages[len(pages)-1] != "" {
		t.Error("the last page has no form feed")
	}
	for _, page := range pages[:len(pages)-1] {
		m := regexp.MustCompile(`(?m)^        (PIN|PUK)    ?([0-9 ]+)$`).FindStringSubmatch(page)
		serial := regexp.MustCompile(`(?m)^    Card      (\d+)$`).FindStringSubmatch(page)
		if m == nil || serial == nil || strings.Count(page, m[1]+" ") == 0 {
			t.Fatalf("no letter:\n%s", page)
		}
		found[m[1]+" "+serial[1]] = strings.ReplaceAll(m[2], " ", "")
	}
	return found
}

// TestPersonaliseInProduction does all that a bank wants.
func TestPersonaliseInProduction(t *testing.T) {
	t.Parallel()
	b, reader := newBank(t), cardtest.New(t)
	serial := strconv.FormatUint(uint64(reader.Virtual.Serial()), 10)
	if _, stderr := wantCode(t, 1, "status", "--reader", reader.Name, "--production"); !strings.Contains(stderr, "PIN, PUK, management key") {
		t.Errorf("a new card in production: %s", stderr)
	}
	args := []string{"personalise", "--reader", reader.Name, "--production", "--master-key", b.masterKey, "--mailer", b.path("letters"), "--name", "Alice\x1b[2J Andersen", "--json"}
	if _, stderr := wantCode(t, 2, args...); !strings.Contains(stderr, "--attestation-root") {
		t.Errorf("without attestation: %s", stderr)
	}
	stdout, stderr := wantCode(t, 0, append(args, "--attestation-root", b.maker)...)
	var got result
	if err := json.Unmarshal([]byte(stdout), &got); err != nil {
		t.Fatal(err)
	}
	if !got.Attested || got.Secrets != b.path("letters") || got.Serial != serial || len(got.Card.FactorySecrets) != 0 {
		t.Errorf("got %s", stdout)
	}
	for n := 1; n <= stepCount; n++ {
		if !strings.Contains(stderr, fmt.Sprintf("[%d/%d] ", n, stepCount)) {
			t.Errorf("step %d is not shown:\n%s", n, stderr)
		}
	}
	letters, err := os.ReadFile(b.path("letters"))
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(b.path("letters")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("letters have mode %v, %v", info.Mode(), err)
	}
	told := inLetters(t, string(letters))
	pin, puk := told["PIN "+serial], told["PUK "+serial]
	if len(told) != 2 || len(pin) != randomPINDigits || len(puk) != randomPUKDigits || !bytes.Contains(letters, []byte("Alice?[2J Andersen")) {
		t.Errorf("letters:\n%s", letters)
	}
	if strings.Contains(stdout+stderr, pin) || strings.Contains(stdout+stderr, puk) {
		t.Error("a secret was printed")
	}
	checkCard(t, connect(t, reader.Name), secretsFile{PIN: pin, PUK: puk})
	err = connect(t, reader.Name).Do(t.Context(), func(tx *piv.Tx) error { return tx.Authenticate(b.managementKey(t, reader.Virtual.Serial())) })
	if err != nil {
		t.Errorf("the derived management key: %v", err)
	}
	wantCode(t, 0, "status", "--reader", reader.Name, "--production")
	// A complete card is left as it is.
	again := append(args, "--attestation-root", b.maker, "--resume")
	stdout, _ = wantCode(t, 0, again...)
	if err := json.Unmarshal([]byte(stdout), &got); err != nil || !got.WasComplete {
		t.Errorf("resumed: %v, %s", err, stdout)
	}
	checkCard(t, connect(t, reader.Name), secretsFile{PIN: pin, PUK: puk})
}

// Letters go to a printer on the standard output, and nothing else.
func TestMailerToPrinter(t *testing.T) {
	t.Parallel()
	b, reader := newBank(t), cardtest.New(t)
	stdout, stderr := wantCode(t, 0, "personalise", "--reader", reader.Name, "--master-key", b.masterKey, "--mailer", "-", "--key-management-key", "ec-p256")
	told := inLetters(t, stdout)
	serial := strconv.FormatUint(uint64(reader.Virtual.Serial()), 10)
	if len(told) != 2 || strings.Contains(stdout, "[1/") || !strings.Contains(stderr, "is personalised") {
		t.Errorf("stdout:\n%s\nstderr:\n%s", stdout, stderr)
	}
	if err := connect(t, reader.Name).Do(t.Context(), func(tx *piv.Tx) error { return tx.VerifyPIN([]byte(told["PIN "+serial])) }); err != nil {
		t.Error(err)
	}
}

func TestPINCommands(t *testing.T) {
	reader := cardtest.New(t)
	for name, value := range map[string]string{
		"PIN": "123456", "PUK": "12345678", "NEW_PIN": "864209", "NEW_PUK": "13572468", "WRONG": "000000", "SHORT": "123",
	} {
		t.Setenv("TEST_"+name, value)
	}
	with := func(command string, args ...string) []string {
		return append([]string{command, "--reader", reader.Name}, args...)
	}
	pin := func(proof string, more ...string) []string {
		return append(with("pin", "--pin-source", "env:TEST_"+proof, "--new-pin-source", "env:TEST_NEW_PIN"), more...)
	}
	unblock := func(proof string, more ...string) []string {
		return append(with("unblock", "--puk-source", "env:TEST_"+proof, "--new-pin-source", "env:TEST_NEW_PIN"), more...)
	}
	for _, tt := range []struct {
		code int
		want string
		args []string
	}{
		{1, "6 to 8", with("pin", "--pin-source", "env:TEST_PIN", "--new-pin-source", "env:TEST_SHORT")},
		{1, "every card comes with", with("pin", "--pin-source", "env:TEST_PIN", "--new-pin-source", "env:TEST_PIN")},
		{0, "has the new PIN", pin("PIN")},
		{1, "2 tries left", pin("WRONG")},
		{1, "1 try left", pin("WRONG")},
		{1, "--last-try", pin("NEW_PIN")}, // even the right one
		{1, "set-card unblock", pin("WRONG", "--last-try")},
		{1, "set-card unblock", pin("NEW_PIN", "--last-try")}, // blocked now
		{0, "has the new PUK", with("puk", "--puk-source", "env:TEST_PUK", "--new-puk-source", "env:TEST_NEW_PUK")},
		{1, "2 tries left", unblock("PUK")},
		{0, `"serial": `, unblock("NEW_PUK", "--json")},
		{1, "2 tries left", unblock("PUK")},
		{1, "1 try left", unblock("PUK")},
		{1, "--last-try", unblock("NEW_PUK")},
		{1, "set-card reset", unblock("PUK", "--last-try")},
		{1, "set-card reset", unblock("NEW_PUK", "--last-try")},
		{0, "", with("status", "--json")},
		{0, "as it left the factory", with("reset", "--confirm", strconv.FormatUint(uint64(reader.Virtual.Serial()), 10))},
		{0, "has the new PIN", pin("PIN")},
	} {
		stdout, stderr := wantCode(t, tt.code, tt.args...)
		if !strings.Contains(stdout+stderr, tt.want) {
			t.Errorf("set-card %s: got %q, want %q", strings.Join(tt.args, " "), stdout+stderr, tt.want)
		}
	}
}

func TestCertCommands(t *testing.T) {
	t.Parallel()
	b, reader := newBank(t), cardtest.New(t)
	wantCode(t, 1, "cert", "get", "--reader", reader.Name, "--slot", "9c")
	wantCode(t, 0, "personalise", "--reader", reader.Name, "--master-key", b.masterKey, "--secrets-file", b.path("secrets"), "--key-management-key", "ec-p256")
	text, _ := wantCode(t, 0, "cert", "get", "--reader", reader.Name, "--slot", "9c")
	mine := b.file(t, "9c.pem", text)
	text, _ = wantCode(t, 0, "cert", "get", "--reader", reader.Name, "--slot", "9d")
	other := b.file(t, "9d.pem", text)

	on := []string{"--reader", reader.Name, "--slot", "9c"}
	for _, tt := range []struct {
		code int
		want string
		args []string
	}{
		{1, "--master-key", append([]string{"cert", "delete"}, on...)},
		{0, "has no certificate now", append([]string{"cert", "delete", "--master-key", b.masterKey}, on...)},
		{1, "no certificate for slot 9c", append([]string{"cert", "delete", "--master-key", b.masterKey}, on...)},
		{1, "no certificate for slot 9c", append([]string{"cert", "get"}, on...)},
		{1, "not of the key", append([]string{"cert", "put", "--master-key", b.masterKey, "--in", other}, on...)},
		{1, "--in", append([]string{"cert", "put", "--master-key", b.masterKey, "--in", b.path("secrets")}, on...)},
		{0, "has the certificate of", append([]string{"cert", "put", "--master-key", b.masterKey, "--in", mine, "--production"}, on...)},
		{0, `"slot": "9c"`, []string{"cert", "list", "--reader", reader.Name, "--json"}},
		{0, "CN=Card ", append([]string{"cert", "get", "--json"}, on...)},
	} {
		stdout, stderr := wantCode(t, tt.code, tt.args...)
		if !strings.Contains(stdout+stderr, tt.want) {
			t.Errorf("set-card %s: got %q, want %q", strings.Join(tt.args, " "), stdout+stderr, tt.want)
		}
	}
	if again, _ := wantCode(t, 0, "cert", "get", "--reader", reader.Name, "--slot", "9c"); again != readFile(t, mine) {
		t.Errorf("got\n%s", again)
	}
	// What everybody can manage is refused in production, and only there.
	wantCode(t, 0, "reset", "--reader", reader.Name, "--confirm", strconv.FormatUint(uint64(reader.Virtual.Serial()), 10))
	if _, stderr := wantCode(t, 1, append([]string{"cert", "put", "--in", mine, "--production"}, on...)...); !strings.Contains(stderr, "--production refuses") {
		t.Error(stderr)
	}
	if _, stderr := wantCode(t, 1, append([]string{"cert", "put", "--in", mine}, on...)...); !strings.Contains(stderr, "no key in slot 9c") {
		t.Error(stderr)
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// batchReport reads a report by account: the last rows of it.
func batchReport(t *testing.T, path string) map[string]reportRow {
	t.Helper()
	lines, err := csv.NewReader(strings.NewReader(readFile(t, path))).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	last := map[string]reportRow{}
	for _, fields := range lines[1:] {
		row, err := parseReportRow(fields)
		if err != nil {
			t.Fatal(err)
		}
		last[row.Account] = row
	}
	return last
}

// TestBatch issues four cards: two of three readers have a good card at first,
// one a card of somebody's. The run is continued, with a card that was pulled in
// the middle, and with a new one.
func TestBatch(t *testing.T) {
	b := newBank(t)
	readers := []*cardtest.Card{cardtest.New(t), cardtest.New(t), cardtest.New(t)}
	spoilt := readers[1].Virtual
	err := piv.New(spoilt, piv.Options{}).Do(t.Context(), func(tx *piv.Tx) error { return tx.ChangePIN([]byte(factoryPIN), []byte("864209")) })
	if err != nil {
		t.Fatal(err)
	}
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	list := b.file(t, "list.csv", "\uFEFFaccount,town,name\nalice,Oslo,Alice Andersen\nbob,Rome,\"Bob, Jr.\"\ncarol,Bonn,Carol\ndan,Bern,Dan\n")
	args := []string{
		"batch", "--cardholders", list, "--report", b.path("report.csv"), "--wait", "300ms", "--production", "--attestation-root", b.maker,
		"--master-key", b.masterKey, "--secrets-dir", b.path("secrets"), "--secrets-recipient", identity.Recipient().String(), "--key-management-key", "ec-p256",
	}
	_, stderr := wantCode(t, 1, args...)
	if !strings.Contains(stderr, "2 of 4 cardholders have no card yet") || !strings.Contains(stderr, "same report") {
		t.Errorf("first run: %s", stderr)
	}
	first := batchReport(t, b.path("report.csv"))
	if row := first["alice"]; row.State != stateDone || !row.Attested || len(row.SignatureKey) != 64 || row.Name != "Alice Andersen" {
		t.Errorf("alice: %+v", row)
	}
	if row := first["bob"]; row.State != stateDone || row.Secrets == "" {
		t.Errorf("bob: %+v", row)
	}
	if !strings.Contains(readFile(t, b.path("report.csv")), fmt.Sprintf("failed,%d,", spoilt.Serial())) {
		t.Errorf("the card of somebody's is not in the report:\n%s", readFile(t, b.path("report.csv")))
	}

	// A new card, pulled as its PUK is set: the report has a row that it was begun.
	readers[1].Unplug()
	next := virtual.NewCard()
	readers[1].Plug(pullAt{next})
	wantCode(t, 1, args...)
	if row := batchReport(t, b.path("report.csv"))["carol"]; row.State != stateFailed || row.Serial != fmt.Sprint(next.Serial()) {
		t.Errorf("carol: %+v", row)
	}
	// The same card once more, which is Carol's wherever she is on the list, and one for Dan.
	b.file(t, "list.csv", "name,account\nDan,dan\nCarol,carol\nAlice Andersen,alice\n\"Bob, Jr.\",bob\n")
	readers[1].Unplug()
	readers[1].Plug(next)
	last := cardtest.New(t)
	stdout, _ := wantCode(t, 0, append(args, "--json")...)
	var summary batchSummary
	if err := json.Unmarshal([]byte(stdout), &summary); err != nil || summary.Done != 4 || summary.Cardholders != 4 {
		t.Errorf("last run: %v, %s", err, stdout)
	}
	cards := []*virtual.Card{readers[0].Virtual, readers[2].Virtual, next, last.Virtual}
	final := batchReport(t, b.path("report.csv"))
	bank := &issuer{issuance: &issuance{keys: &managementKeys{algorithm: piv.AES256, master: func(data []byte) ([]byte, error) {
		mac, err := b.hsm.CMAC(t.Context(), "card-master")
		if err != nil {
			return nil, err
		}
		return mac.Sum(data)
	}}}, identity: identity}
	for account, row := range final {
		of := slices.IndexFunc(cards, func(c *virtual.Card) bool { return fmt.Sprint(c.Serial()) == row.Serial })
		if of < 0 || row.State != stateDone || account == "carol" && cards[of] != next {
			t.Errorf("%s: %+v", account, row)
			continue
		}
		bank.good(t, cards[of], account, row.Secrets)
		cards = slices.Delete(cards, of, of+1)
	}
	// Nobody is left: nothing is done.
	before := readFile(t, b.path("report.csv"))
	wantCode(t, 0, args...)
	if readFile(t, b.path("report.csv")) != before {
		t.Error("a batch that is over has changed its report")
	}
}

// pullAt is a card that is pulled when its PIN is to be changed.
type pullAt struct{ *virtual.Card }

func (p pullAt) Transmit(ctx context.Context, cmd []byte) ([]byte, error) {
	if cmd[1] == 0x24 && cmd[3] == 0x80 {
		return nil, errors.New("test: pulled")
	}
	return p.Card.Transmit(ctx, cmd)
}

func TestCardholdersRefused(t *testing.T) {
	t.Parallel()
	b := &bank{dir: t.TempDir()}
	for name, text := range map[string]string{
		"empty":       "",
		"no account":  "name\nAlice\n",
		"same":        "name,account\nAlice,1\nBob,1\n",
		"no name":     "name,account\n ,1\n",
		"PAN":         "name,account\nAlice,4111 1111 1111 1111\n",
		"columns":     "name,account\nAlice\n",
		"escape code": "name,account\nAlice\x1b[2J,1\n",
	} {
		if got, err := readCardholders(b.file(t, "list.csv", text)); err == nil {
			t.Errorf("%s: got %+v, want a refusal", name, got)
		}
	}
	got, err := readCardholders(b.file(t, "list.csv", "name,account\r\nAlice,4111 1111 1111 1112\r\n"))
	if err != nil || !slices.Equal(got, []holder{{"Alice", "4111 1111 1111 1112"}}) {
		t.Errorf("got %+v, %v", got, err)
	}
}

// A row that was cut off is as if it weren't there, and the report goes on.
func TestReportIsContinued(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "report.csv")
	at := time.Now().UTC().Truncate(time.Second)
	rows := []reportRow{
		{at, "alice", "Alice", stateBegun, "7", "", "", false, "secrets/7", ""},
		{at, "alice", "Alice", stateFailed, "7", "", "", false, "", "\"pulled\",\nreally"},
	}
	r, err := openReport(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range rows {
		if err := r.add(row); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.file.WriteString(`2026-01-01T00:00:00Z,alice,Alice,done,"7`); err != nil {
		t.Fatal(err)
	}
	r.file.Close()
	if r, err = openReport(path); err != nil {
		t.Fatal(err)
	}
	defer r.file.Close()
	rows[1].Problem = "\"pulled\",?really"
	if !slices.Equal(r.rows, rows) || r.done("alice") || r.told("alice", "7") != "secrets/7" {
		t.Errorf("got %+v", r.rows)
	}
	if owner, ok := r.owner("7"); !ok || owner.Account != "alice" || owner.State != stateBegun {
		t.Errorf("owner %+v", owner)
	}
	if _, ok := r.owner(""); ok || r.met("8") || !r.met("7") {
		t.Error("cards are mixed up")
	}
	if err := os.WriteFile(path, []byte("name,account\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openReport(path); err == nil || !strings.Contains(err.Error(), "no report") {
		t.Errorf("a list as a report: %v", err)
	}
}
