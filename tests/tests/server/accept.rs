//! What comes out of `accept` has a finished handshake behind it, and tells of its client.

use std::{
    io::{Read as _, Write as _},
    time::Duration,
};

use openssl::ssl::SslVersion;
use serde_json::json;
use ssa_tests::{eventually, pki::Leaf};

use crate::site::*;

#[test]
fn accepted_socket_tells_of_its_client() {
    let site = site();
    let script = r#"
chain, key, ca = args
sock = listener(chain, key, before=lambda sock: [sock.setsockopt(IPPROTO_TLS, ALPN, text("h2,http/1.1")),
    sock.setsockopt(IPPROTO_TLS, TRUSTED, text(ca)), sock.setsockopt(IPPROTO_TLS, AUTH, 1)])
out(sock.getsockname()[1])
for _ in range(3):
    conn, peer = sock.accept()
    out([about(conn), peer == conn.getpeername(), conn.getsockname() == sock.getsockname(),
         attempt(conn.setsockopt, IPPROTO_TLS, 85, b"x.test\0"), attempt(conn.getsockopt, IPPROTO_TLS, CONTEXT, 8), number(conn, AUTH)])
    echo(conn)
"#;
    let mut app = site.start(script, &[&site.pki.ca()]);
    let addr = addr(&app.said());
    let client = site.pki.leaf(Leaf::of(&["client"]));
    let with = connector(&site.pki, |builder| {
        builder.set_alpn_protos(b"\x08http/1.1\x02h2").unwrap();
        builder.set_certificate(&client.certificate).unwrap();
        builder.set_private_key(&client.key).unwrap();
    });
    let mut stream = connect(&with, addr, NAME).unwrap();
    assert_eq!(stream.ssl().selected_alpn_protocol(), Some(&b"h2"[..]), "the server's order");
    let came = app.said();
    assert_eq!(came[0]["sni"], NAME);
    assert_eq!(came[0]["alpn"], "h2");
    assert_eq!(came[0]["identity"], "CN=client,O=SSA tests");
    assert_eq!(json!([came[0]["count"], came[0]["fingerprint"], came[0]["chain"]]), json!([2, 32, "-----BEGIN"]));
    assert_eq!(json!([came[0]["version"], came[0]["state"], came[0]["error"]]), json!([0x304, 2, ""]));
    assert_eq!(
        json!([came[1], came[2], came[3], came[4], came[5]]),
        json!([true, true, "EOPNOTSUPP", "EOPNOTSUPP", 1])
    );
    stream.write_all(b"echo").unwrap();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"echo");
    let _gone = stream.shutdown();
    // Without a certificate, without SNI (an address), over TLS 1.2.
    let without = connector(&site.pki, |builder| builder.set_max_proto_version(Some(SslVersion::TLS1_2)).unwrap());
    let mut stream = connect(&without, addr, "127.0.0.1").unwrap();
    let came = app.said();
    let nothing = json!([
        came[0]["sni"],
        came[0]["identity"],
        came[0]["fingerprint"],
        came[0]["chain"],
        came[0]["count"],
        came[0]["alpn"]
    ]);
    assert_eq!(nothing, json!(["ENOENT", "ENOENT", "ENOENT".len(), "ENOENT", 0, ""]));
    assert_eq!(came[0]["version"], 0x303);
    let _gone = stream.shutdown();
    // A certificate of somebody else's CA: no handshake, nothing accepted.
    let stranger = ssa_tests::pki::self_signed(Leaf::of(&["stranger"]));
    let wrong = connector(&site.pki, |builder| {
        builder.set_certificate(&stranger.certificate).unwrap();
        builder.set_private_key(&stranger.key).unwrap();
    });
    let refused =
        connect(&wrong, addr, NAME).map(|mut stream| stream.read(&mut [0; 1]).map_err(|error| error.to_string()));
    assert!(!matches!(refused, Ok(Ok(_))), "{refused:?}");
    eventually("the log says so", Duration::from_secs(5), || site.agent.log().contains("refused a client"));
    let last = connect(&without, addr, NAME).unwrap();
    assert_eq!(app.said()[0]["sni"], NAME);
    drop(last);
    app.finish();
}

#[test]
fn required_client_certificate_is_required() {
    let site = site();
    let script = r#"
chain, key, ca = args
sock = listener(chain, key, before=lambda sock: [sock.setsockopt(IPPROTO_TLS, TRUSTED, text(ca)), sock.setsockopt(IPPROTO_TLS, AUTH, 2)])
out(sock.getsockname()[1])
conn, _ = sock.accept()
out(about(conn)["identity"]); conn.close()
no_ca = listener(chain, key, before=lambda sock: sock.setsockopt(IPPROTO_TLS, AUTH, 2))
no_ca.settimeout(5)
out([attempt(no_ca.accept), error(no_ca)])
"#;
    let mut app = site.start(script, &[&site.pki.ca()]);
    let addr = addr(&app.said());
    for version in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
        let without = connector(&site.pki, |builder| builder.set_max_proto_version(Some(version)).unwrap());
        let refused =
            connect(&without, addr, NAME).map(|mut stream| stream.read(&mut [0; 1]).map_err(|error| error.to_string()));
        assert!(!matches!(refused, Ok(Ok(_))), "{refused:?}");
    }
    let client = site.pki.leaf(Leaf::of(&["client"]));
    let with = connector(&site.pki, |builder| {
        builder.set_certificate(&client.certificate).unwrap();
        builder.set_private_key(&client.key).unwrap();
    });
    let _stream = connect(&with, addr, NAME).unwrap();
    assert_eq!(app.said(), "CN=client,O=SSA tests", "the first that came out of accept");
    let came = app.said();
    assert!(["EINVAL", "ECONNABORTED"].contains(&came[0].as_str().unwrap()), "{came}");
    assert!(came[1].as_str().unwrap().contains("clients' certificates need CAs"), "{came}");
    app.finish();
}

