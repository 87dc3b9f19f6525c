package main

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/setkit/setkit/cmd/internal/cli"
)

const (
	cardholdersMax = 100_000
	fieldBytesMax  = 256
	batchFileBytes = 64 << 20 // at most, of cardholders or a report
)

// States of a cardholder's card in the report.
const (
	stateBegun  = "begun"  // secrets were told, and the card may have them
	stateDone   = "done"   // the card is good
	stateFailed = "failed" // or refused
)

// readCardholders reads the CSV of a batch.
func readCardholders(path string) ([]holder, error) {
	text, err := readBatchFile(path)
	if err != nil {
		return nil, err
	}
	rows, err := csv.NewReader(bytes.NewReader(bytes.TrimPrefix(text, []byte("\uFEFF")))).ReadAll()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(rows) == 0 {
		return nil, fmt.Errorf("%s is empty: want a first line with the columns name and account", path)
	}
	name, account := slices.Index(rows[0], "name"), slices.Index(rows[0], "account")
	if name < 0 || account < 0 {
		return nil, fmt.Errorf("%s: its first line names the columns %s: want name and account among them", path, strings.Join(rows[0], ", "))
	}
	if len(rows)-1 > cardholdersMax {
		return nil, fmt.Errorf("%s: more than %d cardholders", path, cardholdersMax)
	}
	var holders []holder
	lines := map[string]int{} // by account
	for i, row := range rows[1:] {
		h := holder{Name: strings.TrimSpace(row[name]), Account: strings.TrimSpace(row[account])}
		if err := h.check(); err != nil {
			return nil, fmt.Errorf("%s: cardholder %d: %w", path, i+1, err)
		}
		if before, ok := lines[h.Account]; ok {
			return nil, fmt.Errorf("%s: cardholders %d and %d have the same account", path, before, i+1)
		}
		lines[h.Account] = i + 1
		holders = append(holders, h)
	}
	return holders, nil
}

func readBatchFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, batchFileBytes+1))
	if err == nil && len(text) > batchFileBytes {
		err = fmt.Errorf("%s has more than %d bytes", path, batchFileBytes)
	}
	return text, err
}

// check refuses what cannot be printed, and a card number: it would end up in
// letters, reports and on screens.
func (h holder) check() error {
	for _, field := range []struct{ name, value string }{{"name", h.Name}, {"account", h.Account}} {
		if field.value == "" || len(field.value) > fieldBytesMax || cli.Printable(field.value) != field.value {
			return fmt.Errorf("its %s is not 1 to %d bytes of printable text", field.name, fieldBytesMax)
		}
	}
	if looksLikePAN(h.Account) {
		return errors.New("its account looks like a card number: give a reference of the bank's that is none")
	}
	return nil
}

// looksLikePAN says if text has 12 to 19 digits, perhaps in groups, of which the
// last one checks the others (ISO/IEC 7812-1, annex B).
func looksLikePAN(text string) bool {
	digits := strings.NewReplacer(" ", "", "-", "").Replace(text)
	if len(digits) < 12 || len(digits) > 19 {
		return false
	}
	sum := 0
	for i := range len(digits) {
		d := int(digits[len(digits)-1-i] - '0')
		if d < 0 || d > 9 {
			return false
		}
		if i%2 == 1 {
			d *= 2
		}
		sum += d/10 + d%10
	}
	return sum%10 == 0
}

// A reportRow is one thing that happened to one card.
type reportRow struct {
	Time         time.Time `json:"time"`
	Account      string    `json:"account"`
	Name         string    `json:"name"`
	State        string    `json:"state"`
	Serial       string    `json:"serial"`
	SignatureKey string    `json:"signatureKeySHA256"`
	UnlockingKey string    `json:"keyManagementKeySHA256"`
	Attested     bool      `json:"attested"`
	Secrets      string    `json:"secrets"`
	Problem      string    `json:"problem"`
}

var reportHeader = []string{
	"time", "account", "name", "state", "serial", "signature-key-sha256", "key-management-key-sha256", "attested", "secrets", "problem",
}

