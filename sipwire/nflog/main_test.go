package nflog

import (
	"testing"

	"fsban/internal/kerneltest"
)

func TestMain(m *testing.M) { kerneltest.Main(m) }
