package dialplan

import (
	"regexp/syntax"
	"strings"
)

// A match is the result of a condition: the numbers that pass it, and the pattern of its captures ($1). Without a
// pattern the captures are unknown.
type match struct {
	numbers numbers
	by      *pattern
}

// A variables holds the variables of calls, each as the set of values that the caller can choose.
type variables map[string]numbers

// expand returns the numbers that a template of the dialplan can give: 9$1, ${destination_number}. chosen reports that the
// caller chooses at least a part of it, and unknown that some variable does.
func (m match) expand(template string, vars variables, compile func(string) *pattern) (n numbers, chosen, unknown bool) {
	var expression strings.Builder
	var parts []numbers // of those parts that the caller chooses as a whole number
	count := 0
	for rest := template; rest != ""; count++ {
		var part string
		part, rest = cutPart(rest)
		name, isVariable := variableName(part)
		set, wasSet := vars[name]
		switch {
		case isVariable && name == "destination_number" && len(part) == len("${destination_number}"):
			parts = append(parts, m.numbers)
			expression.WriteString(everything)
		case isVariable && wasSet && len(part) == len(name)+3:
			parts = append(parts, set)
			expression.WriteString(everything)
		case isVariable:
			chosen = chosen || wasSet || strings.Contains(part, "destination_number")
			unknown = true
			expression.WriteString(everything)
		case len(part) > 1 && part[0] == '$':
			text, whole := m.capture(part[1:])
			if whole {
				parts = append(parts, m.numbers)
			}
			chosen = true
			expression.WriteString("(?:" + text + ")")
		default:
			expression.WriteString(quote(part))
		}
	}
	if count == 1 && len(parts) == 1 {
		return parts[0], true, false
	}
	return numbers{}.and(compile("^(?:" + expression.String() + ")$")), chosen || len(parts) > 0, unknown
}

// variableName returns the name of a variable: digits of ${digits}, ${digits:2} and ${digits(x)}.
func variableName(part string) (string, bool) {
	name, ok := strings.CutPrefix(part, "${")
	if !ok {
		return "", false
	}
	if i := strings.IndexAny(name, ":(}"); i >= 0 {
		name = name[:i]
	}
	return name, true
}

// cutPart cuts a template after its first part: $1, ${…} with nested parts, or text.
func cutPart(s string) (part, rest string) {
	if strings.HasPrefix(s, "${") {
		depth := 0
		for i := range len(s) {
			switch s[i] {
			case '{':
				depth++
			case '}':
				if depth--; depth == 0 {
					return s[:i+1], s[i+1:]
				}
			}
		}
		return s, ""
	}
	end := 1
	if s[0] == '$' {
		for end < len(s) && end < 3 && s[end] >= '0' && s[end] <= '9' {
			end++
		}
		return s[:end], s[end:]
	}
	for end < len(s) && s[end] != '$' {
		end++
	}
	return s[:end], s[end:]
}

// capture returns an expression for the possible values of a capture, and whether it is always the whole number.
func (m match) capture(digits string) (text string, whole bool) {
	if m.by == nil {
		return everything, false
	}
	if digits == "0" {
		return unanchored(m.by.tree), anchored(m.by.tree)
	}
	group := 0
	for _, d := range []byte(digits) {
		group = 10*group + int(d-'0')
	}
	tree := findCapture(m.by.tree, group)
	if tree == nil {
		return everything, false
	}
	subs := m.by.tree.Sub
	return unanchored(tree), m.by.tree.Op == syntax.OpConcat && anchored(m.by.tree) && len(subs) == 3 && subs[1] == tree
}

// anchored reports whether an expression matches a whole number or nothing.
func anchored(tree *syntax.Regexp) bool {
	n := len(tree.Sub)
	return tree.Op == syntax.OpConcat && n > 1 && tree.Sub[0].Op == syntax.OpBeginText && tree.Sub[n-1].Op == syntax.OpEndText
}

func findCapture(tree *syntax.Regexp, group int) *syntax.Regexp {
	if tree.Op == syntax.OpCapture && tree.Cap == group {
		return tree
	}
	for _, sub := range tree.Sub {
		if found := findCapture(sub, group); found != nil {
			return found
		}
	}
	return nil
}

// unanchored writes an expression without ^, $ and word boundaries.
func unanchored(tree *syntax.Regexp) string {
	return withoutEdges(tree).String()
}

func withoutEdges(tree *syntax.Regexp) *syntax.Regexp {
	switch tree.Op {
	case syntax.OpBeginText, syntax.OpEndText, syntax.OpBeginLine, syntax.OpEndLine, syntax.OpWordBoundary, syntax.OpNoWordBoundary:
		return &syntax.Regexp{Op: syntax.OpEmptyMatch}
	}
	copied := *tree
	copied.Sub = make([]*syntax.Regexp, len(tree.Sub))
	for i, sub := range tree.Sub {
		copied.Sub[i] = withoutEdges(sub)
	}
	return &copied
}

// quote is text as an expression that matches it.
func quote(s string) string {
	return (&syntax.Regexp{Op: syntax.OpLiteral, Rune: []rune(s)}).String()
}
