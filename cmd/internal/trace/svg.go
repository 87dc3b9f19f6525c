package trace

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"
)

// Measures of the picture, in pixels.
const (
	svgTimes    = 80  // column of times and sizes
	svgCardGap  = 100 // between the card and the wallet
	svgGap      = 216 // between other lanes
	svgMargin   = 62  // right of the last lane
	svgHead     = 56  // title and subtitle
	svgLegend   = 26
	svgLaneH    = 40
	svgPhaseH   = 38
	svgArrowH   = 25 // name and arrow
	svgPartW    = 206
	svgPartH    = 29
	svgRowSpace = 6
)

// colours are those of the parties: fill of what only they read, and the darker one of borders and text.
var colours = map[string]struct{ fill, dark string }{
	Card: {"#fdf1dc", "#8a5a00"}, Wallet: {"#fdf1dc", "#8a5a00"}, Merchant: {"#e2f3e6", "#1f6f3d"},
	Gateway: {"#e1ecfa", "#1f5aa6"}, Issuer: {"#efe6f8", "#6b3fa0"}, "": {"#f4f4f4", "#666666"},
	CardholderCA: {"#ececec", "#444444"}, MerchantCA: {"#ececec", "#444444"}, PaymentCA: {"#ececec", "#444444"},
}

// svgStyle needs no font that a browser may not have.
const svgStyle = `text { font-family: Helvetica, Arial, sans-serif; font-size: 11px; fill: #222 }
.title { font-size: 19px; font-weight: bold }
.sub { font-size: 12px; fill: #555 }
.lane { font-size: 13px; font-weight: bold; fill: #fff; text-anchor: middle }
.below { font-size: 10.5px; fill: #fff; text-anchor: middle }
.phase { font-size: 13px; font-weight: bold }
.name { font-size: 13px; font-weight: bold; text-anchor: middle }
.about { font-weight: normal; font-size: 12px; fill: #444 }
.what { font-weight: bold; font-size: 11.5px }
.who { font-size: 10.5px; fill: #333 }
.time { font-size: 10.5px; fill: #555 }
.key { font-size: 10.5px; fill: #555 }
.mid { text-anchor: middle }
.end { text-anchor: end }
.line { stroke: #333; stroke-width: 1.5; fill: none }
.life { stroke: #bbb; stroke-width: 1.5; stroke-dasharray: 2 4 }
`

// svgSymbols are a closed and an open padlock and a pen, 14 pixels high.
const svgSymbols = `<defs>
<marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto-start-reverse"><path d="M0 0L10 5L0 10z" fill="#333"/></marker>
<symbol id="locked" viewBox="0 0 12 14"><path d="M3 6V4a3 3 0 0 1 6 0v2" fill="none" stroke="currentColor" stroke-width="1.6"/><rect x="1" y="6" width="10" height="7.4" rx="1.3" fill="currentColor"/></symbol>
<symbol id="open" viewBox="0 0 12 14"><path d="M1 3.5h10v8H1zM1 3.5l5 4.5 5-4.5" fill="none" stroke="currentColor" stroke-width="1.3"/></symbol>
<symbol id="pen" viewBox="0 0 12 14"><path d="M2 12l.8-3L9 2.6l2.2 2.2L5 11.200z" fill="currentColor"/><path d="M1 13.400h10" stroke="currentColor" stroke-width="1"/></symbol>
</defs>
`

// picture is a drawing that is being made.
type picture struct {
	View
	bytes.Buffer
	x map[string]int // of the lanes
	y int
	w int
}

func (p *picture) printf(format string, args ...any) { fmt.Fprintf(&p.Buffer, format, args...) }

// text writes what may come from a peer.
func (p *picture) text(x, y int, class, text string) {
	p.printf(`<text x="%d" y="%d" class="%s">%s</text>`+"\n", x, y, class, escaped(text))
}

// say writes what the picture says by itself.
func (p *picture) say(x, y int, class, english string) { p.text(x, y, class, p.Tongue.Say(english)) }

func escaped(text string) string {
	var b strings.Builder
	xml.EscapeText(&b, []byte(text)) // a Builder takes everything
	return b.String()
}

