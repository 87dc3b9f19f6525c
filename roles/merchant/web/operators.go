package web

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/bcrypt"
)

const (
	passwordOctetsMin = 12
	passwordOctetsMax = 72 // what bcrypt looks at
	passwordCost      = 12 // a quarter of a second

	loginTries       = 5 // that are free
	loginPauseMax    = 15 * time.Minute
	loginPauseDouble = 10
	loginNamesMax    = 1000

	officeIdle     = 30 * time.Minute
	officeLife     = 12 * time.Hour
	officeSessions = 1000
	deedsMax       = 200 // of a session, confirmations that were shown
)

// Operator may use the back office.
type Operator struct {
	Name     string `yaml:"name"`
	Password string `yaml:"password"` // hashed by bcrypt
}

var operatorName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,39}$`)

// NewOperator hashes a password.
func NewOperator(name string, password []byte) (Operator, error) {
	switch {
	case !operatorName.MatchString(name):
		return Operator{}, fmt.Errorf("name %q: want up to 40 lower-case letters, digits, dots and hyphens", name)
	case len(password) < passwordOctetsMin || len(password) > passwordOctetsMax:
		return Operator{}, fmt.Errorf("the password has %d octets: want %d to %d", len(password), passwordOctetsMin, passwordOctetsMax)
	}
	hash, err := bcrypt.GenerateFromPassword(password, passwordCost)
	return Operator{name, string(hash)}, err
}

// CheckOperators tells whether these can be the operators.
func CheckOperators(operators []Operator) error {
	seen := make(map[string]bool)
	for _, o := range operators {
		_, err := bcrypt.Cost([]byte(o.Password))
		switch {
		case !operatorName.MatchString(o.Name):
			return fmt.Errorf("operator %q: want up to 40 lower-case letters, digits, dots and hyphens", o.Name)
		case seen[o.Name]:
			return fmt.Errorf("operator %s is there twice", o.Name)
		case err != nil:
			return fmt.Errorf("operator %s: the password is no bcrypt hash: use set-merchant operator add", o.Name)
		}
		seen[o.Name] = true
	}
	return nil
}

// gate lets operators in, and makes who guesses wait. One password is compared at a time.
type gate struct {
	turn     chan struct{}
	failures map[string]failure
	names    []string // of failures, unknown ones only, the oldest first
}

type failure struct {
	count int
	until time.Time
}

func newGate() *gate { return &gate{turn: make(chan struct{}, 1), failures: make(map[string]failure)} }

// waitError tells how long nobody is let in under a name.
type waitError struct{ time.Duration }

func (e waitError) Error() string { return fmt.Sprintf("wait %v", e.Duration) }

var errNotLetIn = errors.New("name and password do not fit")

// enter checks a password. It gives errNotLetIn, or a waitError while it is not even looked at.
func (g *gate) enter(ctx context.Context, now func() time.Time, operators []Operator, name string, password []byte) error {
	select {
	case g.turn <- struct{}{}:
		defer func() { <-g.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	f := g.failures[name]
	if left := f.until.Sub(now()); left > 0 {
		return waitError{left}
	}
	if len(operators) == 0 {
		return errNotLetIn
	}
	// For a name that nobody has, a password is compared too: the time that it takes does not tell which names
	// there are.
	i := slices.IndexFunc(operators, func(o Operator) bool { return o.Name == name })
	if err := bcrypt.CompareHashAndPassword([]byte(operators[max(i, 0)].Password), password); err == nil && i >= 0 {
		delete(g.failures, name)
		return nil
	}
	if i < 0 && f.count == 0 {
		g.remember(name)
	}
	f.count++
	if over := f.count - loginTries; over >= 0 {
		f.until = now().Add(min(time.Second<<min(over, loginPauseDouble), loginPauseMax))
	}
	g.failures[name] = f
	return errNotLetIn
}

// remember forgets the oldest name that belongs to nobody when there are too many.
func (g *gate) remember(name string) {
	g.names = append(g.names, name)
	if len(g.names) > loginNamesMax {
		delete(g.failures, g.names[0])
		g.names = g.names[1:]
	}
}

// visit is an operator who is logged in.
type visit struct {
	operator string
	csrf     string
	began    time.Time

	mu    sync.Mutex
	used  time.Time
	deeds map[string]*deed
	order []string // of deeds, the oldest first
}

// deed is something that an operator was asked to confirm. It is done once, however often it is confirmed.
type deed struct {
	target string
	once   sync.Once
	result string // where it leads
	err    error
	do     func() (result string, err error)
}

func (d *deed) done() (string, error) {
	d.once.Do(func() { d.result, d.err = d.do() })
	return d.result, d.err
}

// ask keeps a deed until it is confirmed, and gives its name.
func (v *visit) ask(target string, do func() (string, error)) string {
	v.mu.Lock()
	defer v.mu.Unlock()
	name := rand.Text()
	v.deeds[name] = &deed{target: target, do: do}
	v.order = append(v.order, name)
	if len(v.order) > deedsMax {
		delete(v.deeds, v.order[0])
		v.order = v.order[1:]
	}
	return name
}

// confirmed gives a deed that was asked for at this address.
func (v *visit) confirmed(target, name string) (*deed, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	d := v.deeds[name]
	return d, d != nil && d.target == target
}

// visits are who is logged in, in this process: they end with it.
type visits struct {
	mu sync.Mutex
	by map[string]*visit // by what the browser shows
}

// begin gives what the browser must show from now on.
func (vs *visits) begin(now time.Time, operator string) (secret string) {
	vs.mu.Lock()
	defer vs.mu.Unlock()
	oldest := ""
	for id, v := range vs.by {
		if v.over(now) {
			delete(vs.by, id)
		} else if oldest == "" || v.began.Before(vs.by[oldest].began) {
			oldest = id
		}
	}
	if len(vs.by) >= officeSessions {
		delete(vs.by, oldest)
	}
	secret = rand.Text()
	vs.by[secret] = &visit{operator: operator, csrf: rand.Text(), began: now, used: now, deeds: make(map[string]*deed)}
	return secret
}

// find gives the visit of a browser, nil if it is over or its operator is none any more.
func (vs *visits) find(now time.Time, secret string, operators []Operator) *visit {
	vs.mu.Lock()
	defer vs.mu.Unlock()
	v := vs.by[secret]
	if v == nil {
		return nil
	}
	if v.over(now) || !slices.ContainsFunc(operators, func(o Operator) bool { return o.Name == v.operator }) {
		delete(vs.by, secret)
		return nil
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.used = now
	return v
}

func (vs *visits) end(secret string) {
	vs.mu.Lock()
	defer vs.mu.Unlock()
	delete(vs.by, secret)
}

func (v *visit) over(now time.Time) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return now.Sub(v.used) > officeIdle || now.Sub(v.began) > officeLife
}

// cleanName is a name as it was typed, no longer than a name can be wrong.
func cleanName(text string) string {
	name := strings.ToLower(strings.TrimSpace(text))
	return name[:min(len(name), 64)]
}
