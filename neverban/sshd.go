package neverban

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// SSHDConfig is the path of sshd's configuration.
const SSHDConfig = "/etc/ssh/sshd_config"

// Bounds of sshd's configuration.
const (
	maxSSHDFile  = 256 << 10 // bytes of one file
	maxSSHDFiles = 64
	sshdGrace    = 2 * time.Minute // LoginGraceTime if it is not set
)

// LoginGraceTime returns the longest LoginGraceTime in sshd's configuration, the time for which sshd bears with a connection without a
// login; 0 is without end. It does not follow sshd's order of precedence: one value in any included file counts.
func LoginGraceTime(path string) (time.Duration, error) {
	c := sshdConfig{directory: filepath.Dir(path)}
	if err := c.read(path); err != nil {
		return 0, err
	}
	switch {
	case c.endless:
		return 0, nil
	case c.longest == 0:
		return sshdGrace, nil
	}
	return c.longest, nil
}

type sshdConfig struct {
	directory string
	files     int
	endless   bool
	longest   time.Duration
}

func (c *sshdConfig) read(path string) error {
	if c.files++; c.files > maxSSHDFiles {
		return fmt.Errorf("%s: more than %d files", path, maxSSHDFiles)
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	data, err := readRegular(path, info.Mode(), maxSSHDFile)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	for line := range strings.Lines(string(data)) {
		key, value, _ := strings.Cut(strings.TrimSpace(strings.Map(space, line)), " ")
		value = strings.Trim(strings.TrimSpace(value), `"`)
		switch strings.ToLower(key) {
		case "logingracetime":
			grace, err := sshdTime(value)
			if err != nil {
				return fmt.Errorf("%s: LoginGraceTime: %w", path, err)
			}
			c.endless = c.endless || grace == 0
			c.longest = max(c.longest, grace)
		case "include":
			if err := c.include(strings.Fields(value)); err != nil {
				return err
			}
		}
	}
	return nil
}

// space returns a space for every character that separates a keyword from its value.
func space(r rune) rune {
	if r == '\t' || r == '=' || r == '\r' {
		return ' '
	}
	return r
}

func (c *sshdConfig) include(patterns []string) error {
	for _, pattern := range patterns {
		if pattern = strings.Trim(pattern, `"`); !filepath.IsAbs(pattern) {
			pattern = filepath.Join(c.directory, pattern)
		}
		paths, err := filepath.Glob(pattern)
		if err != nil {
			return fmt.Errorf("include %.80q: %w", pattern, err)
		}
		for _, path := range paths {
			if err := c.read(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}

// sshdTime parses a time as sshd does: seconds, or numbers with the units s, m, h, d and w.
func sshdTime(text string) (time.Duration, error) {
	units := map[byte]time.Duration{'s': time.Second, 'm': time.Minute, 'h': time.Hour, 'd': 24 * time.Hour, 'w': 7 * 24 * time.Hour}
	wrong := fmt.Errorf("%.40q is not a time", text)
	total := time.Duration(0)
	rest := strings.ToLower(text)
	for first := true; rest != "" || first; first = false {
		digits := len(rest) - len(strings.TrimLeft(rest, "0123456789"))
		n, err := strconv.ParseUint(rest[:digits], 10, 31)
		if err != nil {
			return 0, wrong
		}
		unit := time.Second
		if rest = rest[digits:]; rest != "" {
			var known bool
			if unit, known = units[rest[0]]; !known {
				return 0, wrong
			}
			rest = rest[1:]
		}
		const longest = 100 * 365 * 24 * time.Hour
		total = min(total+min(time.Duration(n), longest/unit)*unit, longest)
	}
	return total, nil
}
