//! Metrics for Prometheus. Names are after those of ztunnel and Envoy where they count the same.

use std::collections::HashMap;

use prometheus::{
    CounterVec, Gauge, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry, TextEncoder,
    core::Collector, process_collector::ProcessCollector,
};

/// Labels of one connection's metrics.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Labels<'a> {
    /// Path of the attached cgroup; empty if it is gone.
    pub(crate) service: &'a str,
    /// `out` if the application has connected, `in` if it has accepted.
    pub(crate) direction: &'static str,
}

/// Values that are read off the running agent when somebody asks for the metrics.
pub(crate) struct Snapshot {
    /// Counts of open connections: service, direction, count.
    pub(crate) connections: Vec<(String, &'static str, u64)>,
    /// Attached cgroups: path, and the number of open TLS sockets that were made in it.
    pub(crate) services: Vec<(String, u64)>,
    /// Counters of the hooks, by name; those that only grow.
    pub(crate) hooks: Vec<(&'static str, u64)>,
    /// Number of times that a policy was put in force.
    pub(crate) generation: u64,
}

/// Metrics of the agent.
pub(crate) struct Metrics {
    registry: Registry,
    opened: IntCounterVec,
    closed: IntCounterVec,
    refused: IntCounterVec,
    sent: IntCounterVec,
    received: IntCounterVec,
    handshakes: HistogramVec,
    reload_failures: IntCounter,
    revocation: IntCounterVec,
    revoked: IntCounter,
    // Set when somebody asks.
    connections: GaugeVec,
    services: Gauge,
    sockets: GaugeVec,
    hooks: CounterVec,
    generation: Gauge,
}

impl Metrics {
    /// Makes and registers all metrics, at zero.
    pub(crate) fn new() -> Result<Self, prometheus::Error> {
        const OF: [&str; 2] = ["service", "direction"];
        let registry = Registry::new();
        let all = &registry;
        let counter =
            |name: &str, help: &str, labels: &[&str]| add(all, IntCounterVec::new(Opts::new(name, help), labels));
        let gauge = |name: &str, help: &str, labels: &[&str]| add(all, GaugeVec::new(Opts::new(name, help), labels));
        let build = Opts::new("ssa_build_info", "Always 1; the label is the version that runs");
        add(all, Gauge::with_opts(build.const_label("version", env!("CARGO_PKG_VERSION"))))?.set(1.0);
        all.register(Box::new(ProcessCollector::for_self()))?;
        Ok(Self {
            opened: counter(
                "ssa_connections_opened_total",
                "Connections whose handshake was finished",
                &["service", "direction", "version", "resumed"],
            )?,
            closed: counter(
                "ssa_connections_closed_total",
                "Connections that have ended, in order (closed) or not (reset)",
                &["service", "direction", "end"],
            )?,
            refused: counter(
                "ssa_connections_refused_total",
                "Connections that were not made, by what failed",
                &["service", "direction", "reason"],
            )?,
            sent: counter(
                "ssa_sent_bytes_total",
                "Bytes from applications to peers, as the application wrote them",
                &OF,
            )?,
            received: counter(
                "ssa_received_bytes_total",
                "Bytes from peers to applications, as the application reads them",
                &OF,
            )?,
            handshakes: add(
                all,
                HistogramVec::new(
                    HistogramOpts::new(
                        "ssa_handshake_seconds",
                        "What a connection waits for: connecting, and the handshake",
                    )
                    .buckets(vec![0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0]),
                    &["direction"],
                ),
            )?,
            reload_failures: add(
                all,
                IntCounter::new("ssa_policy_reload_failures_total", "Configurations that were refused at a reload"),
            )?,
            revocation: counter(
                "ssa_revocation_answers_total",
                "Certificates whose revocation was checked, by where the answer came from (none: from nowhere), and \
                 what it is (good, revoked, none; let: none, and the policy lets it be)",
                &["way", "answer"],
            )?,
            revoked: add(
                all,
                IntCounter::new("ssa_connections_revoked_total", "Open connections whose peer has become revoked"),
            )?,
            connections: gauge("ssa_connections", "Open connections", &OF)?,
            services: add(all, Gauge::new("ssa_services", "Attached cgroups"))?,
            sockets: gauge("ssa_sockets", "Open TLS sockets, without those that were accepted", &["service"])?,
            hooks: add(
                all,
                CounterVec::new(Opts::new("ssa_hooks_total", "What the eBPF programs have counted"), &["counter"]),
            )?,
            generation: add(all, Gauge::new("ssa_policy_generation", "How often a policy was put in force"))?,
            registry,
        })
    }

    /// Counts a connection whose handshake was finished, `seconds` after it was asked for.
    pub(crate) fn opened(&self, of: Labels<'_>, version: &str, resumed: bool, seconds: f64) {
        let resumed = if resumed { "true" } else { "false" };
        self.opened.with_label_values(&[of.service, of.direction, version, resumed]).inc();
        self.handshakes.with_label_values(&[of.direction]).observe(seconds);
    }

    /// Counts a connection that has ended: `closed` or `reset`.
    pub(crate) fn closed(&self, of: Labels<'_>, end: &str) {
        self.closed.with_label_values(&[of.service, of.direction, end]).inc();
    }

    /// Counts a connection that was not made; `reason` in a word.
    pub(crate) fn refused(&self, of: Labels<'_>, reason: &str) {
        self.refused.with_label_values(&[of.service, of.direction, reason]).inc();
    }

    /// Counts bytes that were relayed, from the application and to it.
    pub(crate) fn relayed(&self, of: Labels<'_>, up: u64, down: u64) {
        self.sent.with_label_values(&[of.service, of.direction]).inc_by(up);
        self.received.with_label_values(&[of.service, of.direction]).inc_by(down);
    }

    /// Forgets a service that is gone: pods come and go, and what is counted for each would be kept for ever.
    pub(crate) fn forget(&self, service: &str) {
        for all in [&self.opened, &self.closed, &self.refused, &self.sent, &self.received] {
            let samples = all.collect().into_iter().flat_map(|mut family| family.take_metric());
            for sample in samples {
                let labels: HashMap<&str, &str> =
                    sample.get_label().iter().map(|label| (label.name(), label.value())).collect();
                if labels.get("service") == Some(&service) {
                    // It was there a moment ago.
                    let _gone = all.remove(&labels);
                }
            }
        }
    }

    /// Counts a check of a certificate's revocation: by the source of the answer, and what it was.
    pub(crate) fn asked_of_revocation(&self, way: &str, answer: &str) {
        self.revocation.with_label_values(&[way, answer]).inc();
    }

    /// Counts an open connection whose peer has become revoked.
    pub(crate) fn peer_revoked(&self) {
        self.revoked.inc();
    }

    /// Counts a configuration that was refused at a reload.
    pub(crate) fn reload_failed(&self) {
        self.reload_failures.inc();
    }

    /// Writes all metrics in Prometheus's text format 0.0.4.
    pub(crate) fn text(&self, now: &Snapshot) -> Result<String, prometheus::Error> {
        self.connections.reset();
        for (service, direction, open) in &now.connections {
            // Up to 2^53 are counted exactly, here and below.
            self.connections.with_label_values(&[service.as_str(), direction]).set(*open as f64);
        }
        self.sockets.reset();
        for (service, open) in &now.services {
            self.sockets.with_label_values(&[service.as_str()]).set(*open as f64);
        }
        self.services.set(now.services.len() as f64);
        self.hooks.reset();
        for (name, count) in &now.hooks {
            self.hooks.with_label_values(&[name]).inc_by(*count as f64);
        }
        self.generation.set(now.generation as f64);
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

/// Registers a metric.
fn add<C: Collector + Clone + 'static>(
    registry: &Registry,
    made: Result<C, prometheus::Error>,
) -> Result<C, prometheus::Error> {
    let made = made?;
    registry.register(Box::new(made.clone()))?;
    Ok(made)
}
