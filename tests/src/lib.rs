//! Fixtures of the system tests. They need root, a cgroup2 hierarchy and a kernel that loads the
//! programs; a test that can't run fails.
//!
//! - [`agent`]: an agent of the test's own, on a cgroup of its own;
//! - [`app`]: programs in that cgroup, in Python and C;
//! - [`pki`]: certificates of every kind, good and bad;
//! - [`server`]: peers, from well-behaved to hostile; [`nginx`] and `s_server` are real ones;
//! - [`sniffer`]: every packet on an interface;
//! - [`report`]: the table of errnos.

pub mod agent;
pub mod app;
pub mod nginx;
pub mod pki;
pub mod report;
pub mod server;
pub mod sniffer;

use std::time::{Duration, Instant};

/// Waits until `check` holds; panics with `what` after `limit`.
pub fn eventually(what: &str, limit: Duration, mut check: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !check() {
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
