//! Servers: what comes out of `accept` has a finished handshake behind it.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    time::Duration,
};

use openssl::{
    pkey::PKey,
    rsa::Rsa,
    ssl::{SslConnector, SslMethod, SslStream, SslVersion},
};
use serde_json::{Value, json};
use ssa_tests::{
    agent::Agent,
    app::{App, command, compile, root},
    eventually, few,
    pki::{Leaf, Pki},
    server::closed_port,
};

const NAME: &str = "server.ssa.test";

/// Short-cuts of the scripts.
const SERVE: &str = r#"
CHAIN, KEY, AUTH, ALPN = 88, 89, 94, 90
def listener(chain, key, host="127.0.0.1", port=0, family=None, before=None, backlog=128):
    sock = socket.socket(family or (socket.AF_INET6 if ":" in host else socket.AF_INET))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(IPPROTO_TLS, CHAIN, text(chain)); sock.setsockopt(IPPROTO_TLS, KEY, text(key))
    if before: before(sock)
    sock.bind((host, port)); sock.listen(backlog)
    return sock
def got(sock, option, size=256):
    try: return sock.getsockopt(IPPROTO_TLS, option, size)
    except OSError as error: return name(error.errno)
def said(sock, option):
    value = got(sock, option)
    return value if isinstance(value, str) else value.rstrip(b"\0").decode()
def about(conn):
    return {"sni": said(conn, 85), "alpn": said(conn, 90), "cipher": said(conn, 98), "version": number(conn, VERSION),
            "resumed": number(conn, RESUMED), "identity": said(conn, 93), "count": number(conn, 131), "state": state(conn),
            "fingerprint": len(got(conn, 150, 32)), "chain": (lambda chain: chain if isinstance(chain, str) else chain.decode())(got(conn, 95, 1024))[:10], "error": error(conn)}
def echo(conn):
    try:
        while data := conn.recv(65536): conn.sendall(data)
    except OSError: pass
    conn.close()
"#;

struct Site {
    agent: Agent,
    pki: Pki,
    chain: String,
    key: String,
}

fn site() -> Site {
    let pki = Pki::new();
    let (chain, key) = pki.write("server", &pki.leaf(Leaf::of(&[NAME, "localhost", "127.0.0.1", "::1"])));
    Site { agent: Agent::start(), pki, chain, key }
}

impl Site {
    fn start(&self, script: &str, more: &[&str]) -> App {
        let arguments: Vec<&str> =
            [self.chain.as_str(), self.key.as_str()].into_iter().chain(more.iter().copied()).collect();
        App::start(&self.agent, &format!("{SERVE}{script}"), &arguments)
    }
}

fn connector(pki: &Pki, change: impl FnOnce(&mut openssl::ssl::SslConnectorBuilder)) -> SslConnector {
    let mut builder = SslConnector::builder(SslMethod::tls_client()).unwrap();
    builder.set_ca_file(pki.ca()).unwrap();
    change(&mut builder);
    builder.build()
}

fn connect(connector: &SslConnector, addr: SocketAddr, name: &str) -> Result<SslStream<TcpStream>, String> {
    let stream = TcpStream::connect_timeout(&addr, Duration::from_secs(5)).map_err(|error| error.to_string())?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    connector.connect(name, stream).map_err(|error| error.to_string())
}

fn addr(port: &Value) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], u16::try_from(port.as_u64().unwrap()).unwrap()))
}

/// A child that is killed when it is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}

