package control

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"reflect"
	"testing"
	"time"
)

func TestAPickArrivesAsItWasAsked(t *testing.T) {
	for _, want := range []Pick{
		{},
		{Evidence: All},
		{Reverse: true, Limit: 7},
		{
			Sort: "time-left", Rules: []string{"auth", "a&b=c"}, Prefix: netip.MustParsePrefix("2001:db8::/32"), Sources: []string{"event", "operator"},
			By: "张三 ", Node: "a", Left: 90 * time.Minute, Limit: 10, Evidence: 1000,
		},
	} {
		got, err := pickOf(httptest.NewRequest(http.MethodGet, pathBans+want.query(), nil))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%+v arrives as %+v, %v", want, got, err)
		}
	}
	for query, want := range map[string]string{
		"sort=size":      `request: sort "size": there are since, time-left, dropped, attempts, prefix, rule`,
		"limit=-1":       "request: limit: at least 1, or 0 for all",
		"limit=many":     `request: limit: "many" is no number`,
		"left=-1":        "request: left: longer than 0s",
		"prefix=192.0.2": `request: netip.ParsePrefix("192.0.2"): no '/'`,
		"evidence=1e9":   `request: evidence: "1e9" is no number`,
	} {
		if _, err := pickOf(httptest.NewRequest(http.MethodGet, pathBans+"?"+query, nil)); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", query, err, want)
		}
	}
	if p, err := pickOf(httptest.NewRequest(http.MethodGet, pathBans+"?evidence", nil)); err != nil || p.Evidence != All {
		t.Errorf("evidence without a number: %+v, %v", p, err)
	}
}

// Bans that are even stand by start, and then by prefix.
func TestBansThatAreEvenAreInOrder(t *testing.T) {
	at := time.Unix(1_800_000_000, 0)
	ban := func(prefix string, since int) Ban {
		return Ban{Prefix: netip.MustParsePrefix(prefix), Since: at.Add(time.Duration(since) * time.Second), Rule: "auth"}
	}
	a, b, c := ban("192.0.2.9/32", 1), ban("192.0.2.7/32", 2), ban("192.0.2.8/32", 2)
	for name, p := range map[string]Pick{"rule": {Sort: "rule"}, "nothing said": {}} {
		if got := p.Of([]Ban{c, a, b}, at); !reflect.DeepEqual(got, []Ban{a, b, c}) {
			t.Errorf("%s: %v", name, got)
		}
	}
	backwards := Pick{Reverse: true, Limit: 2}
	if got := backwards.Of([]Ban{c, a, b}, at); !reflect.DeepEqual(got, []Ban{c, b}) {
		t.Errorf("backwards: %v", got)
	}
}
