package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestWhereAFleetsRedisIs(t *testing.T) {
	for text, want := range map[string]string{
		"redis: redis://redis.example.org":                           "[redis.example.org:6379] 0 false",
		"redis: rediss://redis.example.org:6380/3":                   "[redis.example.org:6380] 3 true",
		"redis: redis://[2001:db8::1]":                               "[[2001:db8::1]:6379] 0 false",
		"redis: unix:///run/redis/redis.sock":                        "[/run/redis/redis.sock] 0 false",
		"{redis: 'redis://a,b:26380', sentinel: master}":             "[a:26379 b:26380] 0 false",
		"{redis: 'rediss://a:7000,b:7000', cluster: true}":           "[a:7000 b:7000] 0 true",
		"{redis: 'redis://a', cluster: true}":                        "[a:6379] 0 false",
		"{}":                                                         "[] 0 false",
		"redis: redis://redis.example.org/x":                         "number of a database",
		"redis: redis://redis.example.org:0":                         "is not host:port",
		"redis: redis://redis.example.org?x=1":                       "write redis://host:6379/0",
		"redis: unix://redis.sock":                                   "write redis://host:6379/0",
		"{redis: 'redis://a,b/1', cluster: true}":                    "a cluster has no database but 0",
		"{redis: 'redis://a', tls: {key_file: /k}}":                  "cert_file and key_file belong together",
		"{redis: 'redis://a', share: failures, name: pbx, node: n1}": "[a:6379] 0 false",
	} {
		c, err := Parse("c.yaml", []byte("fleet:\n  "+text+"\n"))
		got := fmt.Sprint(err)
		if err == nil {
			addrs, db, secure, addrErr := c.Fleet.Addresses()
			if got = fmt.Sprintf("%v %d %v", addrs, db, secure); addrErr != nil || c.Fleet.On() != (len(addrs) > 0) {
				t.Errorf("%s: %v", text, addrErr)
			}
		}
		if !strings.Contains(got, want) {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}

func TestTheFleetsPasswordIsReadFromItsFile(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for name, tc := range map[string]struct{ file, want, err string }{
		"a line":    {write("line", "s3cret\n"), "s3cret", ""},
		"nothing":   {write("nothing", "\n"), "", "is empty"},
		"two lines": {write("lines", "a\nb\n"), "", "more than one line"},
		"no file":   {filepath.Join(dir, "none"), "", "fleet.password_file: open"},
	} {
		c, err := Load(write("c.yaml", "fleet: {redis: 'redis://a', password_file: "+tc.file+"}\n"))
		if err != nil && tc.err == "" || !strings.Contains(fmt.Sprint(err), tc.err) || err == nil && string(c.Fleet.Password) != tc.want {
			t.Errorf("%s: %q, %v", name, string(c.Fleet.Password), err)
		}
	}
	t.Setenv(FleetPasswordEnv, "of the environment")
	c, err := Load(write("c.yaml", "fleet: {redis: 'redis://a', password_file: "+filepath.Join(dir, "line")+"}\n"))
	if err != nil || c.Fleet.Password != "of the environment" {
		t.Errorf("%q, %v", string(c.Fleet.Password), err)
	}
}

func TestTLSForTheFleetIsMadeFromItsFiles(t *testing.T) {
	c := Default()
	c.Fleet.Redis = "redis://a"
	if tls, err := c.Fleet.TLSConfig(); tls != nil || err != nil {
		t.Errorf("%v, %v", tls, err)
	}
	c.Fleet.Redis, c.Fleet.TLS.ServerName = "rediss://a", "redis"
	if tls, err := c.Fleet.TLSConfig(); err != nil || tls.ServerName != "redis" {
		t.Errorf("%v, %v", tls, err)
	}
	c.Fleet.TLS.CAFile = "fleet_test.go"
	if _, err := c.Fleet.TLSConfig(); err == nil || !strings.Contains(err.Error(), "has no certificate (PEM)") {
		t.Error(err)
	}
	c.Fleet.TLS = FleetTLS{CertFile: "fleet_test.go", KeyFile: "fleet_test.go"}
	if _, err := c.Fleet.TLSConfig(); err == nil || !strings.Contains(err.Error(), "fleet.tls.cert_file") {
		t.Error(err)
	}
}