fn run(mut command: Command) -> (bool, String) {
    let output = command.stdin(Stdio::null()).output().expect("it is installed");
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

/// curl, s_client, gnutls-cli and Python's ssl, all of them verifying, over both families.
fn clients_are_served(port: u16, pki: &Pki) {
    let ca = pki.ca();
    for host in ["127.0.0.1", "::1"] {
        let target = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let mut s_client = Command::new("sh");
        let line = format!(
            "(printf 'GET / HTTP/1.0\\r\\n\\r\\n'; sleep 0.3) | timeout 10 openssl s_client -connect {target} -servername {NAME} -CAfile {ca} -verify_hostname {NAME} -verify_return_error -quiet"
        );
        s_client.args(["-c", &line]);
        let (_code, said) = run(s_client);
        assert!(said.contains("hello") || said.contains("GET /"), "s_client {host}: {said}");
        let mut gnutls = Command::new("sh");
        let line = format!(
            "(printf 'GET / HTTP/1.0\\r\\n\\r\\n'; sleep 0.3) | timeout 10 gnutls-cli --x509cafile {ca} --sni-hostname {NAME} --verify-hostname {NAME} -p {port} {host}"
        );
        gnutls.args(["-c", &line]);
        let (_code, said) = run(gnutls);
        assert!(
            said.contains("The certificate is trusted") && (said.contains("hello") || said.contains("GET /")),
            "gnutls {host}: {said}"
        );
        let mut python = Command::new("python3");
        python.args(["-c", &format!("import ssl, socket\nc = ssl.create_default_context(cafile={ca:?})\ns = c.wrap_socket(socket.create_connection(({host:?}, {port}), 5), server_hostname={NAME:?})\ns.sendall(b'GET / HTTP/1.0\\r\\n\\r\\n'); print(s.recv(100))")]);
        let (good, said) = run(python);
        assert!(good && (said.contains("HTTP/1.0 200") || said.contains("GET /")), "python {host}: {said}");
    }
}

#[test]
fn python_http_server_serves_all_clients_over_both_families() {
    let site = site();
    let port = closed_port("127.0.0.1");
    let script = root().join("examples/python/serve.py");
    let mut server = command(&site.agent, "python3");
    server.arg(script).args([&port.to_string(), &site.chain, &site.key]).stderr(Stdio::null());
    let _server = Running(server.spawn().unwrap());
    eventually("it listens", Duration::from_secs(10), || site.agent.log().contains("serving a listener"));
    for host in ["127.0.0.1", "[::1]"] {
        let mut curl = Command::new("curl");
        curl.args([
            "-sS",
            "--max-time",
            "10",
            "--cacert",
            &site.pki.ca(),
            "--connect-to",
            &format!("{NAME}:{port}:{host}:{port}"),
            &format!("https://{NAME}:{port}/"),
        ]);
        let (good, said) = run(curl);
        let expected = if host == "[::1]" { "hello ::1\n" } else { "hello ::ffff:127.0.0.1\n" };
        assert!(good && said == expected, "{host}: {said}");
    }
    clients_are_served(port, &site.pki);
}

#[test]
fn c_epoll_server_serves_all_clients_over_both_families() {
    let site = site();
    let port = closed_port("127.0.0.1");
    let program = compile(
        site.pki.folder(),
        &root().join("examples/c/serve.c"),
        "gcc",
        &["-std=gnu99", "-Wall", "-Wextra", "-Werror"],
    );
    let mut server = command(&site.agent, program);
    server.args([&port.to_string(), &site.chain, &site.key]);
    let _server = Running(server.spawn().unwrap());
    eventually("it listens", Duration::from_secs(10), || site.agent.log().contains("serving a listener"));
    clients_are_served(port, &site.pki);
}

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
fn chain_is_chosen_by_name_and_by_type_of_key() {
    let site = site();
    let mut sets = Vec::new();
    for (file, names) in [("one", &["one.test"][..]), ("two", &["two.test"]), ("wild", &["*.wild.test"])] {
        let (chain, key) = site.pki.write(file, &site.pki.leaf(Leaf::of(names)));
        sets.extend([chain, key]);
    }
    let rsa = PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
    let (chain, key) = site.pki.write("rsa", &site.pki.leaf_with_key(Leaf::of(&["two.test"]), rsa));
    sets.extend([chain, key]);
    let script = r#"
chain, key, *sets = args
def more(sock):
    for index in range(0, len(sets), 2):
        sock.setsockopt(IPPROTO_TLS, CHAIN, text(sets[index])); sock.setsockopt(IPPROTO_TLS, KEY, text(sets[index + 1]))
sock = listener(chain, key, before=more)
out(sock.getsockname()[1])
def serve():
    while True: threading.Thread(target=echo, args=(sock.accept()[0],)).start()
threading.Thread(target=serve, daemon=True).start()
wait(); os._exit(0)
"#;
    let more: Vec<&str> = sets.iter().map(String::as_str).collect();
    let mut app = site.start(script, &more);
    let addr = addr(&app.said());
    let shown = |name: &str, ciphers: &str| {
        let connector = connector(&site.pki, |builder| {
            builder.set_max_proto_version(Some(SslVersion::TLS1_2)).unwrap();
            builder.set_cipher_list(ciphers).unwrap();
        });
        connect(&connector, addr, name).map(|stream| {
            let certificate = stream.ssl().peer_certificate().unwrap();
            let names: Vec<String> = certificate
                .subject_alt_names()
                .unwrap()
                .iter()
                .filter_map(|name| name.dnsname().map(str::to_owned))
                .collect();
            (names[0].clone(), certificate.public_key().unwrap().id())
        })
    };
    use openssl::pkey::Id;
    assert_eq!(shown("one.test", "ECDHE+AESGCM"), Ok(("one.test".to_owned(), Id::EC)));
    assert_eq!(shown("two.test", "ECDHE-RSA-AES128-GCM-SHA256"), Ok(("two.test".to_owned(), Id::RSA)));
    assert_eq!(shown("two.test", "ECDHE-ECDSA-AES128-GCM-SHA256"), Ok(("two.test".to_owned(), Id::EC)));
    assert_eq!(shown("a.wild.test", "ECDHE+AESGCM"), Ok(("*.wild.test".to_owned(), Id::EC)));
    assert!(shown("a.b.wild.test", "ECDHE+AESGCM").unwrap_err().contains("verify failed"), "a wildcard is one label");
    assert!(shown("one.test", "ECDHE-RSA-AES128-GCM-SHA256").is_err(), "no other name's key");
    assert_eq!(shown("127.0.0.1", "ECDHE+AESGCM"), Ok((NAME.to_owned(), Id::EC)), "the first chain");
    app.go();
}

#[test]
fn sessions_resume_over_both_versions() {
    let site = site();
    let script = r#"
chain, key = args
sock = listener(chain, key)
out(sock.getsockname()[1])
for _ in range(4):
    conn, _ = sock.accept()
    out(about(conn)["resumed"]); echo(conn)
"#;
    let mut app = site.start(script, &[]);
    let addr = addr(&app.said());
    eventually("it listens", Duration::from_secs(10), || site.agent.log().contains("serving a listener"));
    for version in ["-tls1_3", "-tls1_2"] {
        let file = site.pki.folder().join("session");
        for (what, resumed) in [("-sess_out", 0), ("-sess_in", 1)] {
            let line = format!(
                "(echo x; sleep 1) | timeout 10 openssl s_client -connect {addr} -servername {NAME} -CAfile {} -verify_return_error {version} {what} {}",
                site.pki.ca(),
                file.display()
            );
            let mut s_client = Command::new("sh");
            s_client.args(["-c", &line]);
            let (_code, said) = run(s_client);
            assert_eq!(said.contains("Reused, TLS"), resumed == 1, "{version}: {said}");
            assert!(file.exists(), "{said}");
            assert_eq!(app.said(), resumed);
        }
    }
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
fn real_addresses_are_shown_also_from_another_namespace() {
    let site = site();
    let script = r#"
import subprocess
chain, key, ca = args
assert libc.unshare(0x40000000) == 0
def run(*words): subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
other = subprocess.Popen(["unshare", "-n", "sleep", "60"])
while os.readlink(f"/proc/{other.pid}/ns/net") == os.readlink("/proc/self/ns/net"): time.sleep(0.01)
there = ["nsenter", f"--net=/proc/{other.pid}/ns/net"]
run("ip", "link", "set", "lo", "up")
run("ip", "link", "add", "d0", "type", "veth", "peer", "name", "d1", "netns", str(other.pid))
run("ip", "addr", "add", "10.9.1.1/24", "dev", "d0"); run("ip", "addr", "add", "fd00:9::1/64", "dev", "d0", "nodad"); run("ip", "link", "set", "d0", "up")
run(*there, "ip", "addr", "add", "10.9.1.2/24", "dev", "d1"); run(*there, "ip", "addr", "add", "fd00:9::2/64", "dev", "d1", "nodad"); run(*there, "ip", "link", "set", "d1", "up")
came = []
try:
    for host, family, to in (("10.9.1.1", socket.AF_INET, "10.9.1.1"), ("0.0.0.0", socket.AF_INET, "10.9.1.1"),
                             ("fd00:9::1", socket.AF_INET6, "[fd00:9::1]"), ("::", socket.AF_INET6, "[fd00:9::1]"), ("::", socket.AF_INET6, "10.9.1.1")):
        def dual(sock):
            if host == "::": sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock = listener(chain, key, host=host, family=family, before=dual); sock.settimeout(10)
        port = sock.getsockname()[1]
        client = subprocess.Popen([*there, "openssl", "s_client", "-connect", f"{to}:{port}", "-servername", "server.ssa.test", "-CAfile", ca, "-verify_return_error", "-quiet"],
                                  stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        conn, peer = sock.accept()
        came.append([peer[0], conn.getpeername()[:2] == peer[:2], conn.getsockname()[0], conn.getsockname()[1] == port])
        client.kill(); conn.close(); sock.close()
    plain = subprocess.run([*there, "timeout", "3", "bash", "-c", f"echo hi > /dev/tcp/10.9.1.1/{port}"], stderr=subprocess.DEVNULL)
finally:
    other.kill()
out(came)
"#;
    let came = site.start(script, &[&site.pki.ca()]).finish();
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
    let script = r#"
import ssl, subprocess, threading
chain, key, ca = args
assert libc.unshare(0x40000000) == 0
def run(*words): subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
other = subprocess.Popen(["unshare", "-n", "sleep", "60"])
while os.readlink(f"/proc/{other.pid}/ns/net") == os.readlink("/proc/self/ns/net"): time.sleep(0.01)
there = ["nsenter", f"--net=/proc/{other.pid}/ns/net"]
run("ip", "link", "set", "lo", "up")
run("ip", "link", "add", "d0", "type", "veth", "peer", "name", "d1", "netns", str(other.pid))
for word, side, device in ([], 1, "d0"), (there, 2, "d1"):
    run(*word, "ip", "addr", "add", f"10.9.2.{side}/24", "dev", device); run(*word, "ip", "addr", "add", f"fd00:10::{side}/64", "dev", device, "nodad")
    run(*word, "ip", "link", "set", device, "up")
run("sysctl", "-qw", "net.ipv4.ip_local_port_range=40000 40063")
def serve(sock):
    while True:
        conn, _ = sock.accept()
        with conn:
            while data := conn.recv(16): conn.sendall(data)
client = """
import socket, ssl, sys, time
host, port, ca, pause = sys.argv[1:]
context = ssl.create_default_context(cafile=ca)
for turn in range(100):
    with context.wrap_socket(socket.create_connection((host, int(port))), server_hostname="server.ssa.test") as sock:
        sock.sendall(b"hello"); assert sock.recv(16) == b"hello", turn; sock.unwrap()
    time.sleep(float(pause))
"""
codes = []
try:
    for host, family, pause in ("10.9.2.1", socket.AF_INET, "0"), ("fd00:10::1", socket.AF_INET6, "0.05"):
        sock = listener(chain, key, host=host, family=family)
        threading.Thread(target=serve, args=(sock,), daemon=True).start()
        codes.append(subprocess.run([*there, sys.executable, "-c", client, host, str(sock.getsockname()[1]), ca, pause]).returncode)
finally:
    other.kill()
out(codes); os._exit(0)
"#;
    assert_eq!(site.start(script, &[&site.pki.ca()]).said(), json!([0, 0]));
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

#[test]
fn response_beside_the_chain_is_stapled() {
    let site = site();
    // Signed by the CA itself, by OpenSSL's own responder.
    let folder = site.pki.folder();
    let line = format!(
        "cd {} && touch index.txt && openssl ocsp -issuer ca.pem -cert {} -reqout request -no_nonce && \
         openssl ocsp -index index.txt -rsigner ca.pem -rkey ca.key -CA ca.pem -reqin request -respout {}.ocsp -ndays 1",
        folder.display(),
        site.chain,
        site.chain
    );
    let (good, said) = run({
        let mut shell = Command::new("sh");
        shell.args(["-c", &line]);
        shell
    });
    assert!(good, "{said}");
    let script = r#"
chain, key = args
socks = [listener(chain, key, before=lambda sock: sock.setsockopt(IPPROTO_TLS, 122, on)) for on in (0, 1)]
out([sock.getsockname()[1] for sock in socks])
for sock in socks: echo(sock.accept()[0])
"#;
    let mut app = site.start(script, &[]);
    let ports = app.said();
    for (index, stapled) in [false, true].into_iter().enumerate() {
        let line = format!(
            "(sleep 2) | timeout 10 openssl s_client -connect 127.0.0.1:{} -servername {NAME} -status -CAfile {}",
            ports[index],
            site.pki.ca()
        );
        let mut s_client = Command::new("sh");
        s_client.args(["-c", &line]);
        let (_code, said) = run(s_client);
        assert_eq!(said.contains("OCSP Response Status: successful"), stapled, "{said}");
    }
    app.finish();
}

#[test]
fn replaced_certificates_are_taken_up_and_bad_ones_are_not() {
    let site = site();
    let script = r#"
chain, key = args
sock = listener(chain, key)
out(sock.getsockname()[1])
def serve():
    while True: sock.accept()[0].close()
threading.Thread(target=serve, daemon=True).start()
wait(); os._exit(0)
"#;
    let mut app = site.start(script, &[]);
    let addr = addr(&app.said());
    let connector = connector(&site.pki, |_builder| {});
    let serial = || {
        let stream = connect(&connector, addr, NAME).unwrap();
        stream.ssl().peer_certificate().unwrap().digest(openssl::hash::MessageDigest::sha256()).unwrap().to_vec()
    };
    let before = serial();
    std::fs::write(&site.key, "nonsense").unwrap();
    eventually("the log says so", Duration::from_secs(10), || site.agent.log().contains("the old ones stay"));
    assert_eq!(serial(), before);
    let renewed = site.pki.leaf(Leaf::of(&[NAME, "renewed"]));
    site.pki.write("server", &renewed);
    eventually("the new one is shown", Duration::from_secs(10), || serial() != before);
    let now = renewed.certificate.digest(openssl::hash::MessageDigest::sha256()).unwrap().to_vec();
    assert_eq!(serial(), now);
    app.go();
}

#[test]
fn thousand_clients_are_served_beside_slow_and_hostile_ones() {
    let site = site();
    let script = r#"
chain, key = args
sock = listener(chain, key, backlog=1024)
out(sock.getsockname()[1])
served = 0
sock.settimeout(60)
while served < 1000 // FEWER:
    conn, _ = sock.accept()
    try: conn.sendall(b"hello")
    except OSError: pass
    conn.close(); served += 1
out(served); wait()
"#;
    let mut app = site.start(script, &[]);
    let addr = addr(&app.said());
    let connector = connector(&site.pki, |_builder| {});
    drop(connect(&connector, addr, NAME).unwrap());
    let (descriptors, memory) = (site.agent.descriptors(), site.agent.memory_kib());
    // 200 that say nothing, half a hello, or HTTP.
    let mut slow: Vec<TcpStream> = (0..few(200)).map(|_| TcpStream::connect(addr).unwrap()).collect();
    for (index, stream) in slow.iter_mut().enumerate() {
        let _gone = match index % 3 {
            0 => Ok(()),
            1 => stream.write_all(&[22, 3, 1, 2, 0, 1, 0]),
            _ => stream.write_all(b"GET / HTTP/1.1\r\n\r\n"),
        };
    }
    let served = std::sync::atomic::AtomicUsize::new(1);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while served.fetch_add(1, std::sync::atomic::Ordering::Relaxed) < few(1000) {
                    let mut stream = connect(&connector, addr, NAME).unwrap();
                    let mut answer = [0; 5];
                    stream.read_exact(&mut answer).unwrap();
                    assert_eq!(&answer, b"hello");
                }
            });
        }
    });
    assert_eq!(app.said(), few(1000));
    drop(slow);
    eventually("descriptors return", Duration::from_secs(20), || site.agent.descriptors() <= descriptors + 4);
    for map in ["CONNECTIONS", "LEGS"] {
        eventually(&format!("{map} is empty"), Duration::from_secs(20), || site.agent.entries(map) == 0);
    }
    let grown = site.agent.memory_kib().saturating_sub(memory);
    assert!(grown < 40 << 10, "{grown} KiB");
    app.go();
    app.finish();
}

