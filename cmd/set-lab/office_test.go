package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp/kb"

	"github.com/setkit/setkit/cmd/internal/browsertest"
)

// officeTab is a tab of the back office.
type officeTab struct {
	*browsertest.Tab
	t *testing.T
}

// reach goes with the Tab key to where an expression is true of the element e.
func (b officeTab) reach(expression string) {
	b.t.Helper()
	for range 300 {
		b.Type(kb.Tab)
		if b.Is(`(e => ` + expression + `)(document.activeElement)`) {
			return
		}
	}
	b.t.Fatalf("the Tab key does not lead to where %s:\n%s", expression, b.Text())
}

// twice clicks the button with this name twice. Of two clicks a browser may send the second one only: so the first
// is sent by script.
func (b officeTab) twice(name string) {
	b.t.Helper()
	button := fmt.Sprintf(`[...document.querySelectorAll("main button")].find(e => (e.ariaLabel ?? e.innerText).trim() === %q)`, name)
	b.Until(`!!` + button)
	b.Run(`(e => {
		const form = new URLSearchParams(new FormData(e.form));
		if (e.form.method === "post") fetch(e.form.action, {method: "POST", body: form, keepalive: true});
		e.click();
	})(` + button + `)`)
}

// deed asks for something on the page of an order or of batches, and confirms it, with two clicks each. field and
// value are what is filled in before, if anything.
func (b officeTab) deed(action, field, value string) {
	b.t.Helper()
	form := fmt.Sprintf(`[...document.querySelectorAll("form")].find(f => f.querySelector("button")?.ariaLabel === "Continue … %s")`, action)
	b.Until(`!!` + form)
	if field != "" {
		b.Run(fmt.Sprintf(`%s.elements[%q].value = %q`, form, field, value))
	}
	b.twice("Continue … " + action)
	b.Until(`!!document.querySelector(".question")`)
	b.twice(action)
	b.Until(`!document.querySelector(".question")`)
}

// await waits for something to be true of a page that loads itself anew, and does so sooner.
func (b officeTab) await(expression string) {
	b.t.Helper()
	for !b.Is(expression) {
		time.Sleep(pollInterval)
		b.Is(`(location.reload(), true)`)
		b.Until(`document.readyState === "complete"`)
	}
}

// sums waits until the page of an order shows these amounts, of what is authorized, captured and refunded, and
// nothing that is awaited.
func (b officeTab) sums(want string) {
	b.t.Helper()
	b.await(fmt.Sprintf(`!document.querySelector(".wait") && [...document.querySelectorAll(".sums dd")].slice(1).map(e => e.innerText.replace(/\s.*/, "")).join(" ") === %q`, want))
}

// An operator does everything that the back office offers with a browser: each button clicked twice does it
// once, and neither a reload nor the back button does it again.
func (w *scenarioWorld) testOffice(t *testing.T) {
	whole, split, instalments := w.paid(t, ""), w.paid(t, "split"), w.paid(t, "install 5")
	b := officeTab{browsertest.New(t, "office").Open(t, "en"), t}
	w.logIn(t, b)
	b.Sees(fmt.Sprint(instalments.Number))
	b.Accessible("orders")
	w.testOfficeKeyboard(b, whole)
	b.Accessible("order")
	b.deed("Refund", "amount", "5.00")
	b.sums("30.00 20.00 5.00")
	b.Reload()
	b.sums("30.00 20.00 5.00")
	b.Run(`history.back()`) // to the question, which is asked anew
	b.Until(`!!document.querySelector(".question")`)
	b.Reload()
	b.Until(`!!document.querySelector(".question")`)
	b.Press("Cancel")
	b.sums("30.00 20.00 5.00")
	if refunds := w.refunds(t, whole); refunds != 1 {
		t.Errorf("%d refunds, want 1", refunds)
	}
	b.deed("Undo the refund", "", "")
	b.sums("30.00 20.00 0.00")
	b.deed("Void", "", "") // the capture
	b.sums("30.00 0.00 0.00")
	b.deed("Void", "", "") // the authorization
	b.await(`document.querySelector(".state").innerText === "taken back"`)

	b = officeTab{b.Second(), t} // a tab has but so much time
	b.Visit(w.office() + fmt.Sprintf("/orders/%d", split.Number))
	b.deed("Charge a shipment", "amount", "4.50")
	b.sums("4.50 0.00 0.00")
	b.Visit(w.office() + fmt.Sprintf("/orders/%d", instalments.Number))
	b.sums("7.30 0.00 0.00")
	b.deed("Charge the next payment", "", "")
	b.sums("14.60 0.00 0.00")
	w.testOfficeBatches(b, instalments)
	w.testOfficeLoggedOut(t, officeTab{b.Second(), t})
}

func (w *scenarioWorld) office() string { return "http://" + w.addr("office") }

func (w *scenarioWorld) officePassword(t *testing.T) string {
	t.Helper()
	file, err := w.secret(officePassword)
	if err != nil {
		t.Fatal(err)
	}
	password, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(password))
}

