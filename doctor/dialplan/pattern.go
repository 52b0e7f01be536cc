package dialplan

import (
	"encoding/binary"
	"regexp/syntax"
	"slices"
	"strings"
)

// The bounds of a pattern. A larger one counts as matching everything.
const (
	maxExpression   = 1000 // bytes
	maxInstructions = 1000
	maxStates       = 1000      // of its automaton
	maxWork         = 1_000_000 // instructions looked at to make it
)

// A pattern is a regular expression of the dialplan, as an automaton over printable ASCII.
//
// FreeSWITCH matches with PCRE. Constructs that Go does not know are left out, so that the pattern
// matches at least as much as in FreeSWITCH; exact is true if nothing was left out.
type pattern struct {
	text  string // as it stands in the dialplan
	tree  *syntax.Regexp
	exact bool

	prog   *syntax.Prog
	class  [lastSymbol - firstSymbol + 1]uint8 // of each symbol: symbols of one class are the same to this pattern
	states []state
	index  map[string]int32
	seen   []uint32 // by instruction, the closure that saw it last
	round  uint32
	work   int
}

// The symbols of a number.
const (
	firstSymbol = ' '
	lastSymbol  = '~'
)

// A state of the automaton. State 0 is the start.
type state struct {
	threads []uint32        // instructions that wait for a symbol, or for the end
	matched bool            // the text matches, with any continuation
	accepts bool            // the text matches if it ends here
	next    map[uint8]int32 // by class; filled as it is needed
}

// everything matches any number.
const everything = ".*"

// newPattern compiles an expression of the dialplan.
func newPattern(expression string) *pattern {
	p := &pattern{text: expression, exact: true}
	source := expression
	// /expression/i is the other way to write one.
	if rest, ok := strings.CutPrefix(source, "/"); ok {
		if i := strings.LastIndexByte(rest, '/'); i >= 0 {
			source = rest[:i]
			if strings.Contains(rest[i+1:], "i") {
				source = "(?i)" + source
			}
		}
	}
	source, whole, renumbered := withoutLookaround(source)
	p.exact = whole
	if len(expression) > maxExpression || renumbered || !p.compile(source) {
		p.exact = false
		p.compile(everything)
	}
	p.classify()
	p.index, p.seen = make(map[string]int32), make([]uint32, len(p.prog.Inst))
	p.add(p.closure([]uint32{uint32(p.prog.Start)}, true, false), true)
	return p
}

func (p *pattern) compile(source string) bool {
	tree, err := syntax.Parse(source, syntax.Perl)
	if err != nil {
		return false
	}
	prog, err := syntax.Compile(tree.Simplify())
	if err != nil || len(prog.Inst) > maxInstructions {
		return false
	}
	p.tree, p.prog = tree, prog
	for i := range prog.Inst {
		if in := &prog.Inst[i]; in.Op == syntax.InstEmptyWidth &&
			syntax.EmptyOp(in.Arg)&(syntax.EmptyWordBoundary|syntax.EmptyNoWordBoundary) != 0 {
			p.exact = false // a word boundary is taken to be everywhere
		}
	}
	return true
}

// withoutLookaround takes (?=…), (?!…), (?<=…) and (?<!…) out. It reports whether there was none, and whether one had captures
// in it, so that those after it now have other numbers.
func withoutLookaround(s string) (rest string, whole, renumbered bool) {
	var out strings.Builder
	whole = true
	skipping, depth, class := 0, 0, false
	for i := 0; i < len(s); i++ {
		n := 1
		switch c := s[i]; {
		case c == '\\' && i+1 < len(s):
			n = 2
		case class:
			class = c != ']'
		case c == '[':
			class = true
		case c == '(':
			depth++
			rest := s[i+1:]
			look := strings.HasPrefix(rest, "?=") || strings.HasPrefix(rest, "?!") || strings.HasPrefix(rest, "?<=") ||
				strings.HasPrefix(rest, "?<!")
			switch {
			case skipping > 0 && !strings.HasPrefix(rest, "?"):
				renumbered = true
			case skipping == 0 && look:
				skipping, whole = depth, false
			}
		case c == ')':
			depth--
			if skipping > 0 && depth < skipping {
				skipping = 0
				continue
			}
		}
		if skipping == 0 {
			out.WriteString(s[i : i+n])
		}
		i += n - 1
	}
	return out.String(), whole, renumbered
}

