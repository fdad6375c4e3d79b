//! `cargo xtask bench`: what TLS costs an application by this agent, by OpenSSL in the application itself,
//! and by the proxies that one would use instead. All in one run, in turn, as ratios.
//!
//! One TLS 1.3 server of our own serves all; the client is this executable again, as a process of its
//! own (`worker`), inside the agent's cgroup or outside.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    os::fd::AsRawFd as _,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use openssl::ssl::{SslConnector, SslMethod, SslSession, SslSessionCacheMode, SslStream};
use ssa_common::uapi::{
    IPPROTO_TLS, TLS_CERTIFICATE_CHAIN, TLS_CONTEXT, TLS_HOSTNAME, TLS_PRIVATE_KEY, TLS_SESSION_REUSE,
    TLS_TRUSTED_PEER_CERTIFICATES,
};
use ssa_tests::{
    agent::Agent,
    app::{self, root},
    config::Config,
    eventually,
    pki::{Identity, Leaf, Pki},
    server::{Server, closed_port, context_with},
    status::{Known, Responder, Setup, response},
};

const NAME: &str = "bench.ssa.test";
/// Turns of each measurement; the medians are shown.
const ROUNDS: usize = 5;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.get(1).is_some_and(|word| word == "worker") {
        println!("{}", worker(&arguments[2..]));
        return;
    }
    if arguments.get(1).is_some_and(|word| word == "serve") {
        return serve_tls(&arguments[2..]);
    }
    if arguments.get(1).is_some_and(|word| word == "--neighbours") {
        let mut text = header();
        let server = Server::tcp("127.0.0.1", serve);
        neighbours(&mut text, &Pki::new(), server.addr);
        return println!("{text}");
    }
    let table = bench();
    println!("{table}");
    if arguments.get(1).is_some_and(|word| word == "--write") {
        fs::write(root().join("docs/bench.md"), table).expect("docs/ is there");
        eprintln!("wrote docs/bench.md");
    }
}

/// A way to reach the server.
struct Way<'a> {
    name: &'static str,
    /// `openssl`, `ssa` or `plain`, as the worker knows it.
    mode: &'static str,
    full: SocketAddr,
    resumed: SocketAddr,
    /// The agent in whose cgroup the client is.
    inside: Option<&'a Agent>,
    /// Guards that come and go between measurements, and the client's place beside them; then `inside` does not count.
    beside: Option<(&'a Guards, Place)>,
}

