// Package guess suggests names for a mistyped one.
package guess

import (
	"slices"
	"strings"
	"unicode/utf8"
)

// maxWord bounds the length of a mistyped name, in characters: longer ones get no suggestion.
const maxWord = 64

// DidYouMean returns a question that suggests the names near word, such as "did you mean auth?", or "" if there are none.
func DidYouMean(word string, names []string) string {
	near := Near(word, names)
	if len(near) == 0 {
		return ""
	}
	return "did you mean " + strings.Join(near, " or ") + "?"
}

// Near returns the names closest to word, at most three, or nil if none is close. A name is close if it begins with word, or if
// word has few typing errors (characters inserted, left out, replaced or swapped): one in words of up to four characters, two in words
// of up to seven, and so on. Case, - and _ make no difference.
func Near(word string, names []string) []string {
	length := utf8.RuneCountInString(word)
	if length == 0 || length > maxWord {
		return nil
	}
	var near []string
	folded, best := fold(word), maxWord
	for _, name := range names {
		other := fold(name)
		errors := distance([]rune(folded), []rune(other))
		if length >= 3 && strings.HasPrefix(other, folded) {
			errors = min(errors, 1)
		}
		n := utf8.RuneCountInString(other)
		if errors > best || errors > (min(n, length)+1)/3 || name == word || slices.Contains(near, name) {
			continue
		}
		if errors < best {
			best, near = errors, nil
		}
		near = append(near, name)
	}
	return near[:min(len(near), 3)]
}

func fold(s string) string { return strings.ReplaceAll(strings.ToLower(s), "-", "_") }

// distance is the number of characters to insert, delete, replace or swap with their neighbor to make b of a.
func distance(a, b []rune) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			replace := rows[i-1][j-1]
			if a[i-1] != b[j-1] {
				replace++
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, replace)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}
