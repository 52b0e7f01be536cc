package daemon

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/prometheus/exporter-toolkit/web"

	"fsban/config"
	"fsban/neverban"
)

// CheckFiles reads the files that a configuration names and returns all errors, each with its setting. listed is the number of
// entries in policy.ignore_file. check and reload refuse a configuration with such an error as a whole.
func CheckFiles(cfg *config.Config) (listed int, err error) {
	listed, ignore := checkIgnoreFile(cfg.Policy.IgnoreFile)
	return listed, errors.Join(ignore, checkLogPath(cfg.CTILog.Path), checkFleetTLS(&cfg.Fleet), checkWebConfig(cfg.HTTP.WebConfigFile))
}

func checkIgnoreFile(path string) (listed int, err error) {
	if path == "" {
		return 0, nil
	}
	data, err := neverban.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("policy.ignore_file: %w", err)
	}
	prefixes, hosts, err := config.ParseIgnoreFile(path, data)
	return len(prefixes) + len(hosts), err
}

// checkLogPath accepts a file that mod_cti has not written yet, in a directory that exists.
func checkLogPath(path string) error {
	if path == "" || path == config.CTILogOff {
		return nil
	}
	if info, err := os.Stat(filepath.Dir(path)); err == nil && info.IsDir() || err != nil && !os.IsNotExist(err) {
		return nil
	}
	return errors.New(noLogDirectory(path))
}

func noLogDirectory(path string) string {
	return fmt.Sprintf("cti_log.path: no directory %s: mod_cti's log is not read. Write the path of fail2ban.filename in cti.json, or off",
		filepath.Dir(path))
}

func checkFleetTLS(f *config.Fleet) error {
	if f.Redis == "" {
		return nil
	}
	_, err := f.TLSConfig()
	return err
}

func checkWebConfig(path string) error {
	if path == "" {
		return nil
	}
	if err := config.CheckFile(path); err != nil { // the toolkit would wait for a pipe, at each connection again
		return fmt.Errorf("http.web_config_file: %w", err)
	}
	if err := web.Validate(path); err != nil {
		return fmt.Errorf("http.web_config_file: %s: %w", path, err)
	}
	return nil
}
