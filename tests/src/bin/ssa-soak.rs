//! `cargo xtask soak`: the agent under load for a long time, and what it holds meanwhile: memory, descriptors, map entries.
//!
//! Half of the connections are made by applications, half are accepted by one; each carries a few KiB that are checked. In the end all
//! of it is drawn (docs/soak.svg), and must be as flat as it was after the first tenth of the time.

use std::{
    fmt::Write as _,
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::PathBuf,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use openssl::ssl::{SslConnector, SslMethod};
use ssa_tests::{
    agent::Agent,
    app::{App, ECHO_LISTENER, root},
    pki::{Leaf, Pki},
    server::Server,
};

const NAME: &str = "soak.ssa.test";

/// Connects so many times a second, and says how many came to nothing.
const CLIENTS: &str = "soak_clients.py";

/// Values that are sampled.
const SERIES: [&str; 4] = ["memory, MiB", "descriptors", "map entries", "connections a second"];
const MAPS: [&str; 10] =
    ["BLOBS", "CERTIFICATES", "CHAINS", "CONNECTIONS", "CONTEXTS", "LEGS", "LISTENING", "PATHS", "SCRATCH", "USERS"];

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let seconds: u64 = arguments.get(1).and_then(|text| text.parse().ok()).expect("seconds");
    let rate: u64 = arguments.get(2).and_then(|text| text.parse().ok()).expect("connections a second");
    let svg = arguments.get(3).map(PathBuf::from);
    let (samples, done, wrong) = soak(seconds, rate);
    print!("{}", table(&samples, done, wrong));
    if let Some(path) = svg {
        fs::write(&path, drawing(&samples, seconds, done, wrong)).expect("docs/ is there");
        eprintln!("wrote {}", path.display());
    }
    assert_eq!(wrong, 0, "{wrong} of {done} connections came to nothing");
    assert!(grown(&samples).is_empty(), "not flat: {:?}", grown(&samples));
}

/// Seconds, and a value of each of [`SERIES`].
type Sample = (f64, [f64; SERIES.len()]);

fn soak(seconds: u64, rate: u64) -> (Vec<Sample>, u64, u64) {
    let pki = Pki::new();
    let leaf = pki.leaf(Leaf::of(&[NAME]));
    let echo = Server::echo("127.0.0.1", &leaf);
    let (chain, key) = pki.write("soak", &leaf);
    let agent = Agent::start_quiet();
    let mut listener = App::start(&agent, ECHO_LISTENER, &[&chain, &key]);
    let port = u16::try_from(listener.said().as_u64().expect("a port")).expect("a port");
    let half = (rate / 2).to_string();
    let arguments = [NAME, &pki.ca(), &echo.port(), &half, &seconds.to_string()];
    let mut clients = App::start(&agent, CLIENTS, &arguments);
    let (stop, came, failed) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let ca = pki.ca();
    let outside: Vec<_> = (0..4)
        .map(|_| {
            let (stop, came, failed, ca) = (Arc::clone(&stop), Arc::clone(&came), Arc::clone(&failed), ca.clone());
            let share = rate as f64 / 8.0;
            thread::spawn(move || come(port, &ca, share, &stop, &came, &failed))
        })
        .collect();
    let began = Instant::now();
    let mut samples = Vec::new();
    let pause = Duration::from_secs_f64((seconds as f64 / 360.0).max(1.0));
    let mut before = (echo.accepted() as u64, Instant::now());
    while began.elapsed() < Duration::from_secs(seconds) {
        thread::sleep(pause);
        let now = (echo.accepted() as u64 + came.load(Ordering::Relaxed), Instant::now());
        let speed = (now.0 - before.0) as f64 / (now.1 - before.1).as_secs_f64();
        before = now;
        let entries: usize = MAPS.iter().map(|map| agent.entries(map)).sum();
        let values = [agent.memory_kib() as f64 / 1024.0, agent.descriptors() as f64, entries as f64, speed];
        samples.push((began.elapsed().as_secs_f64(), values));
        eprintln!("{:>6.0} s: {}", began.elapsed().as_secs_f64(), shown(&values));
    }
    stop.store(true, Ordering::Relaxed);
    outside.into_iter().for_each(|one| one.join().expect("it doesn't panic"));
    let said = clients.said();
    let why = said[1].as_array().expect("a list");
    why.iter().take(20).for_each(|why| eprintln!("an application's connection came to nothing: {why}"));
    listener.kill();
    let done = said[0].as_u64().expect("a count") + came.load(Ordering::Relaxed);
    (samples, done, why.len() as u64 + failed.load(Ordering::Relaxed))
}