#[test]
fn listener_that_can_not_serve_fails_accept_and_says_why() {
    let site = site();
    let other = site.pki.write("other", &site.pki.leaf(Leaf::of(&["other"]))).1;
    let script = r#"
chain, key, other = args
came = []
for sets in ([], [(CHAIN, chain)], [(CHAIN, chain), (KEY, other)], [(CHAIN, "/nowhere.pem"), (KEY, key)]):
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::")):
        sock = socket.socket(family)
        sock.setsockopt(IPPROTO_TLS, HOSTNAME, b"x.test\0")
        for option, value in sets: sock.setsockopt(IPPROTO_TLS, option, text(value))
        sock.bind((host, 0)); sock.listen(); sock.settimeout(5)
        came.append([attempt(sock.accept), error(sock)])
out(came)
"#;
    let came = site.start(script, &[&other]).finish();
    let texts = ["needs a certificate", "the chain has no key", "the key does not fit", "No such file"];
    for (index, text) in texts.iter().enumerate() {
        for came in [&came[2 * index], &came[2 * index + 1]] {
            assert!(["EINVAL", "ECONNABORTED"].contains(&came[0].as_str().unwrap()), "{came}");
            assert!(came[1].as_str().unwrap().contains(text), "{came}");
        }
    }
}

#[test]
fn all_the_ways_programs_serve() {
    let site = site();
    let script = r#"
import ssl
chain, key, ca = args
def fetch(port, host="127.0.0.1", name_="server.ssa.test"):
    context = ssl.create_default_context(cafile=ca)
    with context.wrap_socket(socket.create_connection((host, port), 5), server_hostname=name_) as client:
        client.sendall(b"x"); return client.recv(100).decode()
def answer(sock, word, times=1):
    for _ in range(times):
        conn, _ = sock.accept(); assert conn.recv(1) == b"x"; conn.sendall(word.encode()); conn.close()
def background(*arguments): threading.Thread(target=answer, args=arguments, daemon=True).start()
came = {}
# Pre-forked workers on one listener.
sock = listener(chain, key); workers = []
for index in range(3):
    pid = os.fork()
    if pid == 0: answer(sock, "fork", 100); os._exit(0)
    workers.append(pid)
came["fork"] = {fetch(sock.getsockname()[1]) for _ in range(12)} == {"fork"}
for pid in workers: os.kill(pid, signal.SIGKILL); os.waitpid(pid, 0)
# A group by SO_REUSEPORT.
def reuse(sock): sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
first = listener(chain, key, before=reuse); port = first.getsockname()[1]
second = listener(chain, key, port=port, before=reuse)
background(first, "one", 100); background(second, "two", 100)
words = [fetch(port) for _ in range(40)]
came["group"] = [set(words) == {"one", "two"}]
# Two services on one port, and a plain one.
one = listener(chain, key, host="127.0.0.2"); port = one.getsockname()[1]
two = listener(chain, key, host="127.0.0.3", port=port)
plain = socket.socket(); plain.bind(("127.0.0.4", port)); plain.listen()
background(one, "2"); background(two, "3"); background(plain, "plain")
def fetch_plain(host):
    with socket.create_connection((host, port), 5) as client: client.sendall(b"x"); return client.recv(100).decode()
came["addresses"] = [fetch(port, "127.0.0.2"), fetch(port, "127.0.0.3"), fetch_plain("127.0.0.4")]
# A plain listener at one address beside a TLS one at every address.
beside = socket.socket(); reuse(beside); beside.bind(("127.0.0.5", 0)); beside.listen(); port = beside.getsockname()[1]
wide = listener(chain, key, host="0.0.0.0", port=port, before=reuse)
background(beside, "plain"); background(wide, "wide", 2)
time.sleep(0.2)
came["beside"] = [fetch(port, "127.0.0.1"), fetch_plain("127.0.0.5")]
# Without bind, and once more after shutdown.
unbound = socket.socket(); unbound.setsockopt(IPPROTO_TLS, CHAIN, text(chain)); unbound.setsockopt(IPPROTO_TLS, KEY, text(key)); unbound.listen()
background(unbound, "unbound")
came["unbound"] = fetch(unbound.getsockname()[1])
again = listener(chain, key); port = again.getsockname()[1]
background(again, "before"); before = fetch(port)
again.shutdown(socket.SHUT_RDWR)
time.sleep(0.1)
states = [state(again), attempt(fetch, port)]
again.listen(); port = again.getsockname()[1]; background(again, "after")
came["relisten"] = [before, states[0], states[1] != "ok", fetch(port)]
# Inherited through exec.
inherited = listener(chain, key); inherited.set_inheritable(True)
child = os.fork()
if child == 0:
    os.execvp("python3", ["python3", "-c", f"import socket\ns = socket.socket(fileno={inherited.fileno()})\nc, _ = s.accept()\nc.recv(1); c.sendall(b'exec'); c.close()"])
came["exec"] = fetch(inherited.getsockname()[1])
os.waitpid(child, 0)
out(came)
"#;
    let came = site.start(script, &[&site.pki.ca()]).finish();
    assert_eq!(
        came,
        json!({"fork": true, "group": [true], "addresses": ["2", "3", "plain"], "beside": ["wide", "plain"], "unbound": "unbound",
               "relisten": ["before", 0, true, "after"], "exec": "exec"})
    );
}