fn bench() -> String {
    let pki = Pki::new();
    let identity = pki.leaf(Leaf::of(&[NAME]));
    let context = context_with(&identity, |acceptor| {
        acceptor.set_min_proto_version(Some(openssl::ssl::SslVersion::TLS1_3)).expect("TLS 1.3 is there");
    });
    let server = Server::tls("127.0.0.1", context, serve);
    let plain_server = Server::tcp("127.0.0.1", serve);
    let agent = Agent::start_quiet();
    let proxies: Vec<(&'static str, Proxy)> =
        [("nginx stream", "nginx"), ("haproxy", "haproxy"), ("stunnel", "stunnel")]
            .into_iter()
            .map(|(name, kind)| (name, Proxy::start(kind, "", &pki, server.addr)))
            .collect();
    let direct = |name, mode, inside| Way { name, mode, full: server.addr, resumed: server.addr, inside, beside: None };
    let mut ways =
        vec![direct("OpenSSL in the application", "openssl", None), direct("ssa-agent", "ssa", Some(&agent))];
    for (name, proxy) in &proxies {
        ways.push(Way { name, mode: "plain", full: proxy.full, resumed: proxy.resumed, inside: None, beside: None });
    }
    let mut text = header();
    section(
        &mut text,
        "Connect and get one byte back, full handshake",
        "ms, p50",
        &ways,
        &pki,
        false,
        &["latency", "300"],
        0,
    );
    section(&mut text, "The same", "ms, p99", &ways, &pki, false, &["latency", "300"], 1);
    section(&mut text, "Connect and get one byte back, resumed", "ms, p50", &ways, &pki, true, &["latency", "300"], 0);
    section(&mut text, "The same", "ms, p99", &ways, &pki, true, &["latency", "300"], 1);
    section(&mut text, "Connections per second, full, 8 threads", "1/s", &ways, &pki, false, &["rate", "8"], 0);
    section(&mut text, "Connections per second, resumed, 8 threads", "1/s", &ways, &pki, true, &["rate", "8"], 0);
    section(&mut text, "Download, one stream", "MB/s", &ways, &pki, false, &["bulk", "1"], 0);
    section(&mut text, "Download, eight streams", "MB/s", &ways, &pki, false, &["bulk", "8"], 0);
    fronts(&mut text, &agent, &pki, &identity, server.addr, plain_server.addr);
    rules(&mut text, &agent, &pki);
    revocation(&mut text, &pki);
    // Guards are at the root of the cgroups: nobody is without them while an agent runs.
    drop(agent);
    neighbours(&mut text, &pki, plain_server.addr);
    text
}

/// Measures what the guards cost applications that use no TLS socket: those of other cgroups, and those of a service.
fn neighbours(text: &mut String, pki: &Pki, server: SocketAddr) {
    let guards = Guards { agent: RefCell::new(Agent::start_quiet()), attached: Cell::new(true) };
    let way = |name, place| Way {
        name,
        mode: "plain",
        full: server,
        resumed: server,
        inside: None,
        beside: Some((&guards, place)),
    };
    let ways = [
        way("no agent", Place::Unguarded),
        way("another cgroup than the service's", Place::Beside),
        way("the service's cgroup", Place::Service),
    ];
    text.push_str("\n## What the attached programs cost an application that uses no TLS socket\n");
    for (title, unit, work) in [
        ("Plain TCP: connect and get one byte back", "ms, p50", ["latency", "2000"]),
        ("Plain TCP: connections per second, 8 threads", "1/s", ["rate", "8"]),
        ("Plain TCP: download, one stream", "MB/s", ["bulk", "1"]),
    ] {
        section(text, title, unit, &ways, pki, false, &work, 0);
    }
}

/// An agent that is started and ended between measurements.
struct Guards {
    agent: RefCell<Agent>,
    attached: Cell<bool>,
}

/// Place of an application that uses no TLS socket.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Place {
    /// On a machine without guards.
    Unguarded,
    /// In a cgroup that is no service's.
    Beside,
    /// In a service's cgroup.
    Service,
}

impl Guards {
    /// Begins the command of an application in this place, with the guards attached or not as it wants them.
    fn command(&self, place: Place, executable: &Path) -> Command {
        let attached = place != Place::Unguarded;
        if self.attached.replace(attached) != attached {
            if attached {
                self.agent.borrow_mut().restart_quiet();
            } else {
                self.agent.borrow_mut().stop();
            }
        }
        if place == Place::Service { app::command(&self.agent.borrow(), executable) } else { Command::new(executable) }
    }
}

