package term

import (
	"fmt"
	"slices"
	"strings"
)

// A Column of a table.
type Column struct {
	Name  string
	Right bool // align to the right
	Drop  int  // on a narrow screen the column with the lowest is left out first; 0: never
	Min   int  // minimum width: keeps columns with changing cells in place
	Want  int  // of the last column: the width for which other columns are left out; of the first: the width that it keeps
	Spare bool // leave it out if all its cells are empty
}

// A Table aligns rows of cleaned cells by their width on the screen. On a narrow screen it leaves out columns, then puts long
// cells of the first column onto a line of their own, and cuts the last column. On a screen with a height it repeats the
// header, so that every full screen of a long table has one.
type Table struct {
	Columns []Column
	Rows    [][]string
	notes   map[int][]string // lines below a row

	shown, widths []int // set by Print: the columns shown, and the width of every column
	lines         int   // printed since the last header
}

// Add appends a row of one cell for each column.
func (t *Table) Add(cells ...string) { t.Rows = append(t.Rows, cells) }

// Note adds a line below the last row.
func (t *Table) Note(text string) {
	if t.notes == nil {
		t.notes = make(map[int][]string)
	}
	t.notes[len(t.Rows)-1] = append(t.notes[len(t.Rows)-1], text)
}

// Print prints the table.
func (t *Table) Print(s *Screen) {
	t.widths = make([]int, len(t.Columns))
	for i, c := range t.Columns {
		t.widths[i] = max(c.Min, len(c.Name))
		for _, row := range t.Rows {
			t.widths[i] = max(t.widths[i], Width(row[i]))
		}
	}
	t.fit(s.Width)
	t.header(s)
	for k, row := range t.Rows {
		t.PrintRow(s, row...)
		for _, n := range t.notes[k] {
			t.line(s, n)
		}
	}
}

// PrintRow prints one more row below a printed table, in its columns.
func (t *Table) PrintRow(s *Screen, cells ...string) {
	if s.Height > minRepeat && t.lines >= s.Height-2 { // the header and the line after the table are on the screen too
		t.header(s)
	}
	if Width(cells[0]) > t.widths[0] {
		t.line(s, cells[0])
		cells = append([]string{""}, cells[1:]...)
	}
	t.row(s, cells)
}

// minRepeat is the height in lines above which the header is repeated.
const minRepeat = 5

func (t *Table) header(s *Screen) {
	names := make([]string, len(t.Columns))
	for i, c := range t.Columns {
		names[i] = c.Name
	}
	t.row(s, names)
	t.lines = 0
}

// fit chooses the columns to show on a screen of that width, and the width of the first one.
func (t *Table) fit(width int) {
	t.shown = make([]int, 0, len(t.Columns))
	for i, c := range t.Columns {
		if !c.Spare || slices.ContainsFunc(t.Rows, func(row []string) bool { return row[i] != "" }) {
			t.shown = append(t.shown, i)
		}
	}
	if width == 0 {
		return
	}
	last := len(t.Columns) - 1
	want := min(t.widths[last], max(t.Columns[last].Want, len(t.Columns[last].Name)))
	for {
		used := want
		for _, i := range t.shown {
			if i != last {
				used += t.widths[i] + 2
			}
		}
		least := -1
		for at, i := range t.shown {
			if d := t.Columns[i].Drop; d > 0 && (least < 0 || d < t.Columns[t.shown[least]].Drop) {
				least = at
			}
		}
		switch {
		case used <= width:
			return
		case least < 0:
			t.narrow(width - (used - t.widths[0]))
			return
		}
		t.shown = slices.Delete(t.shown, least, least+1)
	}
}

// narrow makes the first column as wide as its widest cell that fits into room or its Want.
func (t *Table) narrow(room int) {
	room = max(room, t.Columns[0].Want)
	widest := max(t.Columns[0].Min, len(t.Columns[0].Name))
	for _, row := range t.Rows {
		if w := Width(row[0]); w <= room {
			widest = max(widest, w)
		}
	}
	t.widths[0] = widest
}

func (t *Table) row(s *Screen, cells []string) {
	var b strings.Builder
	for at, i := range t.shown {
		pad := strings.Repeat(" ", max(0, t.widths[i]-Width(cells[i])))
		switch {
		case t.Columns[i].Right:
			b.WriteString(pad + cells[i])
		case at < len(t.shown)-1:
			b.WriteString(cells[i] + pad)
		default:
			b.WriteString(cells[i])
		}
		if at < len(t.shown)-1 {
			b.WriteString("  ")
		}
	}
	t.line(s, strings.TrimRight(b.String(), " "))
}

func (t *Table) line(s *Screen, text string) {
	if s.Width > 0 {
		text = Truncate(text, s.Width)
	}
	fmt.Fprintln(s.Out, text)
	t.lines++
}
