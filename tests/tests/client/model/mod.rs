//! Random sequences of calls on several sockets, against a model of the options' contract.
//!
//! The model knows what an application is told: phases, frozen and shared contexts, values, errnos. It is
//! written from the contract, not from the hooks.

mod calls;
mod world;

use std::{env, net::SocketAddr};

use proptest::test_runner::{Config, TestRunner};
use ssa_tests::{
    agent::Agent,
    app::command,
    few,
    in_tls::{TLS_DISABLE_CIPHER, TLS_ENABLE_CIPHER, TLS_TRUSTED_CIPHERS},
    pki::{Leaf, Pki},
    server::{Server, closed_port},
};

use self::{
    calls::{Call, NAME, SLOTS, SUITES, Value, call, text},
    world::{Met, Peers, World},
};

const SEQUENCES: usize = 1000;
/// Set for the process that makes the calls: port of the server, port where nobody listens, file of the CA.
const PEERS: &str = "SSA_MODEL_PEERS";

/// Hooks go by the cgroup of a whole process, and other tests run in this one: the calls are made by another process of
/// this same executable, which is in the agent's cgroup from its start.
#[test]
fn random_calls_do_as_the_contract_says() {
    if let Ok(peers) = env::var(PEERS) {
        return make_calls(&peers);
    }
    let pki = Pki::new();
    let server = Server::echo("127.0.0.1", &pki.leaf(Leaf::of(&[NAME, "127.0.0.1"])));
    let agent = Agent::start_quiet();
    let output = command(&agent, env::current_exe().unwrap())
        .args(["--exact", "model::random_calls_do_as_the_contract_says", "--nocapture"])
        .env(PEERS, format!("{} {} {}", server.port(), closed_port("127.0.0.1"), pki.ca()))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    println!("{said}");
    assert_eq!(agent.entries("CONTEXTS"), 0, "all is forgotten");
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

fn make_calls(peers: &str) {
    let mut words = peers.splitn(3, ' ');
    let mut addr = || SocketAddr::from(([127, 0, 0, 1], words.next().unwrap().parse().unwrap()));
    let (server, nobody) = (addr(), addr());
    let ca = text(&std::fs::read_to_string(words.next().unwrap()).unwrap());
    let peers = Peers { server, nobody, ca };
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
            if let Call::Set(slot @ 0..SLOTS, TLS_DISABLE_CIPHER | TLS_ENABLE_CIPHER, _) = call {
                let list = Value::Bytes(text(&format!("{}:{}", SUITES[0], SUITES[2])));
                world.call(&peers, &Call::Set(slot, TLS_TRUSTED_CIPHERS, list))?;
            }
            world.call(&peers, &call)?;
        }
        met.replace(world.met);
        Ok(())
    });
    let met = met.into_inner().0;
    println!("{met:?}");
    if let Err(error) = result {
        panic!("{error}");
    }
    for (what, times) in [("connect 0", 200), ("connect 71", 300), ("connect 111", 80), ("get 0", 500), ("set 0", 3000)]
    {
        assert!(met.get(what).is_some_and(|count| *count >= few(times)), "{what}: {met:?}");
    }
}