#[test]
fn clients_that_leave_before_accept_leave_nothing_behind() {
    let site = site();
    let script = r#"
chain, key = args
sock = listener(chain, key)
out(sock.getsockname()[1]); wait()
sock.close()
out("closed"); wait()
"#;
    let mut app = site.start(script, &[]);
    let addr = addr(&app.said());
    let connector = connector(&site.pki, |_builder| {});
    let mut kept = Vec::new();
    for turn in 0..40 {
        let stream = connect(&connector, addr, NAME).unwrap();
        if turn % 2 == 0 {
            kept.push(stream);
        }
    }
    app.go();
    assert_eq!(app.said(), "closed");
    for mut stream in kept {
        assert!(!matches!(stream.read(&mut [0; 1]), Ok(1..)));
    }
    for map in ["CONNECTIONS", "CONTEXTS", "LISTENING", "LEGS", "PATHS"] {
        eventually(&format!("{map} is empty"), Duration::from_secs(20), || site.agent.entries(map) == 0);
    }
    app.go();
    app.finish();
}

#[test]
fn nobody_gets_in_without_a_handshake_through_ten_restarts() {
    let Site { mut agent, pki, chain, key } = site();
    let port = closed_port("127.0.0.1");
    let script = r#"
chain, key, port = args
sock = listener(chain, key, port=int(port))
out("listens")
def serve():
    while True:
        conn, peer = sock.accept()
        data = b""
        try: data = conn.recv(100)
        except OSError: pass
        seen.append([state(conn), said(conn, 98), data.decode(errors="replace")])
        try: conn.sendall(b"ok")
        except OSError: pass
        conn.close()
seen = []
threading.Thread(target=serve, daemon=True).start()
wait(); out(seen); os._exit(0)
"#;
    let addr = SocketAddr::from(([127, 0, 0, 1], port));
    let stop = std::sync::atomic::AtomicBool::new(false);
    let tried = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        // From before `listen` on, from ports of its own choice: those that the agent uses among others.
        for first in [20_000_u16, 32_768] {
            let (stop, tried) = (&stop, &tried);
            scope.spawn(move || {
                let mut source = first;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    source = if source > 60_000 { first } else { source + 7 };
                    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
                    socket.set_reuse_address(true).unwrap();
                    let from = SocketAddr::from(([127, 0, 0, 1], source));
                    if socket.bind(&from.into()).is_err() {
                        continue;
                    }
                    if socket.connect_timeout(&addr.into(), Duration::from_millis(30)).is_ok() {
                        let _gone = (&socket).write_all(b"plaintext\n");
                        tried.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    }
                }
            });
        }
        let arguments = [chain.as_str(), key.as_str(), &port.to_string()];
        let mut app = App::start(&agent, &format!("{SERVE}{script}"), &arguments);
        assert_eq!(app.said(), "listens");
        let connector = connector(&pki, |_builder| {});
        let mut served = 0;
        for turn in 0..10 {
            eventually("a client is served", Duration::from_secs(20), || {
                connect(&connector, addr, NAME).is_ok_and(|mut stream| {
                    stream.write_all(b"secret").is_ok() && stream.read_exact(&mut [0; 2]).is_ok()
                })
            });
            served += 1;
            if turn % 2 == 0 {
                agent.kill();
                std::thread::sleep(Duration::from_millis(100));
                agent.restart();
            } else {
                // The agent of before takes its listeners with it for a moment.
                agent.kill();
                agent.restart();
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        app.go();
        let seen = app.said();
        let seen = seen.as_array().unwrap();
        assert!(seen.len() >= served, "{seen:?}");
        for one in seen {
            assert!(!one[2].as_str().unwrap().contains("plaintext"), "{one}");
            assert!(one[1].as_str().unwrap().starts_with("TLS_"), "{one}");
        }
    });
    assert!(tried.load(std::sync::atomic::Ordering::Relaxed) > 100, "the agent answers, and wants a handshake");
}

#[test]
fn dead_agent_means_silence() {
    let Site { mut agent, chain, key, .. } = site();
    let script = r#"
chain, key = args
sock = listener(chain, key); sock.settimeout(2)
out(sock.getsockname()[1]); wait()
out(attempt(sock.accept))
"#;
    let mut app = App::start(&agent, &format!("{SERVE}{script}"), &[&chain, &key]);
    let addr = addr(&app.said());
    agent.kill();
    app.go();
    let client = TcpStream::connect_timeout(&addr, Duration::from_secs(1));
    assert_eq!(client.unwrap_err().kind(), std::io::ErrorKind::TimedOut, "dropped, not refused");
    assert_eq!(app.said(), "timeout");
}
