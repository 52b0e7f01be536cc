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
	"fsban/firewall/backend"
	"fsban/internal/term"
	"fsban/neverban"
)

func newDoctor(s *settings) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Check FreeSWITCH and this host for security problems",
		Long: `Examine the FreeSWITCH of the configuration, over its event socket, and this host: profiles, access lists, dialplan,
directory, event socket, version, saved firewall rules. Each finding has the observation, the reason why it matters, and the
change to make. doctor changes nothing and shows no password.

A critical finding needs work today, a warning soon, a note none. The exit code is 1 if there are critical findings or
warnings.

doctor reads with the api commands xml_locate, sofia xmlstatus, version or status, acl, module_exists, global_getvar,
strmicroepoch, strftime and find_user_xml. A login that may not run some of them gets a list of unseen subjects. If the login
fails, that is a critical finding, and the host is examined all the same.`,
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
				printDiagnosis(term.NewScreen(cmd.OutOrStdout()), &d)
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

// examine logs in as the daemon does, so that it finds the limits of that login. Without a login it examines the host alone.
func examine(ctx context.Context, cfg *config.Config) ([]doctor.Finding, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	states := make(chan esl.State, 1)
	opts := daemon.Subscription(cfg, detect.New(cfg.Detect()))
	opts.Required = "" // an event that it may not see is a finding
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
		host := doctor.ReadHost(cfg.CTILog.File(), backend.SetSize(cfg.Firewall.Backend, cfg.Firewall.Options()))
		host.Firewall = backend.Surroundings(ctx)
		if grace, err := neverban.LoginGraceTime(neverban.SSHDConfig); err == nil {
			host.LoginGraceTime = &grace
		}
		if state.Err != nil {
			return doctor.ExamineHost(host, state.Err), nil
		}
		findings := doctor.Examine(ctx, client, host, doctor.Options{
			Contexts: cfg.Calls.Contexts, Denied: state.Denied, Required: detect.Required, LoggedIn: cfg.FreeSWITCH.User,
			NoTap: cfg.SIP.Tap == config.TapOff,
		})
		if err := ctx.Err(); errors.Is(err, context.Canceled) {
			return nil, err // interrupted: half a look is no diagnosis
		}
		return findings, nil
	}
}

func printDiagnosis(s *term.Screen, d *diagnosis) {
	fmt.Fprintf(s.Out, "FreeSWITCH at %s: %d critical, %d warnings, %d notes\n", d.FreeSWITCH, d.Critical, d.Warnings, d.Notes)
	last := ""
	for _, f := range d.Findings {
		if severity := f.Severity.String(); severity != last {
			fmt.Fprintf(s.Out, "\n%s\n", strings.ToUpper(severity))
			last = severity
		}
		s.PrintLines(s.Wrap("  ", f.Title))
		for _, row := range [][2]string{{"seen", f.Seen}, {"why", f.Why}, {"change", f.Change}} {
			if row[1] != "" {
				s.PrintLines(s.Wrap(fmt.Sprintf("    %-7s ", row[0]), row[1]))
			}
		}
	}
}