/// Clients of the listener: OpenSSL, outside the cgroup.
fn come(port: u16, ca: &str, share: f64, stop: &AtomicBool, came: &AtomicU64, failed: &AtomicU64) {
    let mut builder = SslConnector::builder(SslMethod::tls_client()).expect("OpenSSL works");
    builder.set_ca_file(ca).expect("the CA is there");
    let connector = builder.build();
    let once = || -> anyhow::Result<()> {
        // Without a time limit: a read that has one gives EINTR where the machine is paused (signal(7)).
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        let mut stream = connector.connect(NAME, stream)?;
        let sent = [7; 4096];
        stream.write_all(&sent)?;
        let mut got = [0; 4096];
        stream.read_exact(&mut got)?;
        let _gone = stream.shutdown();
        anyhow::ensure!(got == sent, "other bytes");
        Ok(())
    };
    let began = Instant::now();
    for turn in 1.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        if let Err(error) = once() {
            eprintln!("a client's connection came to nothing: {error:#}");
            failed.fetch_add(1, Ordering::Relaxed);
        }
        came.fetch_add(1, Ordering::Relaxed);
        let next = Duration::from_secs_f64(f64::from(turn) / share);
        thread::sleep(next.saturating_sub(began.elapsed()));
    }
}

/// The median of a part of the samples, of each series.
fn medians(samples: &[Sample]) -> [f64; SERIES.len()] {
    std::array::from_fn(|index| {
        let mut values: Vec<f64> = samples.iter().map(|(_at, values)| values[index]).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or(0.0)
    })
}

/// The second and the last tenth.
fn ends(samples: &[Sample]) -> ([f64; SERIES.len()], [f64; SERIES.len()]) {
    let tenth = (samples.len() / 10).max(1);
    let first = &samples[tenth.min(samples.len() - 1)..(2 * tenth).min(samples.len())];
    (medians(first), medians(&samples[samples.len() - tenth..]))
}

/// Lists what is more in the end than it was, by more than a tenth and some.
fn grown(samples: &[Sample]) -> Vec<String> {
    const SLACK: [f64; SERIES.len()] = [4.0, 40.0, 400.0, f64::MAX];
    let (first, last) = ends(samples);
    let all = SERIES.iter().zip(first).zip(last).zip(SLACK);
    let more = all.filter(|(((_name, first), last), slack)| *last > *first * 1.1 + *slack);
    more.map(|(((name, first), last), _slack)| format!("{name}: {first:.0}, then {last:.0}")).collect()
}

fn shown(values: &[f64]) -> String {
    SERIES.iter().zip(values).map(|(name, value)| format!("{name} {value:.0}")).collect::<Vec<_>>().join(", ")
}

fn table(samples: &[Sample], done: u64, wrong: u64) -> String {
    let (first, last) = ends(samples);
    let mut text =
        format!("\n{done} connections, {wrong} came to nothing\n\n| | second tenth | last tenth |\n|---|---|---|\n");
    for ((name, first), last) in SERIES.iter().zip(first).zip(last) {
        let _infallible = writeln!(text, "| {name} | {first:.1} | {last:.1} |");
    }
    text
}

/// A plot for each series, one below the other.
fn drawing(samples: &[Sample], seconds: u64, done: u64, wrong: u64) -> String {
    const WIDTH: f64 = 640.0;
    const HEIGHT: f64 = 90.0;
    const LEFT: f64 = 70.0;
    const TOP: f64 = 50.0;
    let commit = Command::new("git").args(["rev-parse", "--short", "HEAD"]).current_dir(root()).output();
    let commit = commit.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
    let total = TOP + SERIES.len() as f64 * (HEIGHT + 40.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {total}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"20\" font-size=\"14\">ssa-agent {commit}: {done} connections in {} minutes, {wrong} came to nothing</text>\n",
        LEFT + WIDTH + 30.0,
        seconds / 60,
    );
    for (index, name) in SERIES.iter().enumerate() {
        let top = TOP + index as f64 * (HEIGHT + 40.0);
        let most = samples.iter().map(|(_at, values)| values[index]).fold(1.0, f64::max) * 1.1;
        let point = |(at, values): &Sample| {
            let (x, y) = (LEFT + at / seconds as f64 * WIDTH, top + HEIGHT * (1.0 - values[index] / most));
            format!("{x:.1},{y:.1}")
        };
        let points: Vec<String> = samples.iter().map(point).collect();
        let _infallible = write!(
            svg,
            "<text x=\"{LEFT}\" y=\"{}\">{name}</text>\n\
             <text x=\"{}\" y=\"{}\" text-anchor=\"end\">{most:.0}</text><text x=\"{}\" y=\"{}\" text-anchor=\"end\">0</text>\n\
             <rect x=\"{LEFT}\" y=\"{top}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"none\" stroke=\"#ccc\"/>\n\
             <polyline points=\"{}\" fill=\"none\" stroke=\"#1f6fb4\"/>\n",
            top - 5.0,
            LEFT - 5.0,
            top + 10.0,
            LEFT - 5.0,
            top + HEIGHT,
            points.join(" "),
        );
    }
    svg + &format!("<text x=\"{LEFT}\" y=\"{}\">0 to {} minutes</text>\n</svg>\n", total - 15.0, seconds / 60)
}
