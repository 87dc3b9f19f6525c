package keyring

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/setkit/setkit/hsm"
	"github.com/setkit/setkit/hsm/hsmtest"
)

func TestMetrics(t *testing.T) {
	t.Parallel()
	var text bytes.Buffer
	stop, err := ServeMetrics("127.0.0.1:0", slog.New(slog.NewJSONHandler(&text, nil)))
	if err != nil {
		t.Fatal(err)
	}
	var line struct{ URL string }
	if err := json.Unmarshal(text.Bytes(), &line); err != nil {
		t.Fatalf("%v in %s", err, text.String())
	}
	tk := hsmtest.New(t)
	tok := tk.Open(t)
	if _, err := tok.GenerateKey(t.Context(), "pan-lookup", hsm.PurposeMAC, hsm.HMACSHA256); err != nil {
		t.Fatal(err)
	}
	mac, err := tok.MAC(t.Context(), "pan-lookup")
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := mac.Sum([]byte("4111111111111111")); err != nil {
			t.Fatal(err)
		}
	}
	page := get(t, line.URL)
	for _, want := range []string{
		`setkit_hsm_calls_total{code="CKR_OK",operation="mac",purpose="mac",token="` + tk.Label + `"} 3`,
		`setkit_hsm_call_seconds_count{operation="mac",purpose="mac",token="` + tk.Label + `"} 3`,
		`setkit_hsm_queue_seconds_bucket{token="` + tk.Label + `",le="+Inf"} [0-9]+`,
		`setkit_hsm_calls_total{code="CKR_OK",operation="administration",purpose="[a-z]*",token="` + tk.Label + `"} [0-9]+`,
		`setkit_hsm_up{token="` + tk.Label + `"} 1`,
		`go_goroutines [0-9]+`,
	} {
		if !regexp.MustCompile(`(?m)^` + strings.NewReplacer("{", `\{`, "}", `\}`, "+Inf", `\+Inf`).Replace(want) + `$`).MatchString(page) {
			t.Errorf("no %s in\n%s", want, page)
		}
	}
	if strings.Contains(page, "4111111111111111") || strings.Contains(page, tk.PIN) {
		t.Error("the metrics show a card number or a PIN")
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

func get(t *testing.T, url string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v", url, res.Status, err)
	}
	return string(body)
}