// classify finds which symbols are the same to every instruction.
func (p *pattern) classify() {
	classes := make(map[string]uint8)
	for c := rune(firstSymbol); c <= lastSymbol; c++ {
		var signature []byte
		for i := range p.prog.Inst {
			if p.takes(uint32(i), c) {
				signature = binary.AppendUvarint(signature, uint64(i))
			}
		}
		id, ok := classes[string(signature)]
		if !ok {
			id = uint8(len(classes))
			classes[string(signature)] = id
		}
		p.class[c-firstSymbol] = id
	}
}

// takes reports whether an instruction waits for this symbol.
func (p *pattern) takes(pc uint32, c rune) bool {
	switch in := &p.prog.Inst[pc]; in.Op {
	case syntax.InstRune, syntax.InstRune1, syntax.InstRuneAny, syntax.InstRuneAnyNotNL:
		return in.MatchRune(c)
	}
	return false
}

// closure follows instructions without a symbol, and returns those at which it stops: those that wait for a symbol, the
// match, and unless this is the end those that wait for it. begin is true before the first symbol.
func (p *pattern) closure(threads []uint32, begin, end bool) []uint32 {
	p.round++
	var stop []uint32
	for len(threads) > 0 {
		pc := threads[len(threads)-1]
		threads = threads[:len(threads)-1]
		if p.seen[pc] == p.round {
			continue
		}
		p.seen[pc] = p.round
		p.work++
		switch in := &p.prog.Inst[pc]; in.Op {
		case syntax.InstAlt, syntax.InstAltMatch:
			threads = append(threads, in.Out, in.Arg)
		case syntax.InstCapture, syntax.InstNop:
			threads = append(threads, in.Out)
		case syntax.InstEmptyWidth:
			switch atBegin, atEnd := edges(in); {
			case atEnd && !end:
				stop = append(stop, pc)
			case !atBegin || begin:
				threads = append(threads, in.Out)
			}
		case syntax.InstFail:
		default:
			stop = append(stop, pc)
		}
	}
	slices.Sort(stop)
	return stop
}

// edges returns the conditions of empty matches that hold. A word boundary is taken to hold everywhere.
func edges(in *syntax.Inst) (atBegin, atEnd bool) {
	op := syntax.EmptyOp(in.Arg)
	return op&(syntax.EmptyBeginText|syntax.EmptyBeginLine) != 0, op&(syntax.EmptyEndText|syntax.EmptyEndLine) != 0
}

// add returns the state with these threads, a new one if there is none yet, or -1 when there are too many.
func (p *pattern) add(threads []uint32, begin bool) int32 {
	s := state{threads: threads, next: make(map[uint8]int32)}
	for _, pc := range threads {
		s.matched = s.matched || p.prog.Inst[pc].Op == syntax.InstMatch
	}
	var key []byte
	if !s.matched {
		for _, pc := range threads {
			key = binary.AppendUvarint(key, uint64(pc)+1)
		}
		// The state before the first symbol is a state of its own: ^ holds there and nowhere else.
		if begin {
			key = append(key, 0)
		}
	} else {
		key, s.threads = []byte("matched"), nil
	}
	if i, ok := p.index[string(key)]; ok {
		return i
	}
	if len(p.states) == maxStates || p.work > maxWork {
		return -1
	}
	s.accepts = s.matched || p.ends(threads, begin)
	i := int32(len(p.states))
	p.index[string(key)] = i
	p.states = append(p.states, s)
	return i
}

// ends reports whether the text matches if it ends here.
func (p *pattern) ends(threads []uint32, begin bool) bool {
	var after []uint32
	for _, pc := range threads {
		if in := &p.prog.Inst[pc]; in.Op == syntax.InstEmptyWidth {
			after = append(after, in.Out)
		}
	}
	return slices.ContainsFunc(p.closure(after, begin, true), func(pc uint32) bool {
		return p.prog.Inst[pc].Op == syntax.InstMatch
	})
}

// step returns the state after one more symbol, or -1 when the automaton is too large.
func (p *pattern) step(from int32, c rune) int32 {
	s := &p.states[from]
	if s.matched {
		return from
	}
	class := p.class[c-firstSymbol]
	if to, ok := s.next[class]; ok {
		return to
	}
	// An expression that is not anchored may begin anywhere.
	after := []uint32{uint32(p.prog.Start)}
	for _, pc := range s.threads {
		if p.takes(pc, c) {
			after = append(after, p.prog.Inst[pc].Out)
		}
	}
	to := p.add(p.closure(after, false, false), false)
	p.states[from].next[class] = to
	return to
}

// dead reports that nothing that follows can make the text match.
func (p *pattern) dead(at int32) bool {
	s := &p.states[at]
	return !s.matched && len(s.threads) == 0
}
