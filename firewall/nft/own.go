package nft

import (
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/userdata"

	"fsban/firewall"
)

// An inventory holds fsban's own objects in the table of its name.
type inventory struct {
	sets   []*nftables.Set
	chains []*nftables.Chain
}

// inventory returns fsban's own objects in the table of its name, and a description of each foreign one.
func (b *Backend) inventory(conn *nftables.Conn) (own inventory, foreign []string, err error) {
	sets, err := ownSets(conn)
	if err != nil {
		return own, nil, err
	}
	for _, s := range sets {
		if difference := b.difference(s); difference != "" {
			foreign = append(foreign, difference)
		} else {
			own.sets = append(own.sets, s)
		}
	}
	chains, err := tableChains(conn)
	if err != nil {
		return own, nil, err
	}
	for _, c := range chains {
		rules, err := rulesOf(conn, c)
		if err != nil {
			return own, nil, err
		}
		if !isOwnName(c.Name) || len(rules) > 0 && !slices.ContainsFunc(rules, isOwn) {
			foreign = append(foreign, "chain "+c.Name)
		} else {
			own.chains = append(own.chains, c)
		}
	}
	return own, foreign, nil
}

// look examines the table of an earlier run. Foreign chains are kept; one with a name that fsban needs is an error. Foreign chains
// that are added later are removed, because the table is fsban's.
func (b *Backend) look(conn *nftables.Conn) error {
	_, foreign, err := b.inventory(conn)
	if err != nil {
		return err
	}
	kept := make(map[string]bool)
	var needed, notes []string
	for _, object := range foreign {
		name, isChain := strings.CutPrefix(object, "chain ")
		switch {
		case !isChain:
			continue // foreign sets stay; see arrangeSets for those with a name of fsban's
		case isOwnName(name):
			needed = append(needed, object+" that holds other rules")
		default:
			kept[name] = true
			notes = append(notes, "nft table inet "+TableName+" holds "+object+", which fsban did not make: move it to a table of its own")
		}
	}
	if len(needed) > 0 {
		return foreignError(needed)
	}
	b.kept = kept
	b.mu.Lock()
	defer b.mu.Unlock()
	b.notes = notes
	return nil
}

// remove queues the removal of chains and sets, and returns their names.
func (i *inventory) remove(conn *nftables.Conn) (removed []string) {
	for _, c := range i.chains {
		conn.FlushChain(c)
		removed = append(removed, "chain "+c.Name)
	}
	for _, c := range slices.Backward(i.chains) { // chains with jumps were made after their targets
		conn.DelChain(c)
	}
	for _, s := range i.sets {
		conn.DelSet(s)
		removed = append(removed, "set "+s.Name)
	}
	return removed
}

func foreignError(objects []string) error {
	return fmt.Errorf("nft table inet %s: %s: %w", TableName, strings.Join(objects, ", "), firewall.ErrForeign)
}

// difference describes how a set differs from fsban's sets. It is empty for a set of fsban's.
func (b *Backend) difference(s *nftables.Set) string {
	for _, f := range b.families {
		if _, named := f.length(s.Name); !named {
			continue
		}
		var differences []string
		switch {
		case s.IsMap:
			differences = append(differences, "a map")
		case s.Concatenation || s.KeyType.Name != f.key.Name:
			differences = append(differences, fmt.Sprintf("type %s instead of %s", s.KeyType.Name, f.key.Name))
		}
		if s.Interval {
			differences = append(differences, "intervals")
		}
		if !s.HasTimeout {
			differences = append(differences, "no timeouts")
		}
		if differences == nil {
			return ""
		}
		return "set " + s.Name + " (" + strings.Join(differences, ", ") + ")"
	}
	return "set " + s.Name
}

// tableChains lists the chains of the table of fsban's name, oldest first.
func tableChains(conn *nftables.Conn) ([]*nftables.Chain, error) {
	all, err := steady(func() ([]*nftables.Chain, error) { return conn.ListChainsOfTableFamily(nftables.TableFamilyINet) })
	return slices.DeleteFunc(all, func(c *nftables.Chain) bool { return c.Table.Name != TableName }), err
}

// ownSets lists the sets in the table of fsban's name.
func ownSets(conn *nftables.Conn) ([]*nftables.Set, error) {
	return steady(func() ([]*nftables.Set, error) { return conn.GetSets(fsbanTable) })
}

// rulesOf lists the rules of a chain in that table, in order.
func rulesOf(conn *nftables.Conn, c *nftables.Chain) ([]*nftables.Rule, error) {
	return steady(func() ([]*nftables.Rule, error) { return conn.GetRules(fsbanTable, c) })
}

// isOwnName reports whether fsban makes chains of that name in any configuration.
func isOwnName(chain string) bool {
	if chain == firewall.ChainName || isTapName(chain) {
		return true
	}
	for hook := range hooked {
		if chain == baseName(hook) {
			return true
		}
	}
	return false
}

// isOwn reports whether a rule carries the comment of one of fsban's rules.
func isOwn(r *nftables.Rule) bool {
	text, _ := userdata.GetString(r.UserData, userdata.TypeComment)
	return text == everything || strings.HasPrefix(text, tapComment) || strings.HasPrefix(text, "to ") ||
		strings.Contains(text, " from @"+firewall.SetIPv4) ||
		strings.Contains(text, " from @"+firewall.SetIPv6)
}
