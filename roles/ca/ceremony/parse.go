package ceremony

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v3"
)

// Limits of a reviewed file.
const (
	planBytesMax = 256 << 10
	stepsMax     = 256
	officersMax  = 32
	nameSizeMax  = 64 // characters of a file, token, label or officer
)

// Parse reads a reviewed file and holds it against itself. It is strict: every field that is missing,
// unknown, or of no meaning where it stands is an error that names its line.
func Parse(source []byte) (*Plan, error) {
	if len(source) > planBytesMax {
		return nil, fmt.Errorf("the file is larger than %d bytes", planBytesMax)
	}
	if err := checkLegible(source); err != nil {
		return nil, err
	}
	dec := yaml.NewDecoder(bytes.NewReader(source))
	var doc, second yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return nil, errors.New("the file is empty")
	} else if err != nil {
		return nil, err
	}
	if err := dec.Decode(&second); !errors.Is(err, io.EOF) {
		return nil, errors.New("the file has a second document: a ceremony is one")
	}
	if err := checkPlain(&doc); err != nil {
		return nil, err
	}
	p := &Plan{source: bytes.Clone(source)}
	if err := p.read(doc.Content[0]); err != nil {
		return nil, err
	}
	return p, p.check()
}

// checkLegible refuses what reviewers do not see, or what has them see something else: control
// characters, and those that turn the direction of the text.
func checkLegible(source []byte) error {
	for i, text := range strings.Split(string(source), "\n") {
		for _, r := range strings.TrimSuffix(text, "\r") {
			if r != '\t' && !unicode.IsPrint(r) {
				return fmt.Errorf("line %d: the character %U cannot be seen", i+1, r)
			}
		}
	}
	return nil
}

// checkPlain refuses values that are not what they look like.
func checkPlain(n *yaml.Node) error {
	switch {
	case n.Kind == yaml.AliasNode || n.Anchor != "":
		return fmt.Errorf("line %d: anchors and aliases are not allowed", n.Line)
	case n.Style&yaml.TaggedStyle != 0:
		return fmt.Errorf("line %d: tags are not allowed", n.Line)
	case strings.ContainsFunc(n.Value, func(r rune) bool { return !unicode.IsPrint(r) }):
		return fmt.Errorf("line %d: the value %q has characters that cannot be seen", n.Line, n.Value)
	}
	for _, c := range n.Content {
		if err := checkPlain(c); err != nil {
			return err
		}
	}
	return nil
}

func (p *Plan) read(n *yaml.Node) error {
	if err := fields(n, "the file", []string{"ceremony", "officers", "steps"}, []string{"brand", "subjects", "inputs"}); err != nil {
		return err
	}
	var file struct {
		Name     string    `yaml:"ceremony"`
		Brand    string    `yaml:"brand"`
		Officers yaml.Node `yaml:"officers"`
		Subjects yaml.Node `yaml:"subjects"`
		Inputs   yaml.Node `yaml:"inputs"`
		Steps    []yaml.Node
	}
	if err := n.Decode(&file); err != nil {
		return err
	}
	p.name, p.brand, p.lines = file.Name, file.Brand, make(map[string]int)
	for i := 0; i < len(n.Content); i += 2 {
		p.lines[n.Content[i].Value] = n.Content[i].Line
	}
	if err := fields(&file.Officers, "officers", []string{"required"}, []string{"names"}); err != nil {
		return err
	}
	if err := file.Officers.Decode(&p.officers); err != nil {
		return err
	}
	if err := p.readSubjects(&file.Subjects); err != nil {
		return err
	}
	if err := p.readInputs(&file.Inputs); err != nil {
		return err
	}
	if len(file.Steps) == 0 || len(file.Steps) > stepsMax {
		return fmt.Errorf("steps: %d, want 1 to %d", len(file.Steps), stepsMax)
	}
	for i := range file.Steps {
		st, err := readStep(&file.Steps[i])
		if err != nil {
			return err
		}
		p.steps = append(p.steps, st)
	}
	return nil
}

