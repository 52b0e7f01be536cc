package esl_test

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if scenario, ok := scenarios[os.Getenv(scenarioEnv)]; ok {
		scenario(os.Getenv(addressEnv))
		return
	}
	goleak.VerifyTestMain(m)
}
