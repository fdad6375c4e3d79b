//! Random sequences of calls on several sockets, against a model of the options' contract.
//!
//! The model knows what a program is told: phases, frozen and shared contexts, values, errnos. It is
//! written from the contract, not from the hooks.

use std::{fs, net::SocketAddr};

use proptest::test_runner::{Config, TestRunner};
use ssa_tests::{
    agent::{Agent, cgroup_mount},
    few,
    pki::{Leaf, Pki},
    server::{Server, closed_port},
};

use self::{calls::*, world::*};

mod calls;
mod world;

const SEQUENCES: usize = 1000;

/// Puts this process into a cgroup, and takes it out again at the end: dropping an agent kills what is
/// in its cgroup.
struct Inside;

impl Inside {
    fn enter(agent: &Agent) -> Self {
        fs::write(agent.cgroup().join("cgroup.procs"), "0").unwrap();
        Self
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        fs::write(cgroup_mount().join("cgroup.procs"), "0").unwrap();
    }
}

#[test]
fn random_sequences_do_as_the_contract_says() {
    let pki = Pki::new();
    let server = Server::echo("127.0.0.1", &pki.leaf(Leaf::of(&[NAME, "127.0.0.1"])));
    let nobody = SocketAddr::from(([127, 0, 0, 1], closed_port("127.0.0.1")));
    let peers = Peers { server: server.addr, nobody, ca: text(&pki.ca_pem()) };
    let agent = Agent::start_quiet();
    let inside = Inside::enter(&agent);
    let config = Config {
        cases: u32::try_from(few(SEQUENCES)).unwrap(),
        failure_persistence: None,
        max_shrink_iters: 2000,
        ..Config::default()
    };
    let sequences = proptest::collection::vec(call(), 1..50);
    let met = std::cell::RefCell::new(Met::default());
    let result = TestRunner::new(config).run(&sequences, |calls| {
        let mut world = World { met: met.take(), ..World::default() };
        for slot in 0..SLOTS {
            world.call(&peers, &Call::Open(slot))?;
        }
        for call in calls {
            if let Call::Set(slot @ 0..SLOTS, 92 | 110, _) = call {
                let list = Value::Bytes(text(&format!("{}:{}", SUITES[0], SUITES[2])));
                world.call(&peers, &Call::Set(slot, 97, list))?;
            }
            world.call(&peers, &call)?;
        }
        met.replace(world.met);
        Ok(())
    });
    drop(inside);
    let met = met.into_inner().0;
    println!("{met:?}");
    assert_eq!(agent.entries("CONTEXTS"), 0, "all is forgotten");
    if let Err(error) = result {
        panic!("{error}");
    }
    for (what, times) in [("connect 0", 200), ("connect 71", 300), ("connect 111", 80), ("get 0", 500), ("set 0", 3000)]
    {
        assert!(met.get(what).is_some_and(|count| *count >= few(times)), "{what}: {met:?}");
    }
}
