//! Names that are learned from DNS answers.

use std::io::{Read as _, Write as _};

use serde_json::json;
use ssa_tests::{
    agent::Agent,
    app::python,
    config::Config,
    pki::{Leaf, Pki},
    server::{self, Server},
};

/// A rule: what goes to a port is TLS to the one of these names that was resolved.
fn by_names(port: u16, pki: &Pki, names: &[&str]) -> Config {
    Config::rule("out").to_port(port).hostnames(names).trust_only(&pki.ca())
}

#[test]
fn learned_name_is_what_the_peer_must_prove_to_have() {
    let pki = Pki::new();
    let several = pki.leaf(Leaf::of(&["one.ssa.test", "two.ssa.test", "a.cloud.test"]));
    let context = server::context(&several);
    let server = Server::tls("127.0.0.1", context, |mut stream| {
        let mut hello = [0; 10];
        let _gone = stream.read(&mut hello);
        let name = stream.ssl().servername(openssl::ssl::NameType::HOST_NAME).unwrap_or("none").to_owned();
        let _gone = stream.write_all(name.as_bytes());
        let _gone = stream.shutdown();
    });
    let config = by_names(server.addr.port(), &pki, &["one.ssa.test", "two.ssa.test", "*.cloud.test"]);
    let agent = Agent::start_with(&config);
    let said = python(&agent, "names_learned.py", &[&server.port()]);
    assert_eq!(
        said,
        json!({
            "nothing resolved": "EPROTO",
            "not listed": "EPROTO",
            "above the pattern": "EPROTO",
            "from another server": "EPROTO",
            "another number": "EPROTO",
            "another question": "EPROTO",
            "not asked for": "EPROTO",
            "by a pattern": "a.cloud.test",
            "two that fit": "EPROTO",
        })
    );
}

#[test]
fn names_are_learned_from_answers_by_tcp() {
    let pki = Pki::new();
    let context = server::context(&pki.leaf(Leaf::of(&["one.ssa.test"])));
    let server = Server::tls("127.0.0.1", context, server::echo);
    let agent = Agent::start_with(by_names(server.addr.port(), &pki, &["*.ssa.test"]));
    // The length by itself, the answer in two: as resolvers may.
    let said = python(&agent, "names_by_tcp.py", &[&server.port()]);
    assert_eq!(said, json!(["EPROTO", "EPROTO", "hello"]));
}

#[test]
fn names_on_one_address_are_each_services_own() {
    let pki = Pki::new();
    let context = server::context(&pki.leaf(Leaf::of(&["one.ssa.test", "two.ssa.test"])));
    let server = Server::tls("127.0.0.1", context, |mut stream| {
        let _gone = stream.read(&mut [0; 10]);
        let name = stream.ssl().servername(openssl::ssl::NameType::HOST_NAME).unwrap_or("none").to_owned();
        let _gone = stream.write_all(name.as_bytes());
        let _gone = stream.shutdown();
    });
    let config = by_names(server.addr.port(), &pki, &["*.ssa.test"]);
    let (one, two) = (Agent::start_with(&config), Agent::start_with(&config));
    let ask =
        |agent: &Agent, name: &[&str]| python(agent, "name_resolved.py", &[&[server.port().as_str()], name].concat());
    assert_eq!(ask(&one, &["one.ssa.test"]), json!("one.ssa.test"));
    assert_eq!(ask(&two, &["two.ssa.test"]), json!("two.ssa.test"));
    assert_eq!(ask(&one, &[]), json!("one.ssa.test"), "it has resolved no other");
}
