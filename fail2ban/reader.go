package fail2ban

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// The bounds of one configuration.
const (
	maxFile     = 4 << 20 // bytes of one file
	maxFiles    = 2000    // read, includes repeated
	maxIncluded = 50      // includes within each other
)

// A store reads the files of one configuration directory, each once.
type store struct {
	dir      string
	files    map[string]*ini     // nil: there is none, or fail2ban goes on without it
	included map[string][]string // files with their includes, by the list that names them
	problems []string            // complaints of fail2ban's that do not stop it
}

func newStore(dir string) *store {
	return &store{dir: dir, files: make(map[string]*ini), included: make(map[string][]string)}
}

// read returns one file, or nil where fail2ban goes on without it.
func (s *store) read(path string) (*ini, error) {
	if f, known := s.files[path]; known {
		return f, nil
	}
	s.files[path] = nil
	name, err := filepath.Rel(s.dir, path)
	if err != nil || strings.HasPrefix(name, "..") {
		name = path
	}
	data, err := readFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		s.problems = append(s.problems, fmt.Sprintf("%s: %v: fsban goes on without this file", name, err))
		return nil, nil
	}
	f, err := parseINI(name, data)
	if errors.Is(err, errNotText) {
		s.problems = append(s.problems, err.Error()+": fail2ban goes on without this file, and so does fsban")
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%w (fail2ban refuses this too)", err)
	}
	s.files[path] = f
	return f, nil
}

// readFile reads a file that is one, of a bounded size. A directory is no file.
func readFile(path string) (data []byte, err error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fs.ErrNotExist
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	data, err = io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("%s: larger than %d MiB: this is no configuration of fail2ban's", path, maxFile>>20)
	}
	return data, err
}

// includes returns the files to read for a list of them: each with its .local and its own includes, in order. within
// are the files that include this list.
func (s *store) includes(list, within []string) ([]string, error) {
	if len(within) > maxIncluded {
		return nil, fmt.Errorf("%s: its includes go round in circles (fail2ban refuses this too)", within[0])
	}
	var named []string
	for _, path := range list {
		named = append(named, path)
		local := strings.TrimSuffix(path, filepath.Ext(path)) + ".local"
		if info, err := os.Stat(local); !slices.Contains(list, local) && err == nil && info.Mode().IsRegular() {
			named = append(named, local)
		}
	}
	key := strings.Join(named, "\x00")
	if all, known := s.included[key]; known {
		return all, nil
	}
	var all []string
	for _, path := range named {
		some, err := s.includesOf(path, within)
		if err != nil {
			return nil, err
		}
		if all = append(all, some...); len(all) > maxFiles {
			return nil, fmt.Errorf("%s: more than %d files are included", path, maxFiles)
		}
	}
	s.included[key] = all
	return all, nil
}

// includesOf returns the file at path and its includes, or nothing if it does not exist.
func (s *store) includesOf(path string, within []string) ([]string, error) {
	f, err := s.read(path)
	if f == nil || err != nil {
		return nil, err
	}
	around := map[string][]string{"before": nil, "after": nil}
	if _, ok := f.sections["INCLUDES"]; ok {
		alone := &reader{defaults: f.defaults, sections: f.sections}
		for _, when := range []string{"before", "after"} {
			o, err := alone.get("INCLUDES", when, nil)
			if errors.Is(err, errNoOption) {
				continue
			} else if err != nil {
				return nil, err
			}
			for name := range strings.SplitSeq(o.Text, "\n") {
				if !filepath.IsAbs(name) {
					name = path[:strings.LastIndexByte(path, '/')+1] + name // not cleaned: fail2ban compares names as they are written
				}
				if slices.Contains(within, name) {
					continue
				}
				some, err := s.includes([]string{name}, append(slices.Clone(within), path))
				if err != nil {
					return nil, err
				}
				around[when] = append(around[when], some...)
			}
		}
	}
	return slices.Concat(around["before"], []string{path}, around["after"]), nil
}

// A reader is a configuration of several files, the later ones over the earlier ones.
type reader struct {
	defaults section
	sections map[string]section
	order    []string // of the sections
	files    []string // that it is made of, in order
}

// knownPrefix begins the name of the section that holds the values of options before a later file changed them.
const knownPrefix = "KNOWN/"

var conditional = regexp.MustCompile(`^(\w+)(\?.+)$`)

// load reads a configuration by its name: "jail" is jail.conf, jail.d/*.conf, jail.local and jail.d/*.local.
func (s *store) load(name string) (*reader, error) {
	base := filepath.Join(s.dir, name)
	var list []string
	for _, suffix := range []string{".conf", ".local"} {
		if _, err := os.Stat(base + suffix); err == nil {
			list = append(list, base+suffix)
		}
		entries, err := os.ReadDir(base + ".d")
		if err != nil && !errors.Is(err, fs.ErrNotExist) && suffix == ".conf" {
			s.problems = append(s.problems, fmt.Sprintf("%v: fsban goes on without this directory", err))
		}
		for _, e := range entries { // sorted
			if strings.HasSuffix(e.Name(), suffix) && e.Name()[0] != '.' {
				list = append(list, filepath.Join(base+".d", e.Name()))
			}
		}
	}
	all, err := s.includes(list, nil)
	if err != nil {
		return nil, err
	}
	r := &reader{defaults: section{}, sections: make(map[string]section)}
	for _, path := range all {
		f, err := s.read(path)
		if err != nil {
			return nil, err
		}
		if f != nil {
			r.add(f)
			r.files = append(r.files, path)
		}
	}
	return r, nil
}

// add lets a file override the files before it.
func (r *reader) add(f *ini) {
	maps.Copy(r.defaults, f.defaults)
	for _, name := range f.order {
		options := f.sections[name]
		if m := conditional.FindStringSubmatch(name); m != nil {
			renamed := section{}
			for k, o := range options {
				renamed[k+m[2]] = o
			}
			name, options = m[1], renamed
		}
		old, there := r.sections[name]
		if !there {
			r.sections[name] = maps.Clone(options)
			r.order = append(r.order, name)
			continue
		}
		for k, o := range old {
			if _, changed := options[k]; changed {
				r.put(knownPrefix+name, k, o)
			}
		}
		maps.Copy(old, options)
	}
}

// put sets an option that no file sets.
func (r *reader) put(section_, option string, o Option) {
	if r.sections[section_] == nil {
		r.sections[section_] = section{}
	}
	r.sections[section_][option] = o
}
