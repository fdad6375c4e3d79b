//! Names that are learned from DNS answers.

use std::io::{Read as _, Write as _};

use serde_json::json;
use ssa_tests::{
    agent::Agent,
    app::python,
    pki::{Leaf, Pki},
    server::{self, Server},
};

use crate::fixture::*;

/// A name server on 127.0.0.53, where the service asks. Asks back whoever asks it, so that the test can forge.
const ASK: &str = r#"
def question(name, number):
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    return struct.pack(">6H", number, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">2H", 1, 1)
def answer(query, addr, ttl=60):
    return (query[:2] + struct.pack(">5H", 0x8180, 1, 1, 0, 0) + query[12:]
            + struct.pack(">3HIH", 0xc00c, 1, 1, ttl, 4) + socket.inet_aton(addr))
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.53", 53))
forger = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
forger.bind(("127.0.0.54", 53))
def resolve(name, addr, by=server, number=None, reply=None, sock=None):
    sock = sock or socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(5)
    resolve.number += 1
    asked = question(name, resolve.number)
    sock.sendto(asked, ("127.0.0.53", 53))
    query, client = server.recvfrom(512)
    reply = reply or answer(question(name, number or resolve.number), addr)
    by.sendto(reply, client)
    sock.recv(512)
    return sock
resolve.number = 1000
def talk(addr):
    sock = socket.socket()
    sock.settimeout(20)
    try:
        sock.connect((addr, int(args[0])))
        sock.sendall(b"hello")
        return sock.recv(100).decode()
    except OSError as error:
        return errno.errorcode[error.errno]
"#;

/// As [`out`], with these names instead of one.
fn by_names(port: u16, pki: &Pki, names: &str) -> String {
    out(port, pki, &format!("hostnames = {names}"))
        .replace(&format!("hostname = \"{NAME}\"\n"), "")
        .replace("address = \"127.0.0.1\"\n", "")
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
    let config = by_names(server.addr.port(), &pki, "[\"one.ssa.test\", \"two.ssa.test\", \"*.cloud.test\"]");
    let agent = Agent::start_with(&config);
    let script = format!(
        "{ASK}{}",
        r#"
said = {"nothing resolved": talk("127.0.0.1")}
resolve("other.ssa.test", "127.0.0.1"); said["not listed"] = talk("127.0.0.1")
resolve("cloud.test", "127.0.0.1"); said["above the pattern"] = talk("127.0.0.1")
resolve("one.ssa.test", "127.0.0.1", by=forger); said["from another server"] = talk("127.0.0.1")
resolve("one.ssa.test", "127.0.0.1", number=7); said["another number"] = talk("127.0.0.1")
resolve("other.ssa.test", "127.0.0.1", reply=answer(question("one.ssa.test", resolve.number + 1), "127.0.0.1"))
said["another question"] = talk("127.0.0.1")
sock = resolve("x.ssa.test", "127.0.0.9")
server.sendto(answer(question("one.ssa.test", 1), "127.0.0.1"), sock.getsockname() if sock.getsockname()[0] != "0.0.0.0" else ("127.0.0.1", sock.getsockname()[1]))
sock.recv(512); said["not asked for"] = talk("127.0.0.1")
resolve("a.cloud.test", "127.0.0.1"); said["by a pattern"] = talk("127.0.0.1")
resolve("ONE.ssa.test", "127.0.0.1"); said["two that fit"] = talk("127.0.0.1")
out(said)
"#
    );
    let said = python(&agent, &script, &[&server.port()]);
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
    let agent = Agent::start_with(&by_names(server.addr.port(), &pki, "[\"*.ssa.test\"]"));
    // The length by itself, the answer in two: as resolvers may.
    let script = r#"
listener = socket.create_server(("127.0.0.53", 53))
def by_tcp(name, addr, number=None):
    sock = socket.create_connection(("127.0.0.53", 53))
    resolve.number += 1
    asked = question(name, resolve.number)
    sock.sendall(struct.pack(">H", len(asked))); sock.sendall(asked)
    peer, _client = listener.accept()
    assert peer.recv(2 + len(asked), socket.MSG_WAITALL)[2:] == asked
    reply = answer(question(name, number or resolve.number), addr)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    peer.sendall(struct.pack(">H", len(reply)) + reply[:20]); time.sleep(0.05); peer.sendall(reply[20:])
    sock.recv(2 + len(reply), socket.MSG_WAITALL)
said = [talk("127.0.0.1")]
by_tcp("one.ssa.test", "127.0.0.1", number=7); said.append(talk("127.0.0.1"))
by_tcp("one.ssa.test", "127.0.0.1"); said.append(talk("127.0.0.1"))
out(said)
"#;
    let said = python(&agent, &format!("{ASK}{script}").replace("127.0.0.5", "127.0.0.8"), &[&server.port()]);
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
    let config = by_names(server.addr.port(), &pki, "[\"*.ssa.test\"]");
    let (one, two) = (Agent::start_with(&config), Agent::start_with(&config));
    let script = format!(
        "{}resolve(args[1], '127.0.0.1')\nout(talk('127.0.0.1'))",
        ASK.replace("127.0.0.53", "127.0.0.63").replace("127.0.0.54", "127.0.0.64")
    );
    assert_eq!(python(&one, &script, &[&server.port(), "one.ssa.test"]), json!("one.ssa.test"));
    assert_eq!(python(&two, &script, &[&server.port(), "two.ssa.test"]), json!("two.ssa.test"));
    assert_eq!(
        python(&one, &format!("{ASK}out(talk('127.0.0.1'))").replace("127.0.0.5", "127.0.0.7"), &[&server.port()]),
        json!("one.ssa.test")
    );
}
