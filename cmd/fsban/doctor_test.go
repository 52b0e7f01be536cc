package main

import (
	"strconv"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/rogpeppe/go-internal/txtar"
)

// setReplies has the FreeSWITCH of a script answer as a fixture of package doctor, its clock apart.
func setReplies(ts *testscript.TestScript, _ bool, args []string) {
	archive, err := txtar.ParseFile("../../doctor/testdata/" + args[0] + ".txtar")
	ts.Check(err)
	for _, f := range archive.Files {
		switchOf(ts).SetReply(f.Name, string(f.Data))
	}
	switchOf(ts).SetReply("strmicroepoch", strconv.FormatInt(time.Now().UnixMicro(), 10))
}