// SVG draws the sequence of the messages: the parties as lanes, each message as an arrow, and under it
// its parts, in the colour of who can read them.
func (v View) SVG(w io.Writer) error {
	_, err := v.draw().WriteTo(w)
	return err
}

func (v View) draw() *picture {
	arrows := v.arrows()
	p := &picture{View: v, x: map[string]int{}}
	there := present(arrows)
	x := svgTimes + 40
	for i, l := range there {
		p.x[lanes[l].party] = x
		if i+1 < len(there) {
			x += svgGap
			if lanes[l].party == Card {
				x += svgCardGap - svgGap
			}
		}
	}
	p.w = max(x+svgMargin, 2*svgMargin+svgTimes+2*svgGap)
	body := picture{View: v}
	body.x, body.w, body.y = p.x, p.w, svgHead+svgLegend+svgLaneH+8
	for _, a := range arrows {
		body.arrow(a)
	}
	height := body.y + 34
	p.printf(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" role="img" aria-labelledby="t d">`+"\n", p.w, height, p.w, height)
	p.printf("<title id=\"t\">%s</title>\n<desc id=\"d\">%s</desc>\n", escaped(v.heading()), escaped(v.summary(arrows)))
	p.printf("<style>\n%s</style>\n%s<rect width=\"100%%\" height=\"100%%\" rx=\"6\" fill=\"#fff\"/>\n", svgStyle, svgSymbols)
	p.head()
	top := svgHead + svgLegend
	for _, l := range there {
		x := p.x[lanes[l].party]
		p.printf(`<line class="life" x1="%d" y1="%d" x2="%d" y2="%d"/>`+"\n", x, top+svgLaneH, x, body.y+4)
	}
	for _, l := range there {
		p.lane(l, top)
	}
	p.Write(body.Bytes())
	p.text(14, body.y+24, "time", v.footer())
	p.printf("</svg>\n")
	return p
}

// summary tells the picture to whom cannot see it.
func (v View) summary(arrows []Arrow) string {
	var b strings.Builder
	for _, a := range arrows {
		fmt.Fprintf(&b, v.Tongue.Say("%s from %s to %s:"), a.Type, v.Tongue.Say(a.From), v.Tongue.Say(a.To))
		for i, part := range a.Parts {
			if i > 0 {
				b.WriteString(";")
			}
			fmt.Fprintf(&b, " %s, %s", v.Tongue.Say(part.What), part.Line(v.Tongue))
		}
		b.WriteString(". ")
	}
	return strings.TrimSpace(b.String())
}

func (p *picture) head() {
	p.text(14, 28, "title", p.heading())
	p.say(14, 46, "sub", "The merchant reads the order and never the card number; the gateway reads the card number and never the order.")
	x, y := 14, svgHead+6
	for _, l := range []struct{ symbol, text string }{
		{"locked", "encrypted for the party of that colour"}, {"open", "not encrypted"}, {"pen", "a signature alone"},
	} {
		p.symbol(x, y, l.symbol, "#444")
		p.say(x+17, y+11, "key", l.text)
		x += 34 + 6*utf8.RuneCountInString(p.Tongue.Say(l.text))
	}
	p.say(x, y+11, "key", "left: time since the first message, size, status")
}

func (p *picture) symbol(x, y int, name, colour string) {
	p.printf(`<use href="#%s" x="%d" y="%d" width="12" height="14" color="%s"/>`+"\n", name, x, y, colour)
}

func (p *picture) lane(l, y int) {
	lane := lanes[l]
	x := p.x[lane.party]
	half := 56
	if lane.party == Card {
		half = 36
	}
	p.printf(`<rect x="%d" y="%d" width="%d" height="%d" rx="6" fill="%s"/>`+"\n", x-half, y, 2*half, svgLaneH, colours[lane.party].dark)
	p.say(x, y+17, "lane", lane.title)
	p.text(x, y+32, "below", p.below(lane))
}

// arrow draws one message below what has been drawn.
func (p *picture) arrow(a Arrow) {
	if ph, ok := phaseOf(a); ok {
		p.printf(`<rect x="0" y="%d" width="%d" height="%d" fill="#f3f3f3"/>`+"\n", p.y+4, p.w, svgPhaseH-10)
		p.printf(`<text x="14" y="%d" class="phase">%s <tspan class="about" dx="8">%s</tspan></text>`+"\n", p.y+4+19, escaped(p.Tongue.Say(ph.title)), escaped(p.Tongue.Say(ph.text)))
		p.y += svgPhaseH
	}
	if a.Card {
		p.card(a.Type == "PReq")
	}
	from, to := p.x[a.From], p.x[a.To]
	middle, line := (from+to)/2, p.y+19
	if a.Unseen {
		p.printf("<g>\n")
	} else {
		p.printf(`<g><title>%s</title>`+"\n", escaped(fmt.Sprintf(p.Tongue.Say("%d: %s, %s to %s"), a.Number, a.Type, p.Tongue.Say(a.From), p.Tongue.Say(a.To))))
	}
	name, about := a.Type, p.Tongue.Say(a.Words)
	if a.Type == "Payment-Initiation" {
		name, about = about, ""
	}
	p.printf(`<text x="%d" y="%d" class="name">%s <tspan class="about">%s</tspan></text>`+"\n", middle, line-6, escaped(name), escaped(about))
	toward := 1
	if to < from {
		toward = -1
	}
	dash := ""
	if a.Unseen {
		dash = ` stroke-dasharray="4 3"`
	}
	p.printf(`<line class="line"%s x1="%d" y1="%d" x2="%d" y2="%d" marker-end="url(#head)"/>`+"\n", dash, from+toward*3, line, to-toward*2, line)
	if !p.Wallet {
		p.work(from, line, -toward, a.Signs, "HSM signs")
		p.work(to, line, toward, a.Opens, "HSM opens")
	}
	if !a.Unseen {
		p.text(14, line-6, "time", "+"+shortly(a.After))
		p.text(14, line+7, "time", a.Size())
	}
	p.y += svgArrowH
	for _, part := range a.Parts {
		p.part(middle, part)
	}
	p.printf("</g>\n")
	p.y += svgRowSpace
}

// work says at a lane what its HSM does.
func (p *picture) work(x, y, side int, does bool, text string) {
	if !does {
		return
	}
	class := "key"
	if side < 0 {
		class = "key end"
	}
	p.say(x+side*8, y+4, class, text)
}

// card draws what passes between wallet and card before a signature. It is not recorded: it follows from
// the signature.
func (p *picture) card(dual bool) {
	from, to := p.x[Wallet], p.x[Card]
	texts := []string{"PIN, digest", "signature"}
	if dual {
		texts = []string{"PIN, two digests", "one signature"}
	}
	for i, text := range texts {
		line := p.y + 17
		if i == 1 {
			from, to = to, from
		}
		toward := 1
		if to < from {
			toward = -1
		}
		p.say((from+to)/2, line-5, "who mid", text)
		p.printf(`<line class="line" stroke-dasharray="4 3" x1="%d" y1="%d" x2="%d" y2="%d" marker-end="url(#head)"/>`+"\n", from+toward*3, line, to-toward*2, line)
		p.y += 20
	}
	p.y -= 18 // the signed message goes out to the other side
}

func (p *picture) part(middle int, part Part) {
	colour := colours[part.Reader]
	if part.Reader == "" && part.Signer != "" && part.What == letters["PI-TBS"].what {
		colour = colours[Card]
	}
	if part.Reader == part.Signer && !part.Locked {
		colour = colours[""]
	}
	left := middle - svgPartW/2
	dash := ""
	if !part.Locked {
		dash = ` stroke-dasharray="3 2"`
	}
	p.printf(`<rect x="%d" y="%d" width="%d" height="%d" rx="4" fill="%s" stroke="%s"%s/>`+"\n", left, p.y, svgPartW, svgPartH, colour.fill, colour.dark, dash)
	symbol := "open"
	switch {
	case part.Locked:
		symbol = "locked"
	case part.What == letters["PI-TBS"].what:
		symbol = "pen"
	}
	p.symbol(left+5, p.y+8, symbol, colour.dark)
	p.say(left+22, p.y+12, "what", part.What)
	p.text(left+22, p.y+24, "who", part.Line(p.Tongue))
	p.y += svgPartH + 3
}

// shortly gives a duration in the unit that a person would take.
func shortly(d time.Duration) string {
	if d < 10*time.Second {
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}