/// Measures what it costs to know that the server's certificate is not revoked.
fn revocation(text: &mut String, pki: &Pki) {
    let port = closed_port("127.0.0.1");
    let url = format!("OCSP;URI:http://127.0.0.1:{port}/");
    let identity = pki.leaf(Leaf::of(&[NAME]).with(&[("authorityInfoAccess", &url)]));
    let (folder, root) = (pki.folder(), pki.root());
    let (known, setup) = (Known::Good, Setup { at: None, arguments: &["-nmin", "60"] });
    let staple = response(folder, &root.certificate, root, &identity.certificate, known, setup);
    let certificates = [(&identity.certificate, known)];
    let _responder = Responder::start(port, folder, &root.certificate, root, &certificates, setup);
    let context = context_with(&identity, |acceptor| {
        acceptor.set_min_proto_version(Some(openssl::ssl::SslVersion::TLS1_3)).expect("TLS 1.3 is there");
        let staples = move |ssl: &mut openssl::ssl::SslRef| ssl.set_ocsp_status(&staple).map(|()| true);
        acceptor.set_status_callback(staples).expect("it can be set");
    });
    let server = Server::tls("127.0.0.1", context, serve);
    let revocation = Config::section("revocation").set("fetch_local", true);
    let revocation = revocation.and(Config::section("cache").set("directory", ""));
    let agent = Agent::start_with(revocation);
    let way =
        |name, mode| Way { name, mode, full: server.addr, resumed: server.addr, inside: Some(&agent), beside: None };
    let ways = [
        way("not checked", "ssa"),
        way("answered by the cache", "ssa-cached"),
        way("answered by what is stapled", "ssa-stapled"),
        way("answered by a responder, asked each time", "ssa-asked"),
    ];
    text.push_str("\n## What it costs to check revocation\n\nThe responder is `openssl ocsp`, on the same machine.\n");
    section(
        text,
        "Connect and get one byte back, full handshake",
        "ms, p50",
        &ways,
        pki,
        false,
        &["latency", "200"],
        0,
    );
    section(text, "The same", "ms, p99", &ways, pki, false, &["latency", "200"], 1);
}

/// Measures what a lookup among many rules costs a connect, which none of them is for in the end.
fn rules(text: &mut String, agent: &Agent, pki: &Pki) {
    let rule =
        |number: u16, address: &str, port: u16| Config::rule(&number.to_string()).to(address, port).set("mode", "deny");
    let closed = SocketAddr::from(([127, 0, 0, 1], closed_port("127.0.0.1")));
    let free = |port: u16| if port == closed.port() { 1 } else { port };
    // One after the other: an agent sees the cgroup of every other.
    let hosts: Config =
        (0..10_000).map(|one| rule(one, &format!("10.{}.{}.{}", one >> 8, one & 255, one & 7), 443)).collect();
    let ports: Config = (0..10_000).map(|one| rule(one, "127.0.0.0/8", free(10_000 + one))).collect();
    let (many_hosts, many_ports) = (Agent::start_with(hosts), Agent::start_with(ports));
    let way = |name, inside| Way { name, mode: "plain", full: closed, resumed: closed, inside, beside: None };
    let ways = [
        way("no rules", Some(agent)),
        way("10,000 rules for other hosts", Some(&many_hosts)),
        way("10,000 rules for other ports", Some(&many_ports)),
    ];
    text.push_str("\n## What rules cost a connect that none is for\n");
    section(text, "Plain TCP: `connect` to a closed port", "us, p50", &ways, pki, false, &["refused", "20000"], 0);
}

