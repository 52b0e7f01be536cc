package fail2ban

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Seconds reads a duration as fail2ban does: 600, 10m, "1d 2h", 1h30m, 2*7d, -1. Without a unit it is seconds. Years have
// 365.25 days, months are a twelfth of that.
func Seconds(text string) (float64, error) {
	p := durationParser{rest: text}
	v, err := p.sum(0)
	if err == nil && p.rest != "" {
		err = fmt.Errorf("%.20q is too much", p.rest)
	}
	if err == nil && (math.IsInf(v, 0) || math.IsNaN(v)) {
		err = errors.New("too large")
	}
	if err != nil {
		return 0, fmt.Errorf("%.60q is not a duration of fail2ban's: %w", text, err)
	}
	return v, nil
}

const year = 365.25 * 24 * 60 * 60

var durationUnits = map[string]float64{}

func init() {
	for names, seconds := range map[string]float64{
		"s ss se sec second seconds": 1,
		"m mm mi min minute minutes": 60,
		"h hh ho hou hour hours":     60 * 60,
		"d dd da day days":           24 * 60 * 60,
		"w ww we wee week weeks":     7 * 24 * 60 * 60,
		"mo mon month months":        year / 12,
		"y yy ye yea year years":     year,
	} {
		for name := range strings.FieldsSeq(names) {
			durationUnits[name] = seconds
		}
	}
}

// A durationParser reads a sum. fail2ban has Python evaluate it, after it has put a factor in place of each unit and a plus
// between numbers with nothing but space between them.
type durationParser struct{ rest string }

// maxNested bounds the parentheses within each other.
const maxNested = 50

func (p *durationParser) sum(nested int) (float64, error) {
	total, err := p.product(nested)
	for err == nil {
		var v float64
		switch c := p.peek(); {
		case c == '+' || c == '-':
			p.rest = p.rest[1:]
			v, err = p.product(nested)
			if c == '-' {
				v = -v
			}
		case isDigit(c):
			v, err = p.product(nested)
		default:
			return total, nil
		}
		total += v
	}
	return 0, err
}

func (p *durationParser) product(nested int) (float64, error) {
	v, err := p.term(nested)
	for err == nil {
		var w float64
		switch p.peek() {
		case '*':
			p.rest = p.rest[1:]
			w, err = p.term(nested)
			v *= w
		case '/':
			p.rest = p.rest[1:]
			w, err = p.term(nested)
			v /= w
		default:
			return v, nil
		}
	}
	return 0, err
}

func (p *durationParser) term(nested int) (float64, error) {
	if nested > maxNested {
		return 0, errors.New("too many parentheses and signs")
	}
	switch c := p.peek(); {
	case c == '-':
		p.rest = p.rest[1:]
		v, err := p.term(nested + 1)
		return -v, err
	case c == '+':
		p.rest = p.rest[1:]
		return p.term(nested + 1)
	case c == '(':
		p.rest = p.rest[1:]
		v, err := p.sum(nested + 1)
		if err == nil && p.peek() != ')' {
			return 0, errors.New("a parenthesis is not closed")
		}
		if err == nil {
			p.rest = p.rest[1:]
		}
		return v, err
	case isDigit(c) || c == '.':
		return p.number()
	case c == 0:
		return 0, errors.New("it ends too early")
	}
	return 0, fmt.Errorf("%.20q is no number", p.rest)
}

// number reads digits and the unit behind them.
func (p *durationParser) number() (float64, error) {
	end := strings.IndexFunc(p.rest, func(r rune) bool { return r != '.' && r != '_' && (r > 127 || !isDigit(byte(r))) })
	if end < 0 {
		end = len(p.rest)
	}
	digits := p.rest[:end]
	p.rest = p.rest[end:]
	whole := strings.TrimLeft(digits, "0")
	if !strings.Contains(digits, ".") && whole != "" && whole != digits || strings.HasSuffix(digits, "_") || strings.Contains(digits, "__") {
		return 0, fmt.Errorf("%.20q is no number", digits)
	}
	v, err := strconv.ParseFloat(strings.ReplaceAll(digits, "_", ""), 64)
	if err != nil {
		return 0, fmt.Errorf("%.20q is no number", digits)
	}
	p.peek()
	end = strings.IndexFunc(p.rest, func(r rune) bool { return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') })
	if end < 0 {
		end = len(p.rest)
	}
	if end == 0 {
		return v, nil
	}
	unit, ok := durationUnits[strings.ToLower(p.rest[:end])]
	if !ok {
		return 0, fmt.Errorf("%.20q is no unit", p.rest[:end])
	}
	p.rest = p.rest[end:]
	return v * unit, nil
}

// peek returns the next byte that is not space, or 0 at the end.
func (p *durationParser) peek() byte {
	p.rest = strings.TrimLeftFunc(p.rest, isSpace)
	if p.rest == "" {
		return 0
	}
	return p.rest[0]
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }
