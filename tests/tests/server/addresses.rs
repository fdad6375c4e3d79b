//! Addresses and ports of clients, also from another network namespace.

use serde_json::json;

use crate::site::*;

#[test]
fn real_addresses_are_shown_also_from_another_namespace() {
    let site = site();
    let came = site.start("client_addresses.py", &[&site.pki.ca()]).finish();
    let mapped = json!(["::ffff:10.9.1.2", true, "::ffff:10.9.1.1", true]);
    assert_eq!(came[0], json!(["10.9.1.2", true, "10.9.1.1", true]));
    assert_eq!(came[1], came[0]);
    assert_eq!(came[2], json!(["fd00:9::2", true, "fd00:9::1", true]));
    assert_eq!(json!([came[3], came[4]]), json!([came[2], mapped]));
}

#[test]
fn ports_of_ended_connections_do_not_run_out() {
    let site = site();
    // 64 ports instead of 28,000, and more clients than that within the minute that an ended connection keeps
    // its port for.
    assert_eq!(site.start("client_ports.py", &[&site.pki.ca()]).said(), json!([0, 0]));
}