/// The other way round: who ends TLS before a server. The client is OpenSSL in the application each time.
fn fronts(text: &mut String, agent: &Agent, pki: &Pki, identity: &Identity, server: SocketAddr, plain: SocketAddr) {
    let (chain, key) = pki.write("front", identity);
    let both = fs::read_to_string(&chain).expect("written") + &fs::read_to_string(&key).expect("written");
    fs::write(pki.folder().join("front-both.pem"), both).expect("the folder is ours");
    let own_addr = SocketAddr::from(([127, 0, 0, 1], closed_port("127.0.0.1")));
    let executable = std::env::current_exe().expect("it has a path");
    let mut own = app::command(agent, &executable);
    let own = Running(own.args(["serve", &own_addr.to_string(), &chain, &key]).spawn().expect("it runs"));
    eventually("our server listens", Duration::from_secs(10), || {
        TcpStream::connect_timeout(&own_addr, Duration::from_millis(200)).is_ok()
    });
    let proxies: Vec<(&'static str, Proxy)> =
        [("nginx stream", "nginx"), ("haproxy", "haproxy"), ("hitch", "hitch"), ("stunnel", "stunnel")]
            .into_iter()
            .map(|(name, kind)| (name, Proxy::start(kind, "front-", pki, plain)))
            .collect();
    let way = |name, full, resumed| Way { name, mode: "openssl", full, resumed, inside: None, beside: None };
    let mut ways = vec![way("OpenSSL in the application", server, server), way("ssa-agent", own_addr, own_addr)];
    ways.extend(proxies.iter().map(|(name, proxy)| way(*name, proxy.full, proxy.resumed)));
    text.push_str("\n## As a server: what ends TLS before it\n");
    for (title, unit, resume, work) in [
        ("Handshakes and one byte per second, full, 8 threads", "1/s", false, ["rate", "8"]),
        ("Handshakes and one byte per second, resumed, 8 threads", "1/s", true, ["rate", "8"]),
        ("Connect and get one byte back, full handshake", "ms, p50", false, ["latency", "300"]),
        ("Download, one stream", "MB/s", false, ["bulk", "1"]),
        ("Download, eight streams", "MB/s", false, ["bulk", "8"]),
    ] {
        section(text, title, unit, &ways, pki, resume, &work, 0);
    }
    drop(own);
}

/// A child that ends when it is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}

/// `ADDRESS CHAIN KEY`: serves by two options.
fn serve_tls(arguments: &[String]) {
    let [addr, chain, key] = arguments else { panic!("three words") };
    let addr: SocketAddr = addr.parse().expect("an address");
    let domain = socket2::Domain::for_address(addr);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None).expect("sockets can be made");
    socket.set_reuse_address(true).expect("it is a socket");
    set(&socket, TLS_CERTIFICATE_CHAIN, format!("{chain}\0").as_bytes()).expect("the agent serves this cgroup");
    set(&socket, TLS_PRIVATE_KEY, format!("{key}\0").as_bytes()).expect("the agent serves this cgroup");
    socket.bind(&addr.into()).expect("the port is free");
    socket.listen(1024).expect("bound");
    for stream in std::net::TcpListener::from(socket).incoming().map_while(Result::ok) {
        let _off = stream.set_nodelay(true);
        thread::spawn(move || serve(stream));
    }
}

