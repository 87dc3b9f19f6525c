package ceremony

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// checkOutput wants a directory that is new or empty.
func (s *session) checkOutput() error {
	entries, err := os.ReadDir(s.room.Output)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("output: %w", err)
	case len(entries) > 0:
		return fmt.Errorf("output: %s has %s already: a ceremony never overwrites, give another directory", s.room.Output, entries[0].Name())
	}
	return nil
}

// openTokens opens every token and looks that each is another one, has none of the keys that are to be
// made, and all that are to be used.
func (s *session) openTokens(ctx context.Context) error {
	var errs []error
	serials := make(map[string]string)
	for _, name := range s.Tokens() {
		t, err := s.room.Open(ctx, name)
		if err != nil {
			return fmt.Errorf("token %s: %w", name, err)
		}
		s.tokens[name] = t
		serial := t.Info().Serial
		if other, taken := serials[serial]; taken {
			return fmt.Errorf("token %s: is the token %s: each name stands for another one", name, other)
		}
		serials[serial] = name
		keys, err := t.Keys(ctx)
		if err != nil {
			return fmt.Errorf("token %s: %w", name, err)
		}
		if err := s.checkKeys(name, keys); err != nil {
			errs = append(errs, fmt.Errorf("token %s: %w", name, err))
		}
	}
	return errors.Join(append(errs, s.checkSuccession())...)
}

// checkSuccession looks whether roots that are to follow others do so with the key that was announced,
// before anything is made.
func (s *session) checkSuccession() error {
	for _, st := range s.steps {
		old, key := s.certs[st.Succeeds], s.reports[st.Key]
		if old == nil || key.SPKI == nil {
			continue // one of them is yet to be made
		}
		if err := lintSuccession(old, key.SPKI); err != nil {
			return fmt.Errorf("line %d: %v: %w", st.line, st, err)
		}
	}
	return nil
}

func (s *session) checkKeys(token string, keys []KeyInfo) error {
	var taken []string
	for _, st := range s.steps {
		if !st.isKey() || st.token() != token {
			continue
		}
		var found []KeyInfo
		for _, k := range keys {
			if k.Label == st.label() {
				found = append(found, k)
			}
		}
		switch {
		case st.kind == generate && len(found) > 0:
			taken = append(taken, st.label())
			continue
		case st.kind == generate:
			continue
		case len(found) != 1:
			return fmt.Errorf("has %d keys %q, want one", len(found), st.label())
		}
		if _, err := s.matchKey(st, found[0]); err != nil {
			return fmt.Errorf("key %s: %w", st.label(), err)
		}
		s.reports[st.name] = found[0]
	}
	if len(taken) > 0 {
		return fmt.Errorf("has keys already that are to be made: %s: use another token, or, if they are of a ceremony that failed, delete them with set-hsm keys delete", strings.Join(taken, ", "))
	}
	return nil
}
