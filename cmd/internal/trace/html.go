package trace

import (
	"bytes"
	"html/template"
	"io"
)

var page = template.Must(template.New("trace").Parse(`<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{.Title}}</title>
<style>
body { font-family: Helvetica, Arial, sans-serif; font-size: 15px; color: #222; background: #fff; max-width: 1100px; margin: 1.5em auto; padding: 0 1em }
figure { margin: 0 0 2em; overflow-x: auto }
h2 { font-size: 1.15em; margin: 1.6em 0 .2em }
p { margin: .3em 0 .6em; color: #444 }
details, div { margin: .1em 0 .1em 1.1em; overflow-wrap: anywhere }
summary { cursor: pointer; margin-left: -1.1em }
b { font-weight: 600 } i { color: #666 } small { color: #666 }
span { font-family: monospace }
.by { color: #8a5a00 } .for { color: #1f5aa6 } .encrypted > summary b { color: #1f5aa6 } .signed > summary b { color: #8a5a00 }
.fault { color: #b00020 }
</style>
</head>
<body>
<figure>{{.Picture}}</figure>
<p>Every message as it was sent. Open a line to see what is in it. What is encrypted stays closed here: set-inspect --open KEYURI shows it to the holder of the key.</p>
{{range .Messages}}<section id="m{{.Number}}">
<h2>{{.Number}}. {{.Type}}{{with .Words}}: {{.}}{{end}}</h2>
<p>{{.From}} to {{.To}}, {{.Time.Format "2006-01-02 15:04:05.000 UTC"}}, {{.Media}}, {{.Size}}</p>
<ul>{{range .Parts}}<li>{{.What}}: {{.Line nil}}</li>{{end}}</ul>
{{.Node.HTML nil}}</section>
{{end}}</body>
</html>
`))

// HTML makes a page with the picture and every field of every message. It needs neither a script nor
// anything from elsewhere.
func (v View) HTML(w io.Writer) error {
	data := struct {
		Title    string
		Picture  template.HTML
		Messages []Arrow
	}{v.heading(), template.HTML(v.draw().String()), Arrows(v.Messages)}
	var b bytes.Buffer
	if err := page.Execute(&b, data); err != nil {
		return err
	}
	_, err := b.WriteTo(w)
	return err
}
