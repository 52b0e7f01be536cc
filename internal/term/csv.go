package term

import (
	"strings"
	"unicode/utf8"
)

// formula holds the characters that begin a formula in a spreadsheet, in both widths.
const formula = "=+-@＝＋－＠"

// CSV returns a line of comma-separated values, as in RFC 4180, without its end. Every cell is cleaned and quoted. A cell that a
// spreadsheet would take for a formula begins with an apostrophe.
func CSV(cells ...string) string {
	clean := Screen{} // a file has no locale
	quoted := make([]string, len(cells))
	for i, cell := range cells {
		cell = clean.Clean(cell)
		if first, _ := utf8.DecodeRuneInString(strings.TrimSpace(cell)); strings.ContainsRune(formula, first) {
			cell = "'" + cell
		}
		quoted[i] = `"` + strings.ReplaceAll(cell, `"`, `""`) + `"`
	}
	return strings.Join(quoted, ",")
}
