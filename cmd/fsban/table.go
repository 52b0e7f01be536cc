package main

import (
	"fmt"
	"slices"
	"strings"
)

// A column of a table.
type column struct {
	name  string
	right bool // numbers stand to the right
	drop  int  // left out of a narrow terminal, the lowest first; 0: never
	wide  int  // at least; columns that change stay where they are
	least int  // what the last column, which takes what is left, wants to have before others are left out
}

// A table aligns its rows by what they take on a terminal. On a narrow one it does without some columns, and cuts the last
// one.
type table struct {
	columns []column
	rows    [][]string
	notes   map[int][]string // below a row
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

// note adds a line below the last row.
func (t *table) note(text string) {
	if t.notes == nil {
		t.notes = make(map[int][]string)
	}
	t.notes[len(t.rows)-1] = append(t.notes[len(t.rows)-1], text)
}

func (t *table) print(s *screen) {
	widths := make([]int, len(t.columns))
	head := make([]string, len(t.columns))
	for i, c := range t.columns {
		head[i], widths[i] = c.name, max(c.wide, len(c.name))
		for _, row := range t.rows {
			widths[i] = max(widths[i], cells(row[i]))
		}
	}
	shown := t.fitting(s.width, widths)
	t.line(s, head, shown, widths)
	for k, row := range t.rows {
		t.line(s, row, shown, widths)
		for _, n := range t.notes[k] {
			if s.width > 0 {
				n = shorten(n, s.width)
			}
			fmt.Fprintln(s.out, n)
		}
	}
}

// fitting returns which columns are shown.
func (t *table) fitting(width int, widths []int) []int {
	shown := make([]int, len(t.columns))
	for i := range shown {
		shown[i] = i
	}
	if width == 0 {
		return shown
	}
	last := len(t.columns) - 1
	want := min(widths[last], max(t.columns[last].least, len(t.columns[last].name)))
	for {
		used := want
		for _, i := range shown {
			if i != last {
				used += widths[i] + 2
			}
		}
		least := -1
		for at, i := range shown {
			if d := t.columns[i].drop; d > 0 && (least < 0 || d < t.columns[shown[least]].drop) {
				least = at
			}
		}
		if used <= width || least < 0 {
			return shown
		}
		shown = slices.Delete(shown, least, least+1)
	}
}

func (t *table) line(s *screen, row []string, shown, widths []int) {
	var b strings.Builder
	for at, i := range shown {
		pad := strings.Repeat(" ", widths[i]-cells(row[i]))
		switch {
		case t.columns[i].right:
			b.WriteString(pad + row[i])
		case at < len(shown)-1:
			b.WriteString(row[i] + pad)
		default:
			b.WriteString(row[i])
		}
		if at < len(shown)-1 {
			b.WriteString("  ")
		}
	}
	line := strings.TrimRight(b.String(), " ")
	if s.width > 0 {
		line = shorten(line, s.width)
	}
	fmt.Fprintln(s.out, line)
}
