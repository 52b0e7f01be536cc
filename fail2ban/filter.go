package fail2ban

import (
	"errors"
	"maps"
	"strings"
)

// A filter is a file of filter.d with the settings of a jail: filter = NAME[OPTION=VALUE].
type filter struct {
	files    *reader
	own      map[string]string // settings of the jail, and [Init]
	jail     map[string]string // the jail's options
	combined map[string]string // of [Definition], [Init] and jail, tags replaced
}

// filterOptions are those of [Definition] that fail2ban reads in any case.
var filterOptions = []string{"usedns", "prefregex", "ignoreregex", "failregex", "maxlines", "datepattern", "journalmatch"}

var errNoFilter = errors.New("there is no such file in filter.d: fail2ban skips this jail")

// filter reads a filter for a jail with the given options. all: with every option of [Definition], not only those that fail2ban
// always reads.
func (s *store) filter(name string, own, jail map[string]string, all bool) (*filter, error) {
	r, err := s.load("filter.d/" + name)
	if err != nil {
		return nil, err
	}
	if len(r.files) == 0 {
		return nil, errNoFilter
	}
	f := &filter{files: r, own: maps.Clone(own), jail: jail}
	if _, set := r.sections["Definition"]["logtype"]; !set && own["logtype"] == "" {
		f.own["logtype"] = "file"
		if strings.HasPrefix(jail["backend"], "systemd") {
			f.own["logtype"] = "journal"
		}
	}
	return f, f.combine(all)
}

func (f *filter) combine(all bool) error {
	over := maps.Clone(f.jail)
	maps.Copy(over, f.own)
	opts := make(map[string]string)
	for _, name := range filterOptions {
		if _, set := over[name]; set {
			continue
		}
		if err := f.take(opts, name, "Definition", name, over); err != nil {
			return err
		}
	}
	for name := range f.files.sections["Init"] {
		if strings.HasPrefix(name, "known/") {
			continue
		}
		if err := f.take(f.own, "known/"+name, "Init", name, nil); err != nil {
			return err
		}
		if _, set := f.own[name]; !set {
			f.own[name] = f.own["known/"+name]
		}
	}
	for name := range f.files.sections["Definition"] {
		if _, set := opts[name]; set || !all {
			continue
		}
		if err := f.take(opts, name, "Definition", name, nil); err != nil {
			return err
		}
	}
	maps.Copy(opts, f.own)
	ignore := make(map[string]bool)
	for name := range opts {
		if m := conditional.FindStringSubmatch(name); m != nil {
			ignore[m[1]] = true
		}
	}
	var err error
	f.combined, err = replaceTags(opts, ignore, func(name string) (string, bool, error) { return f.more(name, over) })
	return err
}

// take puts an option into a map, if it is set.
func (f *filter) take(into map[string]string, as, section, name string, vars map[string]string) error {
	o, err := f.files.get(section, name, vars)
	if err == nil {
		into[as] = o.Text
	}
	return orNotSet(err)
}

// orNotSet returns nil if err means that an option is not set.
func orNotSet(err error) error {
	if errors.Is(err, errNoOption) || errors.Is(err, errNoSection) {
		return nil
	}
	return err
}

// more resolves a tag that no option has the name of: known/NAME is the value of NAME before a later file changed it,
// SECTION/NAME that of another section.
func (f *filter) more(name string, over map[string]string) (string, bool, error) {
	if sect, option, ok := strings.Cut(name, "/"); ok {
		in := []string{sect}
		switch strings.ToLower(sect) {
		case "known":
			in = []string{knownPrefix + "Definition", "Definition"}
		case "default":
			in = []string{defaultSection}
		}
		for _, sect := range in {
			o, err := f.files.get(sect, option, nil)
			if err == nil {
				return o.Text, true, nil
			}
			if orNotSet(err) != nil {
				return "", false, err
			}
		}
	}
	o, err := f.files.get("Definition", name, over)
	return o.Text, err == nil, orNotSet(err)
}
