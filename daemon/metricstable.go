package daemon

import (
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// A table registers metrics. With every label goes its closed set of values, all of which are there from the start, so that
// zero is visible. A value's text is fmt's.
type table struct{ prometheus.Registerer }

func (t table) counter(name, help string) prometheus.Counter {
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	t.MustRegister(c)
	return c
}

func (t table) counterVec(name, help string, labels ...string) *prometheus.CounterVec {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	t.MustRegister(v)
	return v
}

// counters are one counter for each value of a label.
func counters[V comparable](t table, name, help, label string, values []V) map[V]prometheus.Counter {
	vec, list := t.counterVec(name, help, label), make(map[V]prometheus.Counter)
	for _, v := range values {
		list[v] = vec.WithLabelValues(fmt.Sprint(v))
	}
	return list
}

// counterOf and gauge ask for their value when they are scraped: f must not wait.
func (t table) counterOf(name, help string, f func() uint64) {
	t.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, func() float64 { return float64(f()) }))
}

func (t table) gauge(name, help string, f func() float64) {
	t.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, f))
}

// countersOf and gauges are counterOf and gauge for each value of a label.
func countersOf[V any](t table, name, help, label string, values []V, f func(V) uint64) {
	for _, v := range values {
		t.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help,
			ConstLabels: prometheus.Labels{label: fmt.Sprint(v)}},
			func() float64 { return float64(f(v)) }))
	}
}

func gauges[V any](t table, name, help, label string, values []V, f func(V) float64) {
	for _, v := range values {
		t.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: prometheus.Labels{label: fmt.Sprint(v)}},
			func() float64 { return f(v) }))
	}
}

// seconds are the options of a histogram of durations: of the classic kind, and of the native one with at most a hundred buckets
// that are a tenth apart.
func seconds(name, help string, buckets ...float64) prometheus.HistogramOpts {
	return prometheus.HistogramOpts{
		Name: name, Help: help, Buckets: buckets,
		NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 100, NativeHistogramMinResetDuration: time.Hour,
	}
}

func (t table) histogram(o prometheus.HistogramOpts) prometheus.Histogram {
	h := prometheus.NewHistogram(o)
	t.MustRegister(h)
	return h
}

// histograms are one histogram for each value of a label.
func histograms[V comparable](t table, o prometheus.HistogramOpts, label string, values []V) map[V]prometheus.Observer {
	vec, list := prometheus.NewHistogramVec(o, []string{label}), make(map[V]prometheus.Observer)
	t.MustRegister(vec)
	for _, v := range values {
		list[v] = vec.WithLabelValues(fmt.Sprint(v))
	}
	return list
}

// constant is 1, with labels that say something of this process.
func (t table) constant(name, help string, labels prometheus.Labels) {
	t.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: labels}, func() float64 { return 1 }))
}

func boolean(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// stamp is a time as Prometheus has it, of unix microseconds.
func stamp(us int64) float64 { return float64(us) / 1e6 }
