//! Fixtures of the system tests. They need root, a cgroup2 hierarchy and a kernel that loads the
//! programs; a test that can't run fails.
//!
//! - [`agent`]: an agent of the test's own, on a cgroup of its own;
//! - [`config`]: its configuration, [`app`]: applications in its cgroup, in Python and C;
//! - [`cgroup`]: more cgroups of a test's own;
//! - [`firewall`]: one on a cgroup, as systemd makes them;
//! - [`keyed`]: transfers in which every byte is known, and [`toxic`]: what networks do to them;
//! - [`in_tls`]: numbers of options by name;
//! - [`pki`]: certificates of every kind, good and bad;
//! - [`server`]: peers, from well-behaved to hostile; [`nginx`] and `s_server` are real ones;
//! - [`sniffer`]: every packet on an interface;
//! - [`status`]: who says whether certificates are revoked;
//! - [`starts`]: services that connect as soon as they have begun;
//! - [`report`]: the table of errnos.

pub mod agent;
pub mod app;
pub mod cgroup;
pub mod config;
pub mod firewall;
pub mod in_tls;
pub mod keyed;
pub mod nginx;
pub mod pki;
pub mod report;
pub mod server;
pub mod sniffer;
pub mod starts;
pub mod status;
pub mod toxic;

use std::time::{Duration, Instant};

/// Repetitions: `times`, or a tenth of them on a slow machine, such as an emulated one ([`slow_machine`]).
pub fn few(times: usize) -> usize {
    if slow_machine() { times / 10 } else { times }
}

/// Whether `SSA_SLOW_MACHINE` is set, as `cargo xtask vm` does: many repetitions are fewer, and limits longer.
pub fn slow_machine() -> bool {
    std::env::var_os("SSA_SLOW_MACHINE").is_some()
}

/// A time limit: `limit`, or four times as long on a slow machine.
pub fn long(limit: Duration) -> Duration {
    if slow_machine() { limit * 4 } else { limit }
}

/// Waits until `check` holds; panics with `what` after `limit` ([`long`]).
pub fn eventually(what: &str, limit: Duration, mut check: impl FnMut() -> bool) {
    let deadline = Instant::now() + long(limit);
    while !check() {
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