// fields refuses a mapping with a field that it must not have, twice, or without one that it must.
func fields(n *yaml.Node, what string, must, may []string) error {
	if n.Kind != yaml.MappingNode {
		return fmt.Errorf("line %d: %s: want fields with values", n.Line, what)
	}
	seen := make(map[string]bool)
	for i := 0; i < len(n.Content); i += 2 {
		key := n.Content[i]
		switch {
		case !slices.Contains(must, key.Value) && !slices.Contains(may, key.Value):
			return fmt.Errorf("line %d: %s has no field %q", key.Line, what, key.Value)
		case seen[key.Value]:
			return fmt.Errorf("line %d: %s has the field %q twice", key.Line, what, key.Value)
		case !isPlainNumber(n.Content[i+1]) && key.Value != "serial":
			return fmt.Errorf("line %d: %s: %s: number %s: want decimal digits", key.Line, what, key.Value, n.Content[i+1].Value)
		}
		seen[key.Value] = true
	}
	for _, name := range must {
		if !seen[name] {
			return fmt.Errorf("line %d: %s needs the field %q", n.Line, what, name)
		}
	}
	return nil
}

// isPlainNumber tells whether a number is what people read: for YAML, 010 is eight.
func isPlainNumber(n *yaml.Node) bool {
	i, err := strconv.ParseInt(n.Value, 10, 64)
	return n.ShortTag() != "!!int" || err == nil && strconv.FormatInt(i, 10) == n.Value
}

func (p *Plan) readSubjects(n *yaml.Node) error {
	p.subjects = make(map[string]*subject)
	return eachField(n, "subjects", func(key, value *yaml.Node) error {
		if p.subjects[key.Value] != nil {
			return fmt.Errorf("line %d: subject %s twice", key.Line, key.Value)
		}
		if err := fields(value, "subject "+key.Value, []string{"holder", "country"}, []string{"unit", "common-name"}); err != nil {
			return err
		}
		s := &subject{line: key.Line}
		p.subjects[key.Value] = s
		return value.Decode(s)
	})
}

func (p *Plan) readInputs(n *yaml.Node) error {
	return eachField(n, "inputs", func(key, value *yaml.Node) error {
		in := input{name: key.Value, line: key.Line}
		p.inputs = append(p.inputs, in)
		return value.Decode(&p.inputs[len(p.inputs)-1].sha256)
	})
}

func eachField(n *yaml.Node, what string, f func(key, value *yaml.Node) error) error {
	if n.IsZero() {
		return nil
	}
	if n.Kind != yaml.MappingNode {
		return fmt.Errorf("line %d: %s: want names with values", n.Line, what)
	}
	for i := 0; i < len(n.Content); i += 2 {
		if err := f(n.Content[i], n.Content[i+1]); err != nil {
			return err
		}
	}
	return nil
}

// readStep reads a step: its first field says what it does.
func readStep(n *yaml.Node) (*step, error) {
	if n.Kind != yaml.MappingNode || len(n.Content) == 0 {
		return nil, fmt.Errorf("line %d: a step begins with what it does, such as generate: TOKEN/LABEL", n.Line)
	}
	first := n.Content[0]
	st := &step{kind: kind(first.Value), line: first.Line}
	known, ok := stepFields[st.kind]
	if !ok {
		return nil, fmt.Errorf("line %d: a step cannot begin with %q: want generate, use, root, certificate, cross, csr, crl or bci", first.Line, first.Value)
	}
	if err := n.Content[1].Decode(&st.name); err != nil {
		return nil, err
	}
	rest := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map", Line: n.Line, Content: n.Content[2:]}
	if err := fields(rest, fmt.Sprintf("step %q", st), known.must, known.may); err != nil {
		return nil, err
	}
	for i := 0; i < len(rest.Content); i += 2 {
		if rest.Content[i].Value != "revoked" {
			continue
		}
		for _, entry := range rest.Content[i+1].Content {
			if err := fields(entry, "an entry of revoked", []string{"serial", "date"}, nil); err != nil {
				return nil, err
			}
		}
	}
	return st, rest.Decode(st)
}
