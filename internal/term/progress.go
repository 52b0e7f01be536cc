package term

import (
	"fmt"
	"io"
	"os"
)

// Progress returns a progress bar on out, or nil if out is no terminal.
func Progress(out io.Writer) func(done, total int64) {
	if f, ok := out.(*os.File); !ok || !IsTerminal(f) || os.Getenv("TERM") == "dumb" {
		return nil
	}
	return progressBar(out)
}

func progressBar(out io.Writer) func(done, total int64) {
	last := int64(-1)
	return func(done, total int64) {
		percent := min(done*100/total, 100) // a log grows while it is read
		if percent == last {
			return
		}
		last = percent
		bar := "########################################"[:percent*40/100]
		fmt.Fprintf(out, "\r[%-40s] %3d%%", bar, percent)
		if percent == 100 {
			fmt.Fprint(out, "\r\033[K")
		}
	}
}
