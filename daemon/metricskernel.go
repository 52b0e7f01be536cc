package daemon

// ofKernelTap registers the metrics of the tap nflog; of returns nil if there is none.
func (m *metrics) ofKernelTap(t table, of func() *kernelTap) {
	t.gauge("fsban_nflog_up", "1 if SIP is received from the kernel (sip.tap), 0 otherwise.", func() float64 { return boolean(of().up()) })
	t.counterOf("fsban_nflog_packets_total", "Packets of the SIP ports received from the kernel.",
		func() uint64 { return of().stats().Packets })
	t.counterOf("fsban_nflog_lost_total", "Packets that the kernel could not hand over because fsban did not read them in time.",
		func() uint64 { return of().stats().Lost })
	t.counterOf("fsban_nflog_incomplete_total",
		"Packets and TCP streams from the kernel of which a part was missing, or beyond the bounds of reassembly.",
		func() uint64 { return of().stats().Dropped + of().stats().Malformed })
}
