package detect

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"
)

// Bounds of sofia.conf.
const (
	maxProfiles    = 1_000
	maxDomainText  = 255
	maxConfigDepth = 32
)

// ParseDomains returns the force-register-domain of each profile in sofia.conf, as `xml_locate` prints it: the domain in whose directory
// FreeSWITCH looks up every user of that profile.
func ParseDomains(data []byte) (map[string]string, error) {
	d := xml.NewDecoder(bytes.NewReader(bytes.Map(legible, data)))
	d.Strict = false
	d.CharsetReader = func(_ string, input io.Reader) (io.Reader, error) { return input, nil }
	domains := make(map[string]string)
	profile, depth := "", 0
	for {
		token, err := d.Token()
		switch {
		case errors.Is(err, io.EOF):
			return domains, nil
		case err != nil:
			return nil, err
		}
		switch t := token.(type) {
		case xml.StartElement:
			if depth++; depth > maxConfigDepth {
				return nil, fmt.Errorf("more than %d elements within each other", maxConfigDepth)
			}
			switch t.Name.Local {
			case "profile":
				profile = attribute(&t, "name")
			case "param":
				value := attribute(&t, "value")
				if profile == "" || attribute(&t, "name") != "force-register-domain" || value == "" || len(value) > maxDomainText {
					continue
				}
				if _, known := domains[profile]; known || len(domains) < maxProfiles {
					domains[profile] = value
				}
			}
		case xml.EndElement:
			depth--
			if t.Name.Local == "profile" {
				profile = ""
			}
		}
	}
}

func attribute(e *xml.StartElement, name string) string {
	for _, a := range e.Attr {
		if a.Name.Local == name {
			return a.Value
		}
	}
	return ""
}

// legible replaces characters that are invalid in XML: FreeSWITCH copies the bytes of its configuration.
func legible(r rune) rune {
	if r == unicode.ReplacementChar || r == 0xFFFE || r == 0xFFFF || unicode.IsControl(r) && !strings.ContainsRune("\t\n\r", r) {
		return '?'
	}
	return r
}
