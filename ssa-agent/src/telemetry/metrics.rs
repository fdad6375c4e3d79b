//! What is counted, for Prometheus. Names are after those of ztunnel and Envoy where they count the same.

use std::collections::{HashMap, HashSet};

use prometheus::{
    CounterVec, Gauge, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry, TextEncoder,
    core::Collector, process_collector::ProcessCollector,
};
use ssa_common::limits::Counter;

use crate::{
    app::run::Agent,
    connection::{
        error::Error,
        table::{Delta, Shown},
    },
};

/// All that is counted. A label `service` is the path of the attached cgroup; `direction` is `out` if the program has
/// connected, `in` if it has accepted.
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
            sent: counter("ssa_sent_bytes_total", "Bytes from programs to peers, as the program wrote them", &OF)?,
            received: counter(
                "ssa_received_bytes_total",
                "Bytes from peers to programs, as the program reads them",
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
                "Certificates whose revocation was checked, by where the answer came from (none: from nowhere), and what it is \
                 (good, revoked, none; let: none, and the policy lets it be)",
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

    /// A handshake is done, so long after it was asked for.
    pub(crate) fn opened(&self, shown: &Shown, seconds: f64) {
        let resumed = if shown.resumed { "true" } else { "false" };
        let direction = shown.direction.name();
        self.opened.with_label_values(&[shown.service.as_str(), direction, &shown.version, resumed]).inc();
        self.handshakes.with_label_values(&[direction]).observe(seconds);
    }

    /// A connection is over.
    pub(crate) fn closed(&self, shown: &Shown, end: &str) {
        self.closed.with_label_values(&[shown.service.as_str(), shown.direction.name(), end]).inc();
    }

    /// A connection was not made.
    pub(crate) fn refused(&self, service: &str, direction: &str, error: &Error) {
        self.refused.with_label_values(&[service, direction, error.reason()]).inc();
    }

    /// Bytes were relayed.
    pub(crate) fn relayed(&self, shown: &Shown, Delta { up, down }: Delta) {
        let labels = [shown.service.as_str(), shown.direction.name()];
        self.sent.with_label_values(&labels).inc_by(up);
        self.received.with_label_values(&labels).inc_by(down);
    }

    /// A service is gone: pods come and go, and what is counted for each would be kept for ever.
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

    /// A certificate's revocation was checked.
    pub(crate) fn asked_of_revocation(&self, way: &str, answer: &str) {
        self.revocation.with_label_values(&[way, answer]).inc();
    }

    /// The peer of an open connection has become revoked.
    pub(crate) fn peer_revoked(&self) {
        self.revoked.inc();
    }

    /// A configuration was refused.
    pub(crate) fn reload_failed(&self) {
        self.reload_failures.inc();
    }

    /// Everything, in Prometheus's text format 0.0.4.
    pub(crate) fn text(&self, agent: &Agent) -> Result<String, prometheus::Error> {
        self.connections.reset();
        for shown in agent.connections.shown() {
            self.connections.with_label_values(&[shown.service.as_str(), shown.direction.name()]).inc();
        }
        agent.connections.count_bytes();
        self.sockets.reset();
        let services = agent.services.shown(&agent.maps);
        for service in &services {
            let open = self.sockets.with_label_values(&[&*service.cgroup.to_string_lossy()]);
            // Up to 2^53 sockets are counted exactly.
            open.set(service.sockets as f64);
        }
        self.services.set(services.len() as f64);
        self.hooks.reset();
        let gauges = HashSet::from([Counter::Sockets as u32, Counter::Opened as u32]);
        for (counter, name) in Counter::ALL.into_iter().filter(|(counter, _name)| !gauges.contains(&(*counter as u32)))
        {
            self.hooks.with_label_values(&[name]).inc_by(agent.maps.counter(counter) as f64);
        }
        self.generation.set(agent.policies.generation() as f64);
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

/// Makes a metric known.
fn add<C: Collector + Clone + 'static>(
    registry: &Registry,
    made: Result<C, prometheus::Error>,
) -> Result<C, prometheus::Error> {
    let made = made?;
    registry.register(Box::new(made.clone()))?;
    Ok(made)
}
