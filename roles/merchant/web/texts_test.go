package web

import (
	"io/fs"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/setkit/setkit/roles/merchant"
)

// sources are the files of this package.
var sources = os.DirFS(".")

var verb = regexp.MustCompile(`%[a-z%]`)

// Every text is there in every language, with the same gaps to fill in the same order.
func TestTextsComplete(t *testing.T) {
	t.Parallel()
	for key, text := range texts {
		for l, s := range text {
			if strings.TrimSpace(s) == "" {
				t.Errorf("text %q is missing in %v", key, lang(l))
			}
			if got, want := verb.FindAllString(s, -1), verb.FindAllString(text[english], -1); !slices.Equal(got, want) {
				t.Errorf("text %q has %v in %v, and %v in English", key, got, lang(l), want)
			}
		}
	}
}

// Pages and code name no text that is not there, and no text is there for nothing.
func TestTextsUsed(t *testing.T) {
	t.Parallel()
	used := make(map[string]bool)
	for _, s := range merchant.OrderStates {
		used["state-"+string(s)], used["head-"+string(s)], used["say-"+string(s)] = true, true, true
	}
	for _, s := range []string{"cancel", "failure"} {
		used["head-"+s], used["say-"+s] = true, true
	}
	for name := range actions {
		used["action-"+name], used["hint-"+name] = true, true
	}
	for _, k := range []merchant.Kind{merchant.KindAuthorize, merchant.KindReverse, merchant.KindCapture, merchant.KindUncapture, merchant.KindRefund, merchant.KindUndoRefund, merchant.KindBatch} {
		used["action-"+string(k)] = true
	}
	for _, op := range batchActions {
		used["action-batch-"+string(op)], used["hint-batch-"+string(op)] = true, true
	}
	for _, e := range []string{"ordered", "authorized", "declined", "captured", "refunded", "undone"} {
		used["event-"+e] = true
	}
	for _, file := range []struct {
		fs.FS
		name, pattern string
	}{
		{files, "pages/shop.html", `[{(]+t "([^"]+)"`}, {files, "pages/office.html", `[{(]+t "([^"]+)"`},
		{sources, "shop.go", `say\("([^"]+[a-z])"`}, {sources, "office.go", `say\("([^"]+[a-z])"`},
		{sources, "texts.go", `say\("([^"]+[a-z])"`},
	} {
		raw, err := fs.ReadFile(file.FS, file.name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(file.pattern).FindAllStringSubmatch(string(raw), -1) {
			used[m[1]] = true
		}
		if strings.HasSuffix(file.name, ".html") {
			continue
		}
		for _, m := range regexp.MustCompile(`tell\(w, r, [A-Za-z.]+, "([^"]+)"`).FindAllStringSubmatch(string(raw), -1) {
			used[m[1]], used[m[1]+"-text"] = true, true
		}
	}
	used["unavailable"], used["unavailable-text"] = true, true
	for _, key := range slices.Sorted(maps.Keys(used)) {
		if _, ok := texts[key]; !ok {
			t.Errorf("there is no text %q", key)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(texts)) {
		if !used[key] {
			t.Errorf("nothing says the text %q", key)
		}
	}
}
