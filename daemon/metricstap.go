package daemon

import (
	"github.com/prometheus/client_golang/prometheus"

	"fsban/detect"
	"fsban/policy"
	"fsban/sipwire/hep"
)

// tapMetrics count SIP messages of the taps by outcome, and details of attempts on the wire, and observe how long failed logins waited
// for their requests.
type tapMetrics struct {
	messages map[detect.Outcome]prometheus.Counter
	details  map[policy.Kind]map[string]prometheus.Counter
	joined   prometheus.Histogram
}

// joinNames are the values of label proof.
var joinNames = map[policy.Proof]string{
	policy.UnknownProof: "unknown", policy.TCPProof: "tcp", policy.NonceProof: "nonce", policy.NoProof: "none",
}

func (m *metrics) ofTap(t table, d *Daemon) {
	tap := func() *tap { return d.sources.tap }
	t.counterOf("fsban_sip_deaf_seconds_total",
		"Seconds in which a port of FreeSWITCH got at least 500 SIP requests and answered less than half of them.",
		func() uint64 { return tap().wireStats().Deaf })
	m.tap.messages = counters(t, "fsban_sip_messages_total",
		"SIP messages that the taps received, by outcome.", "outcome", detect.WireOutcomes)
	m.tap.joined = t.histogram(seconds("fsban_sip_join_seconds",
		"Time that failed logins of the event socket waited for their SIP request, while a tap was alive.",
		.0001, .0005, .001, .005, .01, .02, .05, .1))
	for proof, name := range joinNames {
		countersOf(t, "fsban_sip_joined_total",
			"Failed logins of the event socket while a tap was alive, by the proof of their address. none: the tap saw the request, and "+
				"nothing proves the address. unknown: it did not see it.", "proof", []string{name},
			func(string) uint64 { return tap().joinStats().Proofs[proof] })
	}
	t.counterOf("fsban_sip_join_crowded_total", "Failed logins that did not wait for their SIP request because too many did.",
		func() uint64 { return tap().joinStats().Crowded })
	t.counterOf("fsban_sip_evicted_total",
		"SIP transactions, nonces and requests forgotten before their time because memory is bounded.",
		func() uint64 { return tap().wireStats().Evicted + tap().joinStats().Evicted })
	t.counterOf("fsban_sip_unmatched_total", "SIP responses without their request.", func() uint64 { return tap().wireStats().Unmatched })
	t.gauge("fsban_hep_listening", "1 if fsban listens for HEP (sip.hep.listen), 0 otherwise.",
		func() float64 { return boolean(tap() != nil && tap().hep.Load() != nil) })
	t.gauge("fsban_hep_last_message_timestamp_seconds", "Unix time of the last SIP message received as HEP; 0 if none.",
		func() float64 {
			if last := tap().hepStats().Last; !last.IsZero() {
				return stamp(last.UnixMicro())
			}
			return 0
		})
	m.ofKernelTap(t, func() *kernelTap {
		if tap() == nil {
			return nil
		}
		return tap().kernel
	})
	reasons := make([]hep.Reason, hep.NumReasons)
	for r := range reasons {
		reasons[r] = hep.Reason(r)
	}
	countersOf(t, "fsban_hep_refused_total",
		"HEP datagrams refused, by reason. sender: not in sip.hep.from; not_hep: no HEP of version 1 to 3; not_sip: HEP of something else.",
		"reason", reasons, func(r hep.Reason) uint64 { return tap().hepStats().Refused[r] })
	t.counterOf("fsban_hep_lost_total", "HEP datagrams that the kernel dropped because fsban did not read them in time.",
		func() uint64 { return tap().hepStats().Lost })
	t.counterOf("fsban_hep_forwarded_total", "HEP datagrams forwarded to sip.hep.forward.",
		func() uint64 { return tap().hepStats().Forwarded })
	t.counterOf("fsban_hep_forward_errors_total", "HEP datagrams that could not be forwarded at once.",
		func() uint64 { return tap().hepStats().ForwardFailed })
}
