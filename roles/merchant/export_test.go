package merchant

import "time"

// RefreshPause is how long after now the gateways are asked again.
func (m *Merchant) RefreshPause(now time.Time) time.Duration { return m.refreshPause(now) }