/// Measures one figure for all ways, in turn, and adds its table.
#[expect(clippy::too_many_arguments, reason = "a row of a table")]
fn section(
    text: &mut String,
    title: &str,
    unit: &str,
    ways: &[Way<'_>],
    pki: &Pki,
    resume: bool,
    work: &[&str],
    figure: usize,
) {
    eprintln!("measuring: {title} ({unit})");
    let mut runs: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for _round in 0..ROUNDS {
        for way in ways {
            let target = if resume { way.resumed } else { way.full };
            let executable = std::env::current_exe().expect("it has a path");
            let mut command = match (way.beside, way.inside) {
                (Some((guards, place)), _) => guards.command(place, &executable),
                (None, Some(agent)) => app::command(agent, &executable),
                (None, None) => Command::new(&executable),
            };
            command.args(["worker", way.mode, &target.to_string(), &pki.ca(), if resume { "resume" } else { "full" }]);
            let output = command.args(work).stderr(Stdio::inherit()).output().expect("it runs");
            assert!(output.status.success(), "{}: {title} failed", way.name);
            let figures: Vec<f64> = String::from_utf8_lossy(&output.stdout)
                .split_whitespace()
                .map(|word| word.parse().expect("a number"))
                .collect();
            runs.entry(way.name).or_default().push(figures[figure]);
        }
    }
    let base = median(&runs[ways[0].name]);
    let _infallible =
        writeln!(text, "\n{title} ({unit}):\n\n| way | median | min | max | ratio |\n|---|---|---|---|---|");
    for way in ways {
        let runs = &runs[way.name];
        let (low, high) = runs.iter().fold((f64::MAX, 0.0_f64), |(low, high), run| (low.min(*run), high.max(*run)));
        let median = median(runs);
        let _infallible =
            writeln!(text, "| {} | {median:.2} | {low:.2} | {high:.2} | {:.2} |", way.name, median / base);
    }
}

fn median(runs: &[f64]) -> f64 {
    let mut sorted = runs.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

fn header() -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name\t: ")).unwrap_or("unknown CPU");
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cores = thread::available_parallelism().map_or(0, std::num::NonZero::get);
    format!(
        "# Bench\n\nWritten by `cargo xtask bench --write`, on {model}, {cores} cores, Linux {}, {}.\n\n\
         Client, server and what is between them share the machine: only the ratios mean something, and\n\
         those of one table only. Each figure is the median of {ROUNDS} runs, which alternate between the\n\
         ways. The ratio is to the first row. All use TLS 1.3 and verify the server; the proxies' settings\n\
         are in `benches/`.\n",
        kernel.trim(),
        openssl::version::version(),
    )
}

/// A proxy of Debian's that speaks TLS to the server. Ends when it is dropped.
struct Proxy {
    child: Child,
    full: SocketAddr,
    resumed: SocketAddr,
}

impl Proxy {
    fn start(kind: &str, prefix: &str, pki: &Pki, target: SocketAddr) -> Self {
        let (full, resumed) = (closed_port("127.0.0.1"), closed_port("127.0.0.1"));
        let dir = pki.folder().join(format!("{prefix}{kind}"));
        fs::create_dir(&dir).expect("the folder is ours");
        let (server, template) = match kind {
            "nginx" => ("/usr/sbin/nginx", "nginx.conf"),
            "haproxy" => ("/usr/sbin/haproxy", "haproxy.cfg"),
            "hitch" => ("/usr/sbin/hitch", "hitch.conf"),
            _ => ("/usr/bin/stunnel4", "stunnel.conf"),
        };
        let template = format!("{prefix}{template}");
        let config = fs::read_to_string(root().join("benches").join(&template))
            .expect("benches/ is there")
            .replace("{dir}", &dir.to_string_lossy())
            .replace("{ca}", &pki.ca())
            .replace("{name}", NAME)
            .replace("{pem}", &pki.folder().join("front-both.pem").to_string_lossy())
            .replace("{target}", &target.to_string())
            .replace("{target_port}", &target.port().to_string())
            .replace("{full}", &full.to_string())
            .replace("{resumed}", &resumed.to_string());
        let file = dir.join(&template);
        fs::write(&file, config).expect("the folder is ours");
        let mut command = Command::new(server);
        match kind {
            "nginx" => command.args(["-e", "stderr", "-p"]).arg(&dir).arg("-c").arg(&file),
            "haproxy" => command.args(["-db", "-f"]).arg(&file),
            "hitch" => command.arg("--config").arg(&file),
            _ => command.arg(&file),
        };
        let child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("`cargo xtask bench` installs it");
        let addr = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let proxy = Self { child, full: addr(full), resumed: addr(resumed) };
        for port in [proxy.full, proxy.resumed] {
            eventually(kind, Duration::from_secs(10), || TcpStream::connect(port).is_ok());
        }
        proxy
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).expect("pids are small"));
        let _gone = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _gone = self.child.wait();
    }
}

/// Answers orders: a byte back, or so many bytes.
fn serve(mut stream: impl Read + Write) {
    let block = vec![0x5a; 1 << 18];
    let mut order = [0; 8];
    while stream.read_exact(&mut order).is_ok() {
        let mut left = usize::try_from(u64::from_le_bytes(order)).unwrap_or(0);
        while left > 0 {
            let part = left.min(block.len());
            if stream.write_all(&block[..part]).is_err() {
                return;
            }
            left -= part;
        }
    }
}

/// `MODE TARGET CA full|resume KIND COUNT`: figures, separated by spaces.
fn worker(arguments: &[String]) -> String {
    let [mode, target, ca, resume, kind, count] = arguments else { panic!("six words") };
    let count: usize = count.parse().expect("a number");
    let target = target.parse().expect("an address");
    if kind == "refused" {
        return refused(target, count);
    }
    let client = Arc::new(Client::new(mode, target, ca, resume == "resume"));
    // The first one pays for what is set up once.
    for _warm_up in 0..3 {
        client.touch().expect("the server answers");
    }
    match kind.as_str() {
        "latency" => latency(&client, count),
        "rate" => rate(&client, count),
        _ => bulk(&client, count),
    }
}

