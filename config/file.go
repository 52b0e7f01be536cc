package config

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"

	"fsban/internal/regular"
)

// Bounds of the files that the configuration names.
const (
	maxConfig = 4 << 20 // bytes of the configuration itself
	maxSecret = 4 << 10 // bytes of a password file
	maxPEM    = 1 << 20 // bytes of certificates or a key
)

// readConfig returns the configuration file, which may be a pipe of the shell that runs fsban, of at most maxConfig bytes.
func readConfig(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	return regular.All(file, path, maxConfig)
}

// CheckFile returns an error if a file that another library reads is not a regular one of ordinary size, or cannot be read.
func CheckFile(path string) error {
	_, err := regular.Read(path, maxPEM)
	return err
}

// TLSConfig reads the files of fleet.tls. It returns nil where fleet.redis does not ask for TLS.
func (f *Fleet) TLSConfig() (*tls.Config, error) {
	if _, _, secure, err := f.Addresses(); err != nil || !secure {
		return nil, err
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: f.TLS.ServerName}
	if f.TLS.CAFile != "" {
		data, err := regular.Read(f.TLS.CAFile, maxPEM)
		if err != nil {
			return nil, fmt.Errorf("fleet.tls.ca_file: %w", err)
		}
		if c.RootCAs = x509.NewCertPool(); !c.RootCAs.AppendCertsFromPEM(data) {
			return nil, fmt.Errorf("fleet.tls.ca_file: %s has no certificate (PEM)", f.TLS.CAFile)
		}
	}
	if f.TLS.CertFile != "" {
		cert, certErr := regular.Read(f.TLS.CertFile, maxPEM)
		key, keyErr := regular.Read(f.TLS.KeyFile, maxPEM)
		err := errors.Join(certErr, keyErr)
		if err == nil {
			var pair tls.Certificate
			if pair, err = tls.X509KeyPair(cert, key); err == nil {
				c.Certificates = []tls.Certificate{pair}
			}
		}
		if err != nil {
			return nil, fmt.Errorf("fleet.tls.cert_file, fleet.tls.key_file: %w", err)
		}
	}
	return c, nil
}
