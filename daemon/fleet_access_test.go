package daemon

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fsban/config"
	"fsban/control"
	"fsban/internal/redisserver"
)

// acl returns the Redis permissions that docs/fleet.md states.
func acl(t *testing.T) []string {
	t.Helper()
	data, err := os.ReadFile("../docs/fleet.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(data), "\nuser fsban on ")
	line, _, _ := strings.Cut(rest, "\n")
	if !ok || !strings.Contains(line, ">PASSWORD") {
		t.Fatal("docs/fleet.md has no line that begins with user fsban on")
	}
	return strings.Fields("fsban on " + strings.Replace(line, ">PASSWORD", ">s3cret", 1))
}

func TestAWrongPasswordIsSaidAndALoginWithTheDocumentedRightsIsEnough(t *testing.T) {
	t.Parallel()
	redis := redisserver.Start(t, "--requirepass", "master")
	cli(t, redis, append([]string{"-a", "master", "acl", "setuser"}, acl(t)...)...)
	wrong := node(t, redis.Addr(), "wrong", func(c *config.Config) { c.Fleet.Username, c.Fleet.Password = "fsban", "guess" })
	until(t, "it says what is wrong", func() bool {
		s := wrong.status()
		return strings.Contains(strings.Join(s.Problems, "\n"), "fleet: this node is alone: the login to Redis is refused (fleet.username, fleet.password_file)") && !s.Fleet.Up && s.Ready
	})
	wrong.fail("203.0.113.66", 5) // local protection works without Redis
	wrong.eventually("a ban", func() bool { return len(wrong.ledger.List()) == 1 })
	right := func(c *config.Config) {
		c.Fleet.Username, c.Fleet.Password, c.Fleet.Share = "fsban", "s3cret", config.ShareFailures
	}
	a, b := node(t, redis.Addr(), "a", right), node(t, redis.Addr(), "b", right)
	inStep(t, a, b)
	a.ban("203.0.113.1/32")
	b.fail("203.0.113.67", 1)
	agree(t, []*rig{a, b}, "203.0.113.1/32")
	until(t, "a failure is shared", func() bool { return len(a.why("203.0.113.67").Counts) > 0 })
	a.statusIs("in a fleet without an error", func(s control.Status) bool { return len(s.Fleet.Nodes) > 0 && s.Fleet.Error == "" })
	// A missing permission is named in the problem.
	cli(t, redis, "-a", "master", "acl", "setuser", "fsban", "-xadd")
	a.ban("203.0.113.2/32")
	a.problem("the login to Redis may not do what a fleet needs (docs/fleet.md has the ACL)")
	cli(t, redis, "-a", "master", "acl", "setuser", "fsban", "+xadd")
	agree(t, []*rig{a, b}, "203.0.113.1/32", "203.0.113.2/32")
}

func TestTLSWithCertificatesOnBothSides(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca, key := certificate(t, dir, "ca", nil, nil)
	certificate(t, dir, "redis", ca, key)
	certificate(t, dir, "node", ca, key)
	file := func(name string) string { return filepath.Join(dir, name) }
	redis := redisserver.Start(t)
	redis.Kill()
	plain := redis.Port
	redis = redisserver.Start(t, "--tls-port", fmt.Sprint(plain), "--tls-cert-file", file("redis.crt"), "--tls-key-file", file("redis.key"),
		"--tls-ca-cert-file", file("ca.crt"), "--tls-auth-clients", "yes")
	secure := func(c *config.Config) {
		c.Fleet.Redis = fmt.Sprintf("rediss://127.0.0.1:%d/0", plain)
		c.Fleet.TLS = config.FleetTLS{CAFile: file("ca.crt"), CertFile: file("node.crt"), KeyFile: file("node.key"), ServerName: "redis"}
	}
	a, b := node(t, "", "a", secure), node(t, "", "b", secure)
	inStep(t, a, b)
	a.ban("203.0.113.1/32")
	agree(t, []*rig{a, b}, "203.0.113.1/32")
	// A server without a valid certificate for Redis is refused.
	c := node(t, "", "c", secure, func(c *config.Config) { c.Fleet.TLS.ServerName = "another" })
	c.problem("certificate is valid for redis, not another")
	d, err := open(func() config.Config {
		cfg := configFor(t, a.fs)
		secure(&cfg)
		cfg.Fleet.TLS.CAFile = file("none")
		return cfg
	}(), Options{Log: a.Daemon.log})
	if err == nil || !strings.Contains(err.Error(), "fleet.tls.ca_file") {
		t.Errorf("%v, %v", d, err)
	}
	_ = redis
}

// certificate writes NAME.crt and NAME.key, signed by ca, or self-signed if ca is nil.
func certificate(t *testing.T, dir, name string, ca *x509.Certificate, caKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: ca == nil, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if ca == nil {
		ca, caKey = c, key
		c.ExtKeyUsage = nil
	}
	der, err := x509.CreateCertificate(rand.Reader, c, ca, &key.PublicKey, caKey)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{name + ".crt": {Type: "CERTIFICATE", Bytes: der}, name + ".key": {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(filepath.Join(dir, file), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return parsed, key
}
