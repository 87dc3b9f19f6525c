package cli

import (
	"bytes"
	"encoding"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"regexp"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v3"
)

// configBytesMax bounds a configuration file.
const configBytesMax = 1 << 20

// LoadConfig reads the YAML file at path into the struct that into points to. The file is one
// document without anchors; a key that into does not know is an error, and so is a key given twice.
// ${NAME} in a value becomes the value of that environment variable, which must be set and stays one
// value whatever it contains. Errors name the file and the line, and never a variable's value.
func LoadConfig(path string, into any) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, configBytesMax+1))
	if err != nil {
		return fmt.Errorf("configuration %s: %w", path, err)
	}
	if len(text) > configBytesMax {
		return fmt.Errorf("configuration %s: larger than %d bytes", path, configBytesMax)
	}
	if err := parseConfig(text, into); err != nil {
		return fmt.Errorf("configuration %s: %w", path, err)
	}
	return nil
}

func parseConfig(text []byte, into any) error {
	dec := yaml.NewDecoder(bytes.NewReader(text))
	var doc, second yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return errors.New("the file is empty")
	} else if err != nil {
		return err
	}
	if err := dec.Decode(&second); err == nil {
		return fmt.Errorf("line %d: a second document: a configuration is one", second.Line)
	} else if !errors.Is(err, io.EOF) {
		return err
	}
	if err := checkKeys(&doc, reflect.TypeOf(into), ""); err != nil {
		return err
	}
	if err := expand(&doc); err != nil {
		return err
	}
	return maskValues(doc.Decode(into))
}

// yamlQuotedValue is how a yaml.TypeError quotes the value that did not fit.
var yamlQuotedValue = regexp.MustCompile("cannot unmarshal (\\S+) `[^`]*` into")

// maskValues drops quoted values from a decoding error: they may have come from the environment.
func maskValues(err error) error {
	var te *yaml.TypeError
	if !errors.As(err, &te) {
		return err
	}
	lines := make([]string, len(te.Errors))
	for i, l := range te.Errors {
		lines[i] = yamlQuotedValue.ReplaceAllString(l, "cannot use this $1 as")
	}
	return errors.New(strings.Join(lines, "; "))
}

// expand replaces ${NAME} in the values under n.
func expand(n *yaml.Node) error {
	switch n.Kind {
	case yaml.MappingNode:
		for i := 1; i < len(n.Content); i += 2 {
			if err := expand(n.Content[i]); err != nil {
				return err
			}
		}
	case yaml.DocumentNode, yaml.SequenceNode:
		for _, c := range n.Content {
			if err := expand(c); err != nil {
				return err
			}
		}
	case yaml.ScalarNode:
		return expandScalar(n)
	}
	return nil
}

var envReference = regexp.MustCompile(`\$\{([^}]*)\}`)

func expandScalar(n *yaml.Node) error {
	if !strings.Contains(n.Value, "${") {
		return nil
	}
	if strings.Count(n.Value, "${") != len(envReference.FindAllString(n.Value, -1)) {
		return fmt.Errorf("line %d: ${ without }", n.Line)
	}
	var err error
	n.Value = envReference.ReplaceAllStringFunc(n.Value, func(ref string) string {
		name := ref[2 : len(ref)-1]
		value, ok := os.LookupEnv(name)
		switch {
		case err != nil:
		case !ok:
			err = fmt.Errorf("line %d: environment variable %q is not set", n.Line, name)
		case strings.ContainsFunc(value, unicode.IsControl):
			err = fmt.Errorf("line %d: environment variable %q has control characters", n.Line, name)
		}
		return value
	})
	if err != nil {
		return err
	}
	if n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) != 0 {
		return nil
	}
	// An unquoted value may be meant as a number or a truth value, but never as a null or a date.
	n.Tag = ""
	switch n.ShortTag() {
	case "!!int", "!!float", "!!bool":
	default:
		n.Tag = "!!str"
	}
	return nil
}

var (
	yamlUnmarshaler = reflect.TypeFor[yaml.Unmarshaler]()
	textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// checkKeys says which key under n the type t has no field for. It stands in for the decoder's
// KnownFields, which works on text only and so comes before variables are replaced.
func checkKeys(n *yaml.Node, t reflect.Type, where string) error {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if n.Kind == yaml.AliasNode || n.Anchor != "" {
		return fmt.Errorf("line %d: anchors and aliases are not supported", n.Line)
	}
	if n.Kind == yaml.DocumentNode {
		return checkKeys(n.Content[0], t, where)
	}
	if p := reflect.PointerTo(t); p.Implements(yamlUnmarshaler) || p.Implements(textUnmarshaler) {
		return nil
	}
	switch {
	case n.Kind == yaml.SequenceNode && (t.Kind() == reflect.Slice || t.Kind() == reflect.Array):
		for _, c := range n.Content {
			if err := checkKeys(c, t.Elem(), where); err != nil {
				return err
			}
		}
	case n.Kind == yaml.MappingNode && t.Kind() == reflect.Map:
		for i := 1; i < len(n.Content); i += 2 {
			if err := checkKeys(n.Content[i], t.Elem(), within(where, n.Content[i-1])); err != nil {
				return err
			}
		}
	case n.Kind == yaml.MappingNode && t.Kind() == reflect.Struct:
		fields := yamlFields(t)
		for i := 1; i < len(n.Content); i += 2 {
			key := n.Content[i-1]
			ft, ok := fields[key.Value]
			if !ok {
				return fmt.Errorf("line %d: unknown key %q", key.Line, within(where, key))
			}
			if err := checkKeys(n.Content[i], ft, within(where, key)); err != nil {
				return err
			}
		}
	}
	return nil
}

func within(where string, key *yaml.Node) string {
	if where == "" {
		return key.Value
	}
	return where + "." + key.Value
}

// yamlFields maps the keys that yaml knows for struct t to their types.
func yamlFields(t reflect.Type) map[string]reflect.Type {
	fields := map[string]reflect.Type{}
	for i := range t.NumField() {
		f := t.Field(i)
		name, opts, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		inline := strings.Contains(","+opts+",", ",inline,")
		switch {
		case inline && f.Type.Kind() == reflect.Struct:
			for k, v := range yamlFields(f.Type) {
				fields[k] = v
			}
		case !f.IsExported() || name == "-":
		case name == "":
			fields[strings.ToLower(f.Name)] = f.Type
		default:
			fields[name] = f.Type
		}
	}
	return fields
}
