package hsm

import (
	"context"
	"sync"
)

// gate is the door of a library. Calls go in and out; whoever shuts it waits until nobody is inside,
// and is then alone with the library until it opens again. Both kinds of waiting end with a context,
// which is what a sync.RWMutex cannot do: a call that never returns must not hold up the others.
type gate struct {
	mu     sync.Mutex
	inside int
	opened chan struct{} // nil while open; closed when it opens again
	empty  chan struct{} // nil unless somebody waits for it; closed when the last one has left
}

func (g *gate) enter(ctx context.Context) error {
	if ctx.Err() != nil {
		return noTurn(ctx, "not begun")
	}
	g.mu.Lock()
	for g.opened != nil {
		opened := g.opened
		g.mu.Unlock()
		select {
		case <-opened:
		case <-ctx.Done():
			return noTurn(ctx, "the PKCS#11 library is being initialised")
		}
		g.mu.Lock()
	}
	g.inside++
	g.mu.Unlock()
	return nil
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.inside--; g.inside == 0 && g.empty != nil {
		close(g.empty)
		g.empty = nil
	}
}

// shut keeps newcomers out and waits until everybody has left. If ctx ends first the gate opens
// again. Only one may shut it at a time.
func (g *gate) shut(ctx context.Context) error {
	g.mu.Lock()
	g.opened = make(chan struct{})
	if g.inside == 0 {
		g.mu.Unlock()
		return nil
	}
	empty := make(chan struct{})
	g.empty = empty
	g.mu.Unlock()
	select {
	case <-empty:
		return nil
	case <-ctx.Done():
		g.open()
		return context.Cause(ctx)
	}
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.opened)
	g.opened, g.empty = nil, nil
}
