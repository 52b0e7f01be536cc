package firewall

import (
	"maps"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
)

// arrange compares the table with what it should be, and makes what is missing, all of it in one moment.
func (b *NFTables) arrange() (made []string, err error) {
	conn, err := b.dial(b.watcher.mine)
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
		made = append(made, "wake-up of table inet "+TableName) // a table can be put to sleep
	}
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
			f.seen = new(Dropped) // new rules count from zero
		}
	}
	return made, err
}

// findTable returns fsban's table, or nil where there is none.
func findTable(conn *nftables.Conn) (*nftables.Table, error) {
	tables, err := conn.ListTablesOfFamily(nftables.TableFamilyINet)
	for _, t := range tables {
		if t.Name == TableName {
			return t, nil
		}
	}
	return nil, err
}

// arrangeSets adds the sets that are missing. What an earlier run has left is taken over.
func (b *NFTables) arrangeSets(conn *nftables.Conn, table bool) (made []string, err error) {
	var sets []*nftables.Set
	if table {
		if sets, err = conn.GetSets(fsbanTable); err != nil {
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
			if s.KeyType.Bytes != f.key.Bytes || !s.HasTimeout || s.Interval || s.IsMap || s.Concatenation {
				f.unfit = nftError("use", "set "+s.Name, ErrSetClash)
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

// arrangeChains adds, fills and removes chains, and reads what the rules have counted. It tells whether the rules that count
// are new.
func (b *NFTables) arrangeChains(conn *nftables.Conn) (made []string, fresh bool, err error) {
	all, err := conn.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil, false, err
	}
	there := make(map[string]*nftables.Chain)
	for _, c := range all {
		if c.Table.Name == TableName {
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
		if alike && slices.EqualFunc(texts, rules[c.Name], func(text string, r nftRule) bool { return text == r.text }) {
			continue
		}
		switch {
		case old == nil:
			made = append(made, "chain "+c.Name)
		case !alike && c.Name != ChainName: // a chain that others jump to cannot go
			conn.FlushChain(old)
			conn.DelChain(old)
		}
		made = append(made, "rules of chain "+c.Name)
		fresh = fresh || c.Name == ChainName
		conn.AddChain(c)
		conn.FlushChain(c)
		for _, r := range rules[c.Name] {
			conn.AddRule(&nftables.Rule{Table: fsbanTable, Chain: c, Exprs: r.exprs, UserData: userdata.AppendString(nil, userdata.TypeComment, r.text)})
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

// ruleTexts are what the rules of a chain say that they do. What cannot be read is not ours.
func (b *NFTables) ruleTexts(conn *nftables.Conn, c *nftables.Chain) (texts []string) {
	rules, err := conn.GetRules(fsbanTable, c)
	if err != nil {
		return nil
	}
	counted := make(map[*nftFamily]Dropped)
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
					counted[f] = Dropped{counted[f].Packets + counter.Packets, counted[f].Bytes + counter.Bytes}
				}
			}
		}
	}
	if c.Name == ChainName {
		for _, f := range b.families {
			now := counted[f]
			if f.seen == nil {
				f.seen = &now // what was counted before this process began is not its own
			}
			f.total, f.seen = f.total.plus(*f.seen, now), &now
			b.mu.Lock()
			b.dropped[f.name] = f.total
			b.mu.Unlock()
		}
	}
	return texts
}
