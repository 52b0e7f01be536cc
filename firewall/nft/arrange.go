package nft

import (
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"

	"fsban/firewall"
)

// arrange compares the table with the layout, and makes missing objects in one transaction.
func (b *Backend) arrange() (made []string, err error) {
	conn, _, err := b.dial(b.watcher.Mine)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.CloseLasting() }()
	table, err := findTable(conn)
	if err != nil {
		return nil, err
	}
	switch {
	case table == nil:
		made = append(made, "table inet "+TableName)
	case table.Flags != 0:
		made = append(made, "wake-up of table inet "+TableName) // it has flag dormant
	}
	if table != nil && !b.looked {
		if err := b.look(conn); err != nil {
			return nil, err
		}
	}
	b.looked = true
	conn.AddTable(fsbanTable)
	sets, err := b.arrangeSets(conn, table != nil)
	if err != nil {
		return nil, err
	}
	chains, fresh, err := b.arrangeChains(conn)
	if err != nil {
		return nil, err
	}
	if made = slices.Concat(made, sets, chains); len(made) == 0 {
		return nil, nil
	}
	if err = conn.Flush(); err == nil && fresh {
		for _, f := range b.families {
			f.seen = new(firewall.Dropped) // new rules count from zero
		}
	}
	return made, err
}

// findTable returns fsban's table, or nil if there is none.
func findTable(conn *nftables.Conn) (*nftables.Table, error) {
	table, err := conn.ListTableOfFamily(TableName, nftables.TableFamilyINet)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	return table, err
}

// arrangeSets adds missing sets, and adopts those of an earlier run.
func (b *Backend) arrangeSets(conn *nftables.Conn, table bool) (made []string, err error) {
	var sets []*nftables.Set
	if table {
		if sets, err = ownSets(conn); err != nil {
			return nil, err
		}
	}
	for _, f := range b.families {
		f.unfit = nil
		there := make(map[int]bool)
		for _, s := range sets {
			length, ok := f.length(s.Name)
			if !ok {
				continue
			}
			if difference := b.difference(s); difference != "" {
				f.unfit = foreignError([]string{difference})
				break
			}
			there[length], f.lengths[length] = true, true
		}
		for length := range f.lengths {
			if f.unfit != nil || there[length] {
				continue
			}
			set := f.setOf(length)
			made = append(made, "set "+set.Name)
			if err := conn.AddSet(set, nil); err != nil {
				return nil, err
			}
		}
	}
	return made, nil
}

// arrangeChains adds, fills and removes chains, and reads the rules' counters. It reports whether it made the rules with counters
// anew.
func (b *Backend) arrangeChains(conn *nftables.Conn) (made []string, fresh bool, err error) {
	all, err := tableChains(conn)
	if err != nil {
		return nil, false, err
	}
	there := make(map[string]*nftables.Chain)
	for _, c := range all {
		if !b.kept[c.Name] && !isTapName(c.Name) { // see arrangeTap
			there[c.Name] = c
		}
	}
	chains, rules := b.layout()
	for _, c := range chains {
		old := there[c.Name]
		delete(there, c.Name)
		var texts []string
		if old != nil {
			texts = b.ruleTexts(conn, c)
		}
		alike := old != nil && sameHook(old, c)
		if alike && slices.EqualFunc(texts, rules[c.Name], func(text string, r tableRule) bool { return text == r.text }) {
			continue
		}
		switch {
		case old == nil:
			made = append(made, "chain "+c.Name)
		case !alike && c.Name != firewall.ChainName: // a chain with jumps to it cannot be deleted
			conn.FlushChain(old)
			conn.DelChain(old)
		}
		made = append(made, "rules of chain "+c.Name)
		fresh = fresh || c.Name == firewall.ChainName
		conn.AddChain(c)
		conn.FlushChain(c)
		for _, r := range rules[c.Name] {
			conn.AddRule(&nftables.Rule{Table: fsbanTable, Chain: c, Exprs: r.exprs,
				UserData: userdata.AppendString(nil, userdata.TypeComment, r.text)})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(there)) {
		made = append(made, "end of chain "+name)
		conn.FlushChain(there[name])
		conn.DelChain(there[name])
	}
	return made, fresh, nil
}

func sameHook(a, b *nftables.Chain) bool {
	return a.Type == b.Type && same(a.Hooknum, b.Hooknum) && same(a.Priority, b.Priority) && same(a.Policy, b.Policy)
}

func same[T comparable](a, b *T) bool { return a == b || a != nil && b != nil && *a == *b }

// ruleTexts returns the comments of the rules of a chain. Rules that cannot be read have none.
func (b *Backend) ruleTexts(conn *nftables.Conn, c *nftables.Chain) (texts []string) {
	rules, err := rulesOf(conn, c)
	if err != nil {
		return nil
	}
	counted := make(map[*family]firewall.Dropped)
	for _, r := range rules {
		text, _ := userdata.GetString(r.UserData, userdata.TypeComment)
		texts = append(texts, text)
		for _, f := range b.families {
			_, set, _ := strings.Cut(text, "@")
			if _, ok := f.length(set); !ok {
				continue
			}
			for _, e := range r.Exprs {
				if counter, ok := e.(*expr.Counter); ok {
					counted[f] = firewall.Dropped{Packets: counted[f].Packets + counter.Packets, Bytes: counted[f].Bytes + counter.Bytes}
				}
			}
		}
	}
	if c.Name == firewall.ChainName {
		for _, f := range b.families {
			now := counted[f]
			if f.seen == nil {
				f.seen = &now // earlier counts are not this process's
			}
			f.total, f.seen = f.total.Plus(*f.seen, now), &now
			b.mu.Lock()
			b.dropped[f.name] = f.total
			b.mu.Unlock()
		}
	}
	return texts
}