func (r reportRow) fields() []string {
	fields := []string{
		r.Time.UTC().Format(time.RFC3339), r.Account, r.Name, r.State, r.Serial, r.SignatureKey, r.UnlockingKey,
		strconv.FormatBool(r.Attested), r.Secrets, r.Problem,
	}
	for i := range fields { // a row is a line
		fields[i] = cli.Printable(fields[i])
	}
	return fields
}

func parseReportRow(fields []string) (reportRow, error) {
	if len(fields) != len(reportHeader) {
		return reportRow{}, fmt.Errorf("%d columns, want %d", len(fields), len(reportHeader))
	}
	at, err := time.Parse(time.RFC3339, fields[0])
	if err != nil {
		return reportRow{}, err
	}
	attested, err := strconv.ParseBool(fields[7])
	if err != nil {
		return reportRow{}, err
	}
	return reportRow{at, fields[1], fields[2], fields[3], fields[4], fields[5], fields[6], attested, fields[8], fields[9]}, nil
}

// A report is a file to which rows are added. What it says is how a batch that was
// stopped is continued.
type report struct {
	file *os.File
	rows []reportRow
}

// openReport opens a report or makes one. A last row that is incomplete, because
// the machine stopped, is cut off: nothing was done yet that it would tell.
func openReport(path string) (*report, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	r := &report{file: f}
	if err := r.read(path); err != nil {
		f.Close()
		return nil, err
	}
	return r, nil
}

func (r *report) read(path string) error {
	text, err := readBatchFile(path)
	if err != nil {
		return err
	}
	text = text[:bytes.LastIndexByte(text, '\n')+1]
	if err := r.file.Truncate(int64(len(text))); err != nil {
		return err
	}
	if _, err := r.file.Seek(0, io.SeekEnd); err != nil {
		return err
	}
	if len(text) == 0 {
		return r.append(reportHeader)
	}
	reader := csv.NewReader(bytes.NewReader(text))
	reader.FieldsPerRecord = -1
	lines, err := reader.ReadAll()
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if !slices.Equal(lines[0], reportHeader) {
		return fmt.Errorf("%s is no report of set-card batch: name another file", path)
	}
	for i, fields := range lines[1:] {
		row, err := parseReportRow(fields)
		if err != nil {
			return fmt.Errorf("%s: line %d: %w", path, i+2, err)
		}
		r.rows = append(r.rows, row)
	}
	return nil
}

// add adds a row, durably.
func (r *report) add(row reportRow) error {
	if err := r.append(row.fields()); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	r.rows = append(r.rows, row)
	return nil
}

func (r *report) append(fields []string) error {
	var line bytes.Buffer
	w := csv.NewWriter(&line)
	if err := w.Write(fields); err != nil {
		return err
	}
	w.Flush()
	if _, err := r.file.Write(line.Bytes()); err != nil {
		return err
	}
	return r.file.Sync()
}

// last finds the last row that fits.
func (r *report) last(fits func(reportRow) bool) (reportRow, bool) {
	for _, row := range slices.Backward(r.rows) {
		if fits(row) {
			return row, true
		}
	}
	return reportRow{}, false
}

// done says if an account has its card.
func (r *report) done(account string) bool {
	_, ok := r.last(func(row reportRow) bool { return row.Account == account && row.State == stateDone })
	return ok
}

// owner is the account that a card is of, or whose secrets it may have.
func (r *report) owner(serial string) (reportRow, bool) {
	for _, state := range []string{stateDone, stateBegun} {
		row, ok := r.last(func(row reportRow) bool { return row.Serial == serial && row.State == state })
		if ok && serial != "" {
			return row, true
		}
	}
	return reportRow{}, false
}

// met says if a card was tried before.
func (r *report) met(serial string) bool {
	_, ok := r.last(func(row reportRow) bool { return row.Serial == serial })
	return ok && serial != ""
}

// told is where the secrets of an account's card were told last.
func (r *report) told(account, serial string) string {
	row, _ := r.last(func(row reportRow) bool {
		return row.Account == account && row.Serial == serial && row.State == stateBegun
	})
	return row.Secrets
}
