package daemon

import (
	"context"
	"sync/atomic"
	"time"

	"fsban/detect"
)

const (
	domainsEvery  = 5 * time.Minute
	domainsWithin = 5 * time.Second
	maxSofiaConf  = 8 << 20 // bytes
)

// domains holds the force-register-domain of each profile of FreeSWITCH, in which it looks up users whatever their requests say. The last
// known ones stay while FreeSWITCH does not answer; a login that may not ask leaves them unknown.
type domains struct {
	known atomic.Pointer[map[string]string]
	due   chan struct{} // holds a token if the event socket has come up
}

func newDomains() domains { return domains{due: make(chan struct{}, 1)} }

// forced returns the domain of a profile, or "". Any goroutine may call it.
func (d *domains) forced(profile string) string {
	if known := d.known.Load(); known != nil {
		return (*known)[profile]
	}
	return ""
}

// refresh requests a look, soon. It never waits.
func (d *domains) refresh() {
	select {
	case d.due <- struct{}{}:
	default:
	}
}

// run looks after each refresh and every five minutes, until ctx ends.
func (d *domains) run(ctx context.Context, api func(ctx context.Context, name, arguments string) ([]byte, error)) error {
	tick := time.NewTicker(domainsEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-d.due:
		case <-tick.C:
		}
		d.look(ctx, api)
	}
}

func (d *domains) look(ctx context.Context, api func(ctx context.Context, name, arguments string) ([]byte, error)) {
	ctx, cancel := context.WithTimeout(ctx, domainsWithin)
	defer cancel()
	data, err := api(ctx, "xml_locate", "configuration configuration name sofia.conf")
	if err != nil || len(data) > maxSofiaConf {
		return
	}
	if found, err := detect.ParseDomains(data); err == nil && (len(found) > 0 || d.known.Load() != nil) {
		d.known.Store(&found)
	}
}
