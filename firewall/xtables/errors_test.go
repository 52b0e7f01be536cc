package xtables

import (
	"errors"
	"fmt"
	"testing"

	"fsban/firewall"
)

func TestErrorsOfRulesNameTheRemedy(t *testing.T) {
	rule := func(text string) error {
		return (&family{name: "ipv4"}).failed("list", "raw", firewall.ChainName, errors.New(text))
	}
	for _, test := range []struct {
		err  error
		want string
	}{
		{rule("exit status 1:\n no\n chain\n"), "ipv4: list raw/FSBAN: exit status 1: no chain"},
		{rule("exit status 4: Another app is currently holding the xtables lock."), "ipv4: list raw/FSBAN: another program holds the lock of iptables: exit status 4: Another app is currently holding the xtables lock."},
		{rule("exit status 4: Permission denied (you must be root)"), "ipv4: list raw/FSBAN: not permitted: fsban needs CAP_NET_ADMIN and CAP_NET_RAW: exit status 4: Permission denied (you must be root)"},
	} {
		if test.err.Error() != test.want {
			t.Errorf("%v, want %s", test.err, test.want)
		}
	}
}

func TestALockThatIsHeldIsErrLocked(t *testing.T) {
	const held = "exit status 4: Another app is currently holding the xtables lock. Perhaps you want to use the -w option?"
	failed := func(text string) error {
		return fmt.Errorf("apply: %w", (&family{name: "ipv4"}).failed("change", "raw", firewall.ChainName, errors.New(text)))
	}
	for text, want := range map[string]bool{
		held: true,
		"exit status 4: Another app is currently holding the xtables lock; still 4s 0us time ahead to have a chance to grab the lock...": true,
		"exit status 4: Permission denied (you must be root)":                                                                            false,
		"exit status 1: No chain/target/match by that name.":                                                                             false,
		"can't open lock file /run/xtables.lock":                                                                                         false,
	} {
		if err := failed(text); errors.Is(err, firewall.ErrLocked) != want {
			t.Errorf("%v: is ErrLocked: %v", err, !want)
		}
	}
	if err := failed(held); errors.Is(err, firewall.ErrForeign) || errors.Is(err, errNoChain) {
		t.Errorf("%v is another error too", err)
	}
}