/// Time of `connect` alone, in microseconds.
fn refused(target: SocketAddr, count: usize) -> String {
    let mut times: Vec<f64> = (0..count)
        .map(|_| {
            let socket = new_socket();
            let began = Instant::now();
            assert!(socket.connect(&target.into()).is_err(), "nobody listens");
            began.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    times.sort_by(f64::total_cmp);
    format!("{}", times[count / 2])
}

fn latency(client: &Client, count: usize) -> String {
    let mut times: Vec<f64> = (0..count)
        .map(|_| {
            let began = Instant::now();
            client.touch().expect("the server answers");
            began.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    format!("{} {}", times[count / 2], times[count * 99 / 100])
}

fn rate(client: &Arc<Client>, threads: usize) -> String {
    const TIME: Duration = Duration::from_secs(2);
    let began = Instant::now();
    let workers: Vec<_> = (0..threads)
        .map(|_| {
            let client = Arc::clone(client);
            thread::spawn(move || {
                let mut done = 0_u32;
                while began.elapsed() < TIME {
                    client.touch().expect("the server answers");
                    done += 1;
                }
                done
            })
        })
        .collect();
    let done: u32 = workers.into_iter().map(|worker| worker.join().expect("it doesn't panic")).sum();
    format!("{}", f64::from(done) / began.elapsed().as_secs_f64())
}

fn bulk(client: &Arc<Client>, streams: usize) -> String {
    const BYTES: usize = 512 << 20;
    let began = Instant::now();
    let workers: Vec<_> = (0..streams)
        .map(|_| {
            let client = Arc::clone(client);
            thread::spawn(move || {
                let mut stream = client.connect().expect("the server answers");
                let mut left = BYTES / streams;
                stream.write_all(&(left as u64).to_le_bytes()).expect("the server reads");
                let mut buffer = vec![0; 1 << 18];
                while left > 0 {
                    let read = stream.read(&mut buffer).expect("the server writes");
                    assert_ne!(read, 0, "cut short");
                    left -= read;
                }
            })
        })
        .collect();
    workers.into_iter().for_each(|worker| worker.join().expect("it doesn't panic"));
    format!("{}", BYTES as f64 / 1e6 / began.elapsed().as_secs_f64())
}

trait Stream: Read + Write {
    /// Ends in order. Without it OpenSSL would not resume the session.
    fn end(&mut self);
}

impl Stream for TcpStream {
    fn end(&mut self) {}
}

impl Stream for SslStream<TcpStream> {
    fn end(&mut self) {
        let _gone = self.shutdown();
    }
}

/// Kinds of clients: how each connects.
enum Client {
    OpenSsl {
        target: SocketAddr,
        connector: Box<SslConnector>,
        session: Option<Arc<Mutex<Option<SslSession>>>>,
    },
    Plain(SocketAddr),
    /// Sockets adopt the context of one that stays open.
    Ssa {
        target: SocketAddr,
        context: u64,
        _owner: socket2::Socket,
    },
}

impl Client {
    fn new(mode: &str, target: SocketAddr, ca: &str, resume: bool) -> Self {
        match mode {
            "openssl" => Self::openssl(target, ca, resume),
            "ssa" | "ssa-cached" | "ssa-stapled" | "ssa-asked" => {
                let owner = new_socket();
                let (name, ca) = (format!("{NAME}\0"), format!("{ca}\0"));
                set(&owner, TLS_HOSTNAME, name.as_bytes()).expect("the agent serves this cgroup");
                set(&owner, TLS_TRUSTED_PEER_CERTIFICATES, ca.as_bytes()).expect("a path");
                set(&owner, TLS_SESSION_REUSE, &i32::from(resume).to_ne_bytes()).expect("a bool");
                // TLS_REVOCATION_CHECKS, and the ways that may answer: stapled, OCSP, CRL, cached.
                let checks = match mode {
                    "ssa-cached" => [1, 0, 1, 0, 1],
                    "ssa-stapled" => [1, 1, 0, 0, 0],
                    "ssa-asked" => [1, 0, 1, 0, 0],
                    _ => [0, 1, 1, 1, 1],
                };
                for (option, on) in (102..).zip(checks) {
                    set(&owner, option, &i32::to_ne_bytes(on)).expect("the policy allows all");
                }
                let context = context_of(&owner).expect("it has one");
                Self::Ssa { target, context, _owner: owner }
            }
            _ => Self::Plain(target),
        }
    }

    fn openssl(target: SocketAddr, ca: &str, resume: bool) -> Self {
        let mut builder = SslConnector::builder(SslMethod::tls_client()).expect("OpenSSL works");
        builder.set_ca_file(Path::new(ca)).expect("the CA is there");
        let session: Option<Arc<Mutex<Option<SslSession>>>> = resume.then(Arc::default);
        if let Some(kept) = session.clone() {
            builder.set_session_cache_mode(SslSessionCacheMode::CLIENT | SslSessionCacheMode::NO_INTERNAL);
            builder.set_new_session_callback(move |_ssl, new| *kept.lock().expect("no panic holds it") = Some(new));
        }
        Self::OpenSsl { target, connector: Box::new(builder.build()), session }
    }

    fn connect(&self) -> io::Result<Box<dyn Stream>> {
        match self {
            Self::Plain(target) => {
                let stream = TcpStream::connect(target)?;
                stream.set_nodelay(true)?;
                Ok(Box::new(stream))
            }
            Self::Ssa { target, context, .. } => {
                let socket = new_socket();
                set(&socket, TLS_CONTEXT, &context.to_ne_bytes())?;
                socket.connect(&(*target).into())?;
                socket.set_tcp_nodelay(true)?;
                Ok(Box::new(TcpStream::from(socket)))
            }
            Self::OpenSsl { target, connector, session } => {
                let stream = TcpStream::connect(target)?;
                stream.set_nodelay(true)?;
                let mut ssl =
                    connector.configure().and_then(|config| config.into_ssl(NAME)).map_err(io::Error::other)?;
                let cached = session.as_ref().and_then(|kept| kept.lock().expect("no panic holds it").clone());
                if let Some(cached) = cached {
                    // SAFETY: the session is of this connector's own context.
                    unsafe { ssl.set_session(&cached) }.map_err(io::Error::other)?;
                }
                let stream = ssl.connect(stream).map_err(|error| io::Error::other(error.to_string()))?;
                Ok(Box::new(stream))
            }
        }
    }

    /// Connects, gets one byte, and closes.
    fn touch(&self) -> io::Result<()> {
        let mut stream = self.connect()?;
        stream.write_all(&1_u64.to_le_bytes())?;
        stream.read_exact(&mut [0])?;
        stream.end();
        Ok(())
    }
}

fn new_socket() -> socket2::Socket {
    socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("sockets can be made")
}

fn set(socket: &socket2::Socket, option: i32, value: &[u8]) -> io::Result<()> {
    let len = libc::socklen_t::try_from(value.len()).expect("values are short");
    // SAFETY: the kernel reads `len` bytes of `value`.
    let done = unsafe { libc::setsockopt(socket.as_raw_fd(), IPPROTO_TLS, option, value.as_ptr().cast(), len) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn context_of(socket: &socket2::Socket) -> io::Result<u64> {
    let (mut id, mut len): (u64, libc::socklen_t) = (0, 8);
    // SAFETY: the kernel writes at most 8 bytes to `id`.
    let done =
        unsafe { libc::getsockopt(socket.as_raw_fd(), IPPROTO_TLS, TLS_CONTEXT, (&raw mut id).cast(), &raw mut len) };
    if done == 0 { Ok(id) } else { Err(io::Error::last_os_error()) }
}