// logIn logs in with the keyboard.
func (w *scenarioWorld) logIn(t *testing.T, b officeTab) {
	t.Helper()
	b.Visit(w.office() + "/")
	b.Until(`document.activeElement?.id === "name"`)
	b.Accessible("login")
	b.Type(officeOperator + kb.Tab + w.officePassword(t) + kb.Enter)
	b.Sees("Log out (" + officeOperator + ")")
}

// paid gives an order that is paid, as far as its terms have it at once.
func (w *scenarioWorld) paid(t *testing.T, terms string) order {
	t.Helper()
	o, err := w.placeOrder(t.Context(), "atlas", 1, terms)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.pay(t.Context(), o); err != nil && terms == "" {
		t.Fatal(err)
	}
	for end := time.Now().Add(startTimeout); o.State != "authorized" && o.State != "received"; time.Sleep(pollInterval) {
		if time.Now().After(end) {
			t.Fatalf("the order is %s", o.State)
		}
		if o, err = w.showOrder(t.Context(), o.ID); err != nil {
			t.Fatal(err)
		}
	}
	return o
}

// refunds tells how many refunds the merchant's books have of an order.
func (w *scenarioWorld) refunds(t *testing.T, o order) (n int) {
	t.Helper()
	out, err := w.run(t.Context(), w.env("merchant", merchantSecrets), "set-merchant", "orders", "--json", "--config", w.config("merchant"))
	if err != nil {
		t.Fatal(err)
	}
	var list []struct {
		Number  int64
		Payment *struct{ Authorizations []struct{ Refunds []any } }
	}
	if err := json.Unmarshal(out, &list); err != nil {
		t.Fatal(err)
	}
	for _, l := range list {
		if l.Number == o.Number {
			for _, a := range l.Payment.Authorizations {
				n += len(a.Refunds)
			}
		}
	}
	return n
}

// From the list of orders, an order is reduced and partly captured without a mouse.
func (w *scenarioWorld) testOfficeKeyboard(b officeTab, o order) {
	b.reach(fmt.Sprintf(`e.tagName === "A" && e.innerText === "%d"`, o.Number))
	b.Type(kb.Enter)
	b.sums("36.50 0.00 0.00")
	for _, deed := range []struct{ action, amount, sums string }{{"Reduce", "30", "30.00 0.00 0.00"}, {"Capture", "20.00", "30.00 20.00 0.00"}} {
		b.reach(fmt.Sprintf(`e.name === "amount" && e.form.querySelector("h3").innerText === %q`, deed.action))
		b.Type(deed.amount)
		b.reach(fmt.Sprintf(`e.ariaLabel === "Continue … %s"`, deed.action))
		b.Type(" ")
		b.Until(`!!document.querySelector(".question")`)
		if deed.action == "Capture" {
			b.Accessible("confirm")
		}
		b.reach(fmt.Sprintf(`e.tagName === "BUTTON" && e.innerText === %q`, deed.action))
		b.Type(" ")
		b.Until(`!document.querySelector(".question")`)
		b.sums(deed.sums)
	}
}

// A batch is opened, an order is captured into it, and it is closed.
func (w *scenarioWorld) testOfficeBatches(b officeTab, o order) {
	told := func(text string) {
		b.t.Helper()
		b.await(fmt.Sprintf(`!document.querySelector(".wait") && document.querySelector("main").innerText.replace(/\s+/g, " ").includes(%q)`, text))
	}
	b.Press("Batches")
	b.deed("Open a batch", "", "")
	b.Sees("success") // by itself
	number := browsertest.Value[string](b.Tab, `document.querySelector("dd").innerText`)
	b.Press("Batches")
	b.Sees("Open a batch")
	b.Accessible("batches")
	b.deed("Show totals", "batch", number)
	told("the gateway 0 0 0 0") // of nothing, which has no currency
	b.Visit(w.office() + fmt.Sprintf("/orders/%d", o.Number))
	b.deed("Capture", "", "")
	b.sums("14.60 14.60 0.00")
	b.Press("Batches")
	b.deed("Show totals", "batch", number)
	told("14.60")
	b.Accessible("batch-totals")
	b.Press("Batches")
	b.deed("Close a batch", "batch", number)
	told("Closed")
	b.Reload()
	told("Closed")
}

// Who was logged in and is no more is told so, whether a page is asked for or something is to be done.
func (w *scenarioWorld) testOfficeLoggedOut(t *testing.T, b officeTab) {
	b.Visit(w.office() + "/batch/open")
	b.Until(`!!document.querySelector(".question")`)
	other := b.Second()
	if err := w.restart(t.Context(), "merchant"); err != nil { // who was logged in is so no more
		t.Fatal(err)
	}
	other.Visit(w.office() + "/")
	other.Sees("You are not logged in any more. Please log in again.")
	b.Foreign() // it notes that the answer is a refusal
	b.Press("Open a batch")
	b.Sees("You are not logged in any more, and what you asked for was not done.")
	other.Accessible("logged-out")
}
