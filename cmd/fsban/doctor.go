package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"fsban/config"
	"fsban/daemon"
	"fsban/detect"
	"fsban/doctor"
	"fsban/esl"
	"fsban/firewall"
)

func newDoctor(s *settings) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "doctor",
		Short: "What is open on this FreeSWITCH, and what can fsban not see?",
		Long: `Look at the FreeSWITCH of the configuration, over its event socket, and at this host: its profiles, access lists,
dialplan, directory, event socket and version. Each finding says what was seen, why it matters and what to change. Nothing
is changed, and no password is shown.

A critical finding needs work today, a warning soon; a note says how things are. The exit code is 1 when there are critical
findings or warnings, and 0 when there are only notes.

doctor reads with the api commands xml_locate, sofia xmlstatus, version or status, acl, module_exists, global_getvar,
strmicroepoch, strftime and find_user_xml. A login that may not run some of them is told what stayed unseen.`,
		Example: "  fsban doctor\n  fsban doctor --json | jq -r '.findings[] | select(.severity == \"critical\") | .title'",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := s.load()
			if err != nil {
				return err
			}
			findings, err := examine(cmd.Context(), &cfg)
			if err != nil {
				return err
			}
			d := diagnosis{FreeSWITCH: cfg.FreeSWITCH.Address, Findings: findings}
			for _, f := range findings {
				switch f.Severity {
				case doctor.Critical:
					d.Critical++
				case doctor.Warning:
					d.Warnings++
				default:
					d.Notes++
				}
			}
			if asJSON {
				err = printJSON(cmd.OutOrStdout(), d)
			} else {
				printDiagnosis(screenOf(cmd.OutOrStdout()), &d)
			}
			if err == nil && d.Critical+d.Warnings > 0 {
				err = fmt.Errorf("there is something to do: %d critical, %d warnings", d.Critical, d.Warnings)
			}
			return err
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return c
}

// A diagnosis is the result for --json.
type diagnosis struct {
	FreeSWITCH string           `json:"freeswitch"` // the address of its event socket
	Critical   int              `json:"critical"`
	Warnings   int              `json:"warnings"`
	Notes      int              `json:"notes"`
	Findings   []doctor.Finding `json:"findings"`
}

// lookTime bounds a whole examination.
const lookTime = 2 * time.Minute

// examine logs in as the daemon does, so that it also sees what that login may not.
func examine(ctx context.Context, cfg *config.Config) ([]doctor.Finding, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	states := make(chan esl.State, 1)
	opts := daemon.Subscription(cfg, detect.New(cfg.Detect()))
	opts.Required = "" // what it may not see is a finding
	opts.OnState = func(state esl.State) {
		select {
		case states <- state:
		default: // the first one is enough
		}
	}
	client := esl.NewClient(cfg.FreeSWITCH.Address, opts)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = client.Run(ctx)
	}()
	defer func() { <-done }()
	defer cancel()

	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case state := <-states:
		if state.Err != nil {
			return nil, state.Err
		}
		host := doctor.ReadHost(cfg.CTILog.File())
		host.Firewall = firewall.Surroundings(ctx)
		findings := doctor.Examine(ctx, client, host, doctor.Options{
			Contexts: cfg.Calls.Contexts, Denied: state.Denied, Required: detect.Required, LoggedIn: cfg.FreeSWITCH.User,
		})
		if err := ctx.Err(); errors.Is(err, context.Canceled) {
			return nil, err // interrupted: half a look is no diagnosis
		}
		return findings, nil
	}
}

func printDiagnosis(s *screen, d *diagnosis) {
	fmt.Fprintf(s.out, "FreeSWITCH at %s: %d critical, %d warnings, %d notes\n", d.FreeSWITCH, d.Critical, d.Warnings, d.Notes)
	last := ""
	for _, f := range d.Findings {
		if severity := f.Severity.String(); severity != last {
			fmt.Fprintf(s.out, "\n%s\n", strings.ToUpper(severity))
			last = severity
		}
		fmt.Fprint(s.out, s.wrap("  ", "    ", f.Title))
		for _, row := range [][2]string{{"seen", f.Seen}, {"why", f.Why}, {"change", f.Change}} {
			if row[1] != "" {
				fmt.Fprint(s.out, s.wrap(fmt.Sprintf("    %-7s ", row[0]), strings.Repeat(" ", 12), row[1]))
			}
		}
	}
}
