//! Options 102 to 106: a certificate that is revoked, or of which nobody says that it is not, gets no connection.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use openssl::{
    ssl::{SslConnector, SslFiletype, SslMethod},
    x509::X509,
};
use serde_json::{Value, json};
use ssa_tests::{
    agent::{Agent, program},
    app::{App, command, programs, python},
    eventually,
    nginx::Peer,
    pki::{Identity, Leaf, Pki},
    report,
    server::{self, Server, closed_port},
    status::{Known, Page, Responder, Setup, crl, response, web},
};

const NAME: &str = "peer.ssa.test";
/// Responders of these tests are on this machine.
const LOCAL: &str = "[revocation]\nfetch_local = true\nfetch_seconds = 1\n[cache]\ndirectory = \"\"\n";
/// An answer that says for how long it counts.
const FOR_AN_HOUR: Setup<'_> = Setup { at: None, arguments: &["-nmin", "60"] };
const HOUR: (i64, i64) = (-60, 3600);

/// Ways that may answer.
#[derive(Clone, Copy, Default)]
struct Ways {
    stapled: bool,
    ocsp: bool,
    crl: bool,
    cached: bool,
}

const STAPLED: Ways = Ways { stapled: true, ocsp: false, crl: false, cached: false };
const OCSP: Ways = Ways { ocsp: true, stapled: false, ..STAPLED };
const CRL: Ways = Ways { crl: true, stapled: false, ..STAPLED };
const BOTH: Ways = Ways { ocsp: true, ..CRL };
const CACHED: Ways = Ways { cached: true, stapled: false, ..STAPLED };

impl Ways {
    /// As the program sets them.
    fn options(self) -> String {
        let number = |on: bool| u8::from(on);
        let Self { stapled, ocsp, crl, cached } = self;
        format!("{} {} {} {}", number(stapled), number(ocsp), number(crl), number(cached))
    }
}

/// Connects for each line that it is told: port, and the four ways.
const PROGRAM: &str = r#"
host, ca = args
for line in sys.stdin:
    port, *ways = line.split()
    sock = tls(host, ca)
    sock.setsockopt(IPPROTO_TLS, 102, 1)
    for option, way in zip(range(103, 107), ways): sock.setsockopt(IPPROTO_TLS, option, int(way))
    came = connect(sock, "127.0.0.1", port)
    out([came["result"], came["error"], came["ms"]])
    sock.close()
"#;

struct Scene {
    pki: Pki,
    agent: Agent,
    program: App,
}

impl Scene {
    fn new() -> Self {
        Self::with(LOCAL)
    }

    fn with(config: &str) -> Self {
        let pki = Pki::new();
        let agent = Agent::start_with(config);
        let program = App::start(&agent, PROGRAM, &[NAME, &pki.ca()]);
        Self { pki, agent, program }
    }

    /// Keeps answers in a folder from now on.
    fn keep_answers_in(&mut self, folder: &Path) {
        self.agent.configure(&LOCAL.replace("\"\"", &format!("\"{}\"", folder.display())));
        self.restart();
    }

    /// Another agent in the place of this one, after its end.
    fn restart(&mut self) {
        self.program.kill();
        self.agent.stop();
        self.agent.restart();
        self.program = App::start(&self.agent, PROGRAM, &[NAME, &self.pki.ca()]);
    }

    fn root(&self) -> &Identity {
        self.pki.root()
    }

    fn folder(&self) -> &Path {
        self.pki.folder()
    }

    /// A certificate that names these.
    fn leaf(&self, ocsp: Option<&str>, crl: Option<&str>) -> Identity {
        let ocsp = ocsp.map(|url| format!("OCSP;URI:{url}"));
        let crl = crl.map(|url| format!("URI:{url}"));
        let both = [("authorityInfoAccess", &ocsp), ("crlDistributionPoints", &crl)];
        let extensions: Vec<(&str, &str)> =
            both.iter().filter_map(|(name, value)| Some((*name, value.as_deref()?))).collect();
        self.pki.leaf(Leaf::of(&[NAME]).with(&extensions))
    }

    fn connect(&mut self, peer: &Server, ways: Ways) -> (String, String) {
        let (result, text, ms) = self.timed(peer, ways);
        // The handshake's limit is 2 s; then comes the refusal.
        assert!(ms < ssa_tests::long(Duration::from_millis(2500)).as_secs_f64() * 1e3, "{result} {text} after {ms} ms");
        (result, text)
    }

    fn timed(&mut self, peer: &Server, ways: Ways) -> (String, String, f64) {
        self.program.say(&format!("{} {}", peer.addr.port(), ways.options()));
        let said = self.program.said();
        let text = |index: usize| said[index].as_str().unwrap().to_owned();
        (text(0), text(1), said[2].as_f64().unwrap())
    }

    /// The row of a table, and what came of it.
    #[track_caller]
    fn row(&mut self, case: &str, peer: &Server, ways: Ways, errno: &str, want: &str) {
        let (result, text, ms) = self.timed(peer, ways);
        let came = json!({"result": result, "ms": ms, "error": text});
        report::errno(&format!("revocation: {case}"), &came);
        assert_eq!(result, errno, "{case}: {text}");
        assert!(text.contains(want), "{case}: {text}");
        assert!(ms < ssa_tests::long(Duration::from_millis(2500)).as_secs_f64() * 1e3, "{case}: {ms} ms");
    }
}

/// An echo server that staples this, if anything.
fn peer(identity: &Identity, staple: Option<Vec<u8>>) -> Server {
    let context = server::context_with(identity, |acceptor| {
        acceptor
            .set_status_callback(move |ssl| match &staple {
                Some(der) => ssl.set_ocsp_status(der).map(|()| true),
                None => Ok(false),
            })
            .unwrap();
    });
    Server::tls("127.0.0.1", context, server::echo)
}

#[test]
fn each_state_by_each_way() {
    let mut scene = Scene::new();
    let web_root = tempfile::tempdir().unwrap();
    let nginx = Peer::nginx_files(web_root.path());
    let other = Pki::new();
    for (known, errno, by_ocsp, by_crl) in [
        (Known::Good, "ok", "", ""),
        (
            Known::Revoked,
            "EPROTO",
            "certificate revoked on 2026-01-02 (keyCompromise)",
            "certificate revoked on 2026-01-02",
        ),
        (Known::Unknown, "EPROTO", "the responder does not know", "the CRL is not for this certificate"),
    ] {
        let name = format!("{known:?}").to_lowercase();
        let ocsp_port = closed_port("127.0.0.1");
        let (ocsp_url, crl_url) =
            (format!("http://127.0.0.1:{ocsp_port}/"), format!("http://127.0.0.1:{}/{name}.crl", nginx.port));
        let leaf = scene.leaf(Some(&ocsp_url), Some(&crl_url));
        let certificate = &leaf.certificate;
        let list = match known {
            Known::Good => crl(scene.root(), &[], HOUR, &[]),
            Known::Revoked => crl(scene.root(), &[certificate], HOUR, &[]),
            Known::Unknown => crl(other.root(), &[], HOUR, &[]),
        };
        fs::write(web_root.path().join(format!("{name}.crl")), list).unwrap();
        let root = scene.root().clone();
        let known_to = [(certificate, known)];
        let stapled = response(scene.folder(), &root.certificate, &root, certificate, known, FOR_AN_HOUR);
        let responder = Responder::start(ocsp_port, scene.folder(), &root.certificate, &root, &known_to, FOR_AN_HOUR);
        let (plain, stapling) = (peer(&leaf, None), peer(&leaf, Some(stapled)));
        scene.row(&format!("{name}, nothing cached"), &plain, CACHED, "EPROTO", "can't be checked");
        scene.row(&format!("{name}, OCSP"), &plain, OCSP, errno, by_ocsp);
        scene.row(&format!("{name}, CRL"), &plain, CRL, errno, by_crl);
        scene.row(&format!("{name}, stapled"), &stapling, STAPLED, errno, by_ocsp);
        scene.row(&format!("{name}, OCSP and CRL at once"), &plain, BOTH, errno, "");
        drop(responder);
        let cached = if known == Known::Unknown { "can't be checked" } else { by_crl };
        scene.row(&format!("{name}, cached"), &plain, CACHED, errno, cached);
    }
    // One of two has an answer.
    let port = closed_port("127.0.0.1");
    let url = format!("http://127.0.0.1:{}/good.crl", nginx.port);
    let leaf = scene.leaf(Some(&format!("http://127.0.0.1:{port}/")), Some(&url));
    let root = scene.root().clone();
    let _ignorant = Responder::start(port, scene.folder(), &root.certificate, &root, &[], FOR_AN_HOUR);
    scene.row("OCSP does not know, the CRL does", &peer(&leaf, None), BOTH, "ok", "");
}

/// What becomes of a responder, or of a list, in trouble.
#[test]
fn each_trouble_is_refused_in_time_with_a_reason() {
    let mut scene = Scene::new();
    let other = Pki::new();
    let (root, wrong) = (scene.root().clone(), other.root().clone());
    // Answers that are made before, for all of the certificates, by number.
    let slow = Duration::from_secs(5);
    let page = Arc::new(std::sync::Mutex::new(Page::Status(500)));
    let now = Arc::clone(&page);
    let server = web(move |path, _body| match (path, now.lock().unwrap().clone()) {
        (path, Page::Redirect(to)) => Page::Redirect(if to.is_empty() { format!("{path}x") } else { to }),
        (_path, page) => page,
    });
    let mut number = 0;
    let mut url = || {
        number += 1;
        format!("http://{}/{number}", server.addr)
    };
    let strange = scene.leaf(None, None);
    let answer = |certificate: &X509, issuer: &Identity, signer: &Identity, setup: Setup<'_>| {
        response(scene.pki.folder(), &issuer.certificate, signer, certificate, Known::Good, setup)
    };
    let past = Setup { at: Some("-3d"), arguments: &["-ndays", "1"] };
    let future = Setup { at: Some("+3d"), arguments: &["-ndays", "1"] };
    type Make<'a> = Box<dyn Fn(&X509) -> Page + 'a>;
    let same = |page: Page| -> Make<'_> { Box::new(move |_certificate| page.clone()) };
    let by_ocsp: Vec<(&str, Make<'_>, &str)> = vec![
        ("an error", same(Page::Status(503)), "HTTP status 503"),
        ("slow", same(Page::Slow(slow, vec![0; 100])), "no answer within 1 s"),
        ("garbage", same(Page::Bytes(b"<html>no</html>".to_vec())), "no OCSP response"),
        ("huge", same(Page::Endless), "limit"),
        ("redirect loop", same(Page::Redirect(String::new())), "more than 3 redirects"),
        ("redirect to a file", same(Page::Redirect("file:///etc/passwd".to_owned())), "a redirect to no URL"),
        (
            "wrong signer",
            Box::new(|one| Page::Bytes(answer(one, &root, &wrong, FOR_AN_HOUR))),
            "not by whom it should be",
        ),
        (
            "unknown issuer",
            Box::new(|one| Page::Bytes(answer(one, &wrong, &wrong, FOR_AN_HOUR))),
            "not by whom it should be",
        ),
        ("expired", Box::new(|one| Page::Bytes(answer(one, &root, &root, past))), "the response has expired"),
        (
            "of the future",
            Box::new(|one| Page::Bytes(answer(one, &root, &root, future))),
            "the response is of the future",
        ),
        (
            "replayed of another",
            Box::new(|_one| Page::Bytes(answer(&strange.certificate, &root, &root, FOR_AN_HOUR))),
            "about another certificate",
        ),
    ];
    let mut cases = Vec::new();
    for (case, make, want) in &by_ocsp {
        let leaf = scene.leaf(Some(&url()), None);
        cases.push((format!("OCSP, {case}"), make(&leaf.certificate), leaf, OCSP, *want));
    }
    let list = |signer: &Identity, span: (i64, i64)| Page::Bytes(crl(signer, &[], span, &[]));
    let impostor = Identity { key: wrong.key.clone(), ..root.clone() };
    let day = 86_400;
    for (case, page, want) in [
        ("an error", Page::Status(404), "HTTP status 404"),
        ("slow", Page::Slow(slow, vec![0; 100]), "no answer within 1 s"),
        ("garbage", Page::Bytes(b"<html>no</html>".to_vec()), "no CRL"),
        ("huge", Page::Endless, "length limit exceeded"),
        ("redirect loop", Page::Redirect(String::new()), "more than 3 redirects"),
        ("wrong signer", list(&impostor, HOUR), "CRL signature failure"),
        ("unknown issuer", list(&wrong, HOUR), "not for this certificate"),
        ("expired", list(&root, (-2 * day, -day)), "the CRL has expired"),
        ("of the future", list(&root, (day, 2 * day)), "the CRL is of the future"),
        (
            "for CAs only",
            Page::Bytes(crl(&root, &[], HOUR, &[("issuingDistributionPoint", "critical,onlyCA:TRUE")])),
            "different CRL scope",
        ),
        (
            "for some reasons only",
            Page::Bytes(crl(
                &root,
                &[],
                HOUR,
                &[("issuingDistributionPoint", "critical,onlysomereasons:keyCompromise")],
            )),
            "not for this",
        ),
    ] {
        let leaf = scene.leaf(None, Some(&url()));
        cases.push((format!("CRL, {case}"), page, leaf, CRL, want));
    }
    drop(by_ocsp);
    for (case, now, leaf, ways, want) in cases {
        *page.lock().unwrap() = now;
        scene.row(&case, &peer(&leaf, None), ways, "EPROTO", want);
    }
    let closed = closed_port("127.0.0.1");
    let leaf =
        scene.leaf(Some(&format!("http://127.0.0.1:{closed}/ocsp")), Some(&format!("http://127.0.0.1:{closed}/crl")));
    scene.row("OCSP and CRL, down", &peer(&leaf, None), BOTH, "EPROTO", "refused");
    for (case, staple, want) in [
        ("garbage", Some(b"no".to_vec()), "no OCSP response"),
        ("wrong signer", Some(answer_of(&scene, &leaf, &root, &wrong, FOR_AN_HOUR)), "not by whom it should be"),
        ("expired", Some(answer_of(&scene, &leaf, &root, &root, past)), "the response has expired"),
        ("of the future", Some(answer_of(&scene, &leaf, &root, &root, future)), "the response is of the future"),
        (
            "replayed of another",
            Some(answer_of(&scene, &strange, &root, &root, FOR_AN_HOUR)),
            "about another certificate",
        ),
        ("none", None, "stapled: none was sent"),
    ] {
        scene.row(&format!("stapled, {case}"), &peer(&leaf, staple), STAPLED, "EPROTO", want);
    }
}

fn answer_of(scene: &Scene, of: &Identity, issuer: &Identity, signer: &Identity, setup: Setup<'_>) -> Vec<u8> {
    response(scene.folder(), &issuer.certificate, signer, &of.certificate, Known::Good, setup)
}

#[test]
fn nobody_to_ask_is_no_answer() {
    let mut scene = Scene::new();
    // A chain of two that says nothing of where to ask.
    let leaf = scene.leaf(None, None);
    let (result, text) = scene.connect(&peer(&leaf, None), Ways { stapled: true, ocsp: true, crl: true, cached: true });
    assert_eq!(result, "EPROTO");
    for why in
        ["stapled: none was sent", "OCSP: the certificate names no responder", "CRL: the certificate names no CRL"]
    {
        assert!(text.contains(why), "{text}");
    }
    let none = Ways { stapled: false, ..STAPLED };
    let (result, text) = scene.connect(&peer(&leaf, None), none);
    assert!(result == "EPROTO" && text.contains("no way to ask is allowed"), "{text}");
}

#[test]
fn intermediates_are_checked_too() {
    let mut scene = Scene::new();
    let folder = tempfile::tempdir().unwrap();
    let nginx = Peer::nginx_files(folder.path());
    for name in ["good", "revoked", "missing"] {
        let url = |of: &str| format!("URI:http://127.0.0.1:{}/{name}-{of}.crl", nginx.port);
        let (upper, lower) = (url("upper"), url("lower"));
        let middle = scene.pki.intermediate(&[("crlDistributionPoints", &upper)]);
        let leaf = scene.pki.leaf_below(&middle, Leaf::of(&[NAME]).with(&[("crlDistributionPoints", &lower)]));
        let write = |of: &str, list: Vec<u8>| fs::write(folder.path().join(format!("{name}-{of}.crl")), list).unwrap();
        write("lower", crl(&middle, &[], HOUR, &[]));
        match name {
            "good" => write("upper", crl(scene.root(), &[], HOUR, &[])),
            "revoked" => write("upper", crl(scene.root(), &[&middle.certificate], HOUR, &[])),
            _ => {}
        }
        let (result, text) = scene.connect(&peer(&leaf, None), CRL);
        let (errno, want) = match name {
            "good" => ("ok", ""),
            "revoked" => ("EPROTO", "certificate revoked on 2026-01-02: CN=SSA test intermediate"),
            _ => ("EPROTO", "(CRL: HTTP status 404): CN=SSA test intermediate"),
        };
        assert!(result == errno && text.contains(want), "{name}: {result} {text}");
    }
}

#[test]
fn resumed_session_is_refused_when_its_peer_is_revoked() {
    let pki = Pki::new();
    let agent = Agent::start_with(LOCAL);
    let port = closed_port("127.0.0.1");
    let url = format!("OCSP;URI:http://127.0.0.1:{port}/");
    let leaf = pki.leaf(Leaf::of(&[NAME]).with(&[("authorityInfoAccess", &url)]));
    let root = pki.root();
    let run = |known| {
        Responder::start(port, pki.folder(), &root.certificate, root, &[(&leaf.certificate, known)], Setup::default())
    };
    let good = run(Known::Good);
    let server = Server::echo("127.0.0.1", &leaf);
    let script = r#"
host, ca, port = args
first = tls(host, ca)
for option, on in ((102, 1), (103, 0), (106, 0)): first.setsockopt(IPPROTO_TLS, option, on)
context = id_of(first, CONTEXT)
def again(sock):
    came = connect(sock, "127.0.0.1", port)
    if came["result"] == "ok":
        sock.sendall(b"x"); sock.recv(1)
        return ["ok", number(sock, RESUMED)]
    return [came["result"], "certificate revoked" in came["error"] or came["error"]]
def adopted():
    sock = socket.socket(); sock.setsockopt(IPPROTO_TLS, CONTEXT, struct.pack("=Q", context))
    return sock
out([again(first), again(adopted())]); wait()
out(again(adopted()))
"#;
    let mut app = App::start(&agent, script, &[NAME, &pki.ca(), &server.port()]);
    assert_eq!(app.said(), json!([["ok", 0], ["ok", 1]]));
    drop(good);
    let _bad = run(Known::Revoked);
    app.go();
    assert_eq!(app.said(), json!(["EPROTO", true]));
}

#[test]
fn certificate_that_must_be_stapled_is() {
    let mut scene = Scene::new();
    let port = closed_port("127.0.0.1");
    let url = format!("OCSP;URI:http://127.0.0.1:{port}/");
    let extensions = [("tlsfeature", "status_request"), ("authorityInfoAccess", url.as_str())];
    let leaf = scene.pki.leaf(Leaf::of(&[NAME]).with(&extensions));
    let root = scene.root().clone();
    let known = [(&leaf.certificate, Known::Good)];
    let _responder = Responder::start(port, scene.folder(), &root.certificate, &root, &known, FOR_AN_HOUR);
    let any = Ways { stapled: true, ocsp: true, crl: true, cached: true };
    let (result, text) = scene.connect(&peer(&leaf, None), any);
    assert!(result == "EPROTO" && text.contains("demands a stapled OCSP response (none was sent)"), "{text}");
    let staple = answer_of(&scene, &leaf, &root, &root, FOR_AN_HOUR);
    assert_eq!(scene.connect(&peer(&leaf, Some(staple)), any).0, "ok");
}

#[test]
fn delegated_responders_count_if_nobody_need_ask_about_them() {
    let mut scene = Scene::new();
    let other = Pki::new();
    let root = scene.root().clone();
    let delegate = |pki: &Pki, extensions: &[(&str, &str)]| pki.leaf(Leaf::of(&["ocsp.ssa.test"]).with(extensions));
    let (usage, no_check) = (("extendedKeyUsage", "OCSPSigning"), ("noCheck", "ignored"));
    for (case, signer, errno, want) in [
        ("proper", delegate(&scene.pki, &[usage, no_check]), "ok", ""),
        ("without nocheck", delegate(&scene.pki, &[usage]), "EPROTO", "may be revoked"),
        ("for something else", delegate(&scene.pki, &[no_check]), "EPROTO", "not by whom it should be"),
        ("of another CA", delegate(&other, &[usage, no_check]), "EPROTO", "not by whom it should be"),
    ] {
        let leaf = scene.leaf(None, None);
        let staple = answer_of(&scene, &leaf, &root, &signer, FOR_AN_HOUR);
        scene.row(&format!("delegated responder, {case}"), &peer(&leaf, Some(staple)), STAPLED, errno, want);
    }
}

#[test]
fn tls_1_3_peers_staple_for_their_intermediates() {
    let mut scene = Scene::new();
    let root = scene.root().clone();
    let middle = scene.pki.intermediate(&[]);
    let leaf = scene.pki.leaf_below(&middle, Leaf::of(&[NAME]));
    let (chain, key) = scene.pki.write("multi", &leaf);
    let other = Pki::new();
    // GnuTLS itself staples nothing that says "revoked".
    for (signer, version, errno) in [(&root, "1.3", "ok"), (other.root(), "1.3", "EPROTO"), (&root, "1.2", "EPROTO")] {
        let own = response(scene.folder(), &middle.certificate, &middle, &leaf.certificate, Known::Good, FOR_AN_HOUR);
        let of_middle =
            response(scene.folder(), &root.certificate, signer, &middle.certificate, Known::Good, FOR_AN_HOUR);
        let port = closed_port("127.0.0.1");
        let pem = |der: Vec<u8>| {
            let text = openssl::base64::encode_block(&der);
            format!("-----BEGIN OCSP RESPONSE-----\n{text}\n-----END OCSP RESPONSE-----\n")
        };
        let path = scene.folder().join(format!("{port}.ocsp"));
        fs::write(&path, pem(own) + &pem(of_middle)).unwrap();
        let mut gnutls = Command::new("python3");
        gnutls.arg(programs().join("multistaple.py")).args([&port.to_string(), &chain, &key]).arg(path);
        gnutls.arg(format!("NORMAL:-VERS-ALL:+VERS-TLS{version}"));
        let mut server = gnutls.stdin(Stdio::null()).spawn().unwrap();
        eventually("GnuTLS listens", Duration::from_secs(10), || TcpStream::connect(("127.0.0.1", port)).is_ok());
        scene.program.say(&format!("{port} {}", STAPLED.options()));
        let said = scene.program.said();
        server.kill().unwrap();
        server.wait().unwrap();
        assert_eq!(said[0], errno, "{version}: {said}");
        let text = said[1].as_str().unwrap();
        assert!(errno == "ok" || text.contains("CN=SSA test intermediate"), "{text}");
    }
}

#[test]
fn responders_are_asked_once_for_many_and_failed_ones_not_again_for_a_while() {
    let mut scene = Scene::new();
    let asked = Arc::new(AtomicUsize::new(0));
    let answers: Arc<std::sync::Mutex<Option<Vec<u8>>>> = Arc::default();
    let (count, now) = (Arc::clone(&asked), Arc::clone(&answers));
    let server = web(move |_path, _body| {
        count.fetch_add(1, Ordering::SeqCst);
        match now.lock().unwrap().clone() {
            Some(bytes) => Page::Slow(Duration::from_millis(300), bytes),
            None => Page::Status(500),
        }
    });
    let leaf = scene.leaf(Some(&format!("http://{}/many", server.addr)), None);
    let root = scene.root().clone();
    *answers.lock().unwrap() = Some(answer_of(&scene, &leaf, &root, &root, FOR_AN_HOUR));
    let target = peer(&leaf, None);
    let script = r#"
host, ca, port = args
came = []
def one():
    sock = tls(host, ca); sock.setsockopt(IPPROTO_TLS, 102, 1)
    came.append(connect(sock, "127.0.0.1", port)["result"])
threads = [threading.Thread(target=one) for _ in range(20)]
for thread in threads: thread.start()
for thread in threads: thread.join()
out(came)
"#;
    let came = python(&scene.agent, script, &[NAME, &scene.pki.ca(), &target.port()]);
    assert_eq!(came, json!(vec!["ok"; 20]));
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    *answers.lock().unwrap() = None;
    let leaf = scene.leaf(Some(&format!("http://{}/failing", server.addr)), None);
    let target = peer(&leaf, None);
    for _ in 0..3 {
        let (result, text) = scene.connect(&target, OCSP);
        assert!(result == "EPROTO" && text.contains("HTTP status 500"), "{text}");
    }
    assert_eq!(asked.load(Ordering::SeqCst), 2, "it had failed a moment ago");
}

#[test]
fn local_servers_are_not_asked_unless_the_policy_allows_it() {
    let mut scene = Scene::with("[cache]\ndirectory = \"\"\n");
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let server = web(move |_path, _body| {
        count.fetch_add(1, Ordering::SeqCst);
        Page::Status(500)
    });
    let port = server.addr.port();
    for url in [
        format!("http://127.0.0.1:{port}/"),
        format!("http://localhost:{port}/"),
        format!("http://[::ffff:127.0.0.1]:{port}/"),
        format!("http://0.0.0.0:{port}/"),
        "http://169.254.169.254/latest/meta-data".to_owned(),
    ] {
        let leaf = scene.leaf(Some(&url), None);
        let (result, text) = scene.connect(&peer(&leaf, None), OCSP);
        assert!(result == "EPROTO" && text.contains("is not asked: it is local"), "{url}: {text}");
    }
    assert_eq!(asked.load(Ordering::SeqCst), 0);
}

#[test]
fn nonces_keep_old_answers_from_being_played() {
    let mut scene = Scene::with(&LOCAL.replace("[revocation]", "[revocation]\nnonce = true"));
    let root = scene.root().clone();
    let port = closed_port("127.0.0.1");
    let real = scene.leaf(Some(&format!("http://127.0.0.1:{port}/")), None);
    let known = [(&real.certificate, Known::Good)];
    let _responder = Responder::start(port, scene.folder(), &root.certificate, &root, &known, FOR_AN_HOUR);
    assert_eq!(scene.connect(&peer(&real, None), OCSP), ("ok".to_owned(), String::new()));
    let page: Arc<std::sync::Mutex<Vec<u8>>> = Arc::default();
    let now = Arc::clone(&page);
    let server = web(move |_path, _body| Page::Bytes(now.lock().unwrap().clone()));
    let leaf = scene.leaf(Some(&format!("http://{}/", server.addr)), None);
    *page.lock().unwrap() = answer_of(&scene, &leaf, &root, &root, FOR_AN_HOUR);
    let (result, text) = scene.connect(&peer(&leaf, None), OCSP);
    assert!(result == "EPROTO" && text.contains("not the nonce"), "{text}");
}

#[test]
fn program_and_policy_agree_on_what_is_checked() {
    let pki = Pki::new();
    let server = Server::echo("127.0.0.1", &pki.leaf(Leaf::of(&[NAME])));
    let script = r#"
host, ca, port = args
def of(*options):
    sock = tls(host, ca)
    came = [attempt(sock.setsockopt, IPPROTO_TLS, option, value) for option, value in options]
    return came + [connect(sock, "127.0.0.1", port)["result"]]
sock = socket.socket(); sock.setsockopt(IPPROTO_TLS, 108, 1)
out([[number(sock, option) for option in range(102, 107)], of(), of((102, 0)), of((102, 1)), of((103, 1), (104, 1), (105, 1), (106, 1)),
     of((103, 0), (104, 0), (105, 0), (106, 0)), of((102, 2))])
"#;
    let run = |config: &str| python(&Agent::start_with(config), script, &[NAME, &pki.ca(), &server.port()]);
    let ok = "ok";
    assert_eq!(
        run(LOCAL),
        json!([
            [0, 1, 1, 1, 1],
            [ok],
            [ok, ok],
            [ok, "EPROTO"],
            [ok, ok, ok, ok, ok],
            [ok, ok, ok, ok, ok],
            ["EINVAL", ok]
        ])
    );
    let strict = "[revocation]\nchecks = true\nstapled = false\ncached = false\nfetch_local = true\n";
    assert_eq!(
        run(strict),
        json!([
            [1, 0, 1, 1, 0],
            ["EPROTO"],
            ["EPROTO", "EPROTO"],
            [ok, "EPROTO"],
            ["EPROTO", ok, ok, "EPROTO", "EPROTO"],
            [ok, ok, ok, ok, "EPROTO"],
            ["EINVAL", "EPROTO"]
        ])
    );
}

#[test]
fn soft_profile_lets_be_what_nobody_knows_and_says_so() {
    let pki = Pki::new();
    let leaf = pki.leaf(Leaf::of(&[NAME]));
    let server = Server::echo("127.0.0.1", &leaf);
    let root = pki.root();
    let staple = response(pki.folder(), &root.certificate, root, &leaf.certificate, Known::Revoked, FOR_AN_HOUR);
    let revoked = peer(&leaf, Some(staple));
    let config = format!(
        "{LOCAL}[[profile]]\nname = \"lenient\"\nuser = 0\n[profile.revocation]\nchecks = true\nsoft_fail = true\n"
    );
    let agent = Agent::start_with(&config);
    let script = r#"
said = [connect(tls(args[0], args[1]), '127.0.0.1', port)['result'] for port in args[2:]]
sock = tls(args[0], args[1])
said += [attempt(sock.setsockopt, IPPROTO_TLS, option, 0) for option in range(102, 107)]
out(said + [connect(sock, "127.0.0.1", args[3])["result"]])
"#;
    let said = python(&agent, script, &[NAME, &pki.ca(), &server.port(), &revoked.port()]);
    let weaker = "EPROTO";
    assert_eq!(said, json!(["ok", "EPROTO", weaker, weaker, weaker, weaker, weaker, "EPROTO"]));
    eventually("the log says so", Duration::from_secs(5), || agent.log().contains("NOT CHECKED: soft_fail"));
    // For the whole machine it can't be had.
    let path = pki.folder().join("soft.toml");
    fs::write(&path, "[revocation]\nsoft_fail = true\n").unwrap();
    let check = Command::new(program()).args(["check", "--config"]).arg(&path).output().unwrap();
    let said = String::from_utf8_lossy(&check.stderr).into_owned();
    assert!(!check.status.success() && said.contains("soft.toml:2:13: `soft_fail` is for profiles only"), "{said}");
}

/// What `ssa-agent connections --json` says.
fn connections(agent: &Agent) -> Value {
    let output =
        Command::new(program()).args(["connections", "--json", "--cgroup"]).arg(agent.cgroup()).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn live_connection_whose_peer_becomes_revoked_is_listed_and_may_be_reset() {
    for close in [false, true] {
        let config = LOCAL.replace("[revocation]", &format!("[revocation]\nclose_revoked = {close}"));
        let mut scene = Scene::with(&config);
        let root = scene.root().clone();
        let port = closed_port("127.0.0.1");
        let leaf = scene.leaf(Some(&format!("http://127.0.0.1:{port}/")), None);
        let folder = scene.folder().to_owned();
        let run = |known| {
            Responder::start(port, &folder, &root.certificate, &root, &[(&leaf.certificate, known)], FOR_AN_HOUR)
        };
        let good = run(Known::Good);
        let target = peer(&leaf, None);
        let script = r#"
host, ca, port = args
sock = tls(host, ca); sock.setsockopt(IPPROTO_TLS, 102, 1)
out(connect(sock, "127.0.0.1", port)["result"]); wait()
def talk():
    sock.sendall(b"x"); sock.recv(1)
out([attempt(talk), error(sock)]); wait()
"#;
        let mut app = App::start(&scene.agent, script, &[NAME, &scene.pki.ca(), &target.port()]);
        assert_eq!(app.said(), json!("ok"));
        drop(good);
        let _bad = run(Known::Revoked);
        // Another program asks anew, and both learn of it.
        assert_eq!(scene.connect(&target, OCSP).0, "EPROTO");
        if close {
            eventually("it is reset", Duration::from_secs(5), || connections(&scene.agent) == json!([]));
            app.go();
            let said = app.said();
            assert!(matches!(said[0].as_str(), Some("ECONNRESET" | "EPIPE")), "{said}");
            let text = said[1].as_str().unwrap();
            assert!(text.contains("the peer was revoked while it was connected: certificate revoked on"), "{text}");
        } else {
            eventually("it is listed", Duration::from_secs(5), || {
                let text = connections(&scene.agent)[0]["revoked"].as_str().unwrap_or_default().to_owned();
                text.contains("certificate revoked on 2026-01-02 (keyCompromise)")
            });
            app.go();
            assert_eq!(app.said(), json!(["ok", ""]));
        }
        assert!(scene.agent.log().contains("the peer is revoked"));
        app.kill();
    }
}

#[test]
fn answers_outlive_the_agent_and_are_verified_when_they_are_read() {
    let mut scene = Scene::new();
    let cache = tempfile::tempdir().unwrap();
    let folder = cache.path().join("answers");
    scene.keep_answers_in(&folder);
    let root = scene.root().clone();
    let port = closed_port("127.0.0.1");
    let web_root = tempfile::tempdir().unwrap();
    let nginx = Peer::nginx_files(web_root.path());
    let by_ocsp = scene.leaf(Some(&format!("http://127.0.0.1:{port}/")), None);
    let by_crl = scene.leaf(None, Some(&format!("http://127.0.0.1:{}/a.crl", nginx.port)));
    fs::write(web_root.path().join("a.crl"), crl(&root, &[&by_crl.certificate], HOUR, &[])).unwrap();
    let known = [(&by_ocsp.certificate, Known::Good)];
    let responder = Responder::start(port, scene.folder(), &root.certificate, &root, &known, FOR_AN_HOUR);
    let (one, two) = (peer(&by_ocsp, None), peer(&by_crl, None));
    assert_eq!(scene.connect(&one, OCSP).0, "ok");
    assert!(scene.connect(&two, CRL).1.contains("certificate revoked"));
    let files =
        || fs::read_dir(&folder).map(|all| all.flatten().map(|one| one.path()).collect::<Vec<_>>()).unwrap_or_default();
    eventually("both are written", Duration::from_secs(5), || files().len() == 2);
    drop((responder, nginx));
    scene.restart();
    assert_eq!(scene.connect(&one, CACHED).0, "ok");
    assert!(scene.connect(&two, CACHED).1.contains("certificate revoked"));
    // What somebody else has put there counts for nothing.
    let other = Pki::new();
    let forged =
        response(scene.folder(), &root.certificate, other.root(), &by_ocsp.certificate, Known::Good, FOR_AN_HOUR);
    for path in files() {
        let is_ocsp = path.extension().is_some_and(|kind| kind == "ocsp");
        fs::write(&path, if is_ocsp { forged.clone() } else { crl(other.root(), &[], HOUR, &[]) }).unwrap();
    }
    scene.restart();
    assert_eq!(scene.connect(&one, CACHED).0, "EPROTO");
    assert_eq!(scene.connect(&two, CACHED).0, "EPROTO");
}

#[test]
fn clients_with_revoked_certificates_are_not_let_in() {
    let pki = Pki::new();
    let agent = Agent::start_with(LOCAL);
    let folder = tempfile::tempdir().unwrap();
    let nginx = Peer::nginx_files(folder.path());
    let url = format!("URI:http://127.0.0.1:{}/clients.crl", nginx.port);
    let client = |name: &str| pki.leaf(Leaf::of(&[name]).with(&[("crlDistributionPoints", &url)]));
    let (good, bad) = (client("good"), client("bad"));
    fs::write(folder.path().join("clients.crl"), crl(pki.root(), &[&bad.certificate], HOUR, &[])).unwrap();
    let (chain, key) = pki.write("server", &pki.leaf(Leaf::of(&[NAME])));
    let script = r#"
chain, key, ca = args
sock = socket.socket()
for option, value in ((88, text(chain)), (89, text(key)), (87, text(ca)), (94, 2), (102, 1)): sock.setsockopt(IPPROTO_TLS, option, value)
sock.bind(("127.0.0.1", 0)); sock.listen()
out(sock.getsockname()[1])
while True:
    conn, _ = sock.accept()
    conn.sendall(conn.recv(1)); conn.close()
"#;
    let mut app = App::start(&agent, script, &[&chain, &key, &pki.ca()]);
    let port = u16::try_from(app.said().as_u64().unwrap()).unwrap();
    let talks = |name: &str, identity: &Identity| {
        let (chain, key) = pki.write(name, identity);
        let mut builder = SslConnector::builder(SslMethod::tls_client()).unwrap();
        builder.set_ca_file(pki.ca()).unwrap();
        builder.set_certificate_chain_file(chain).unwrap();
        builder.set_private_key_file(key, SslFiletype::PEM).unwrap();
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        // In TLS 1.3 a client hears of its refusal after its handshake.
        let Ok(mut stream) = builder.build().connect(NAME, stream) else { return false };
        stream.write_all(b"x").is_ok() && stream.read_exact(&mut [0]).is_ok()
    };
    assert!(talks("good", &good));
    assert!(!talks("bad", &bad));
    eventually("the log says why", Duration::from_secs(5), || {
        agent.log().contains("certificate revoked on 2026-01-02: CN=bad")
    });
    app.kill();
}

#[test]
fn listeners_staple_what_their_responder_says() {
    let pki = Pki::new();
    let agent = Agent::start_with(LOCAL);
    let port = closed_port("127.0.0.1");
    let url = format!("OCSP;URI:http://127.0.0.1:{port}/");
    let middle = pki.intermediate(&[]);
    let leaf = pki.leaf_below(&middle, Leaf::of(&[NAME]).with(&[("authorityInfoAccess", &url)]));
    let known = [(&leaf.certificate, Known::Good)];
    let _responder = Responder::start(port, pki.folder(), &middle.certificate, &middle, &known, FOR_AN_HOUR);
    let (chain, key) = pki.write("stapled", &leaf);
    let script = r#"
chain, key = args
sock = socket.socket()
for option, value in ((88, text(chain)), (89, text(key)), (122, 1)): sock.setsockopt(IPPROTO_TLS, option, value)
sock.bind(("127.0.0.1", 0)); sock.listen()
out(sock.getsockname()[1])
while True:
    conn, _ = sock.accept()
    conn.recv(1); conn.close()
"#;
    let mut app = App::start(&agent, script, &[&chain, &key]);
    let port = app.said();
    eventually("a response is stapled", Duration::from_secs(20), || {
        let line = format!(
            "sleep 0.3 | timeout 10 openssl s_client -connect 127.0.0.1:{port} -servername {NAME} -status -CAfile {}",
            pki.ca()
        );
        let output = Command::new("sh").args(["-c", &line]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        said.contains("OCSP Response Status: successful") && said.contains("Cert Status: good")
    });
    app.kill();
}

#[test]
fn responses_that_are_stapled_by_nginx_are_taken() {
    let mut scene = Scene::new();
    let leaf = scene.leaf(None, None);
    let root = scene.root().clone();
    let staple = answer_of(&scene, &leaf, &root, &root, FOR_AN_HOUR);
    let file = scene.folder().join("nginx.ocsp");
    fs::write(&file, staple).unwrap();
    let (chain, key) = scene.pki.write("nginx", &leaf);
    let nginx =
        Peer::nginx_with(&scene.pki, &chain, &key, &format!("ssl_stapling on; ssl_stapling_file {};", file.display()));
    scene.program.say(&format!("{} {}", nginx.port, STAPLED.options()));
    let said = scene.program.said();
    assert_eq!(said[0], "ok", "{said}");
}

#[test]
fn older_good_answer_never_replaces_a_revoked_one() {
    let mut scene = Scene::new();
    let cache = tempfile::tempdir().unwrap();
    scene.keep_answers_in(cache.path());
    let root = scene.root().clone();
    let port = closed_port("127.0.0.1");
    let web_root = tempfile::tempdir().unwrap();
    let nginx = Peer::nginx_files(web_root.path());
    let crl_url = format!("http://127.0.0.1:{}/old.crl", nginx.port);
    let leaf = scene.leaf(Some(&format!("http://127.0.0.1:{port}/")), Some(&crl_url));
    let yesterday = Setup { at: Some("-1d"), arguments: &["-ndays", "3"] };
    let old = answer_of(&scene, &leaf, &root, &root, yesterday);
    fs::write(web_root.path().join("old.crl"), crl(&root, &[], (-3600, 3600), &[])).unwrap();
    let old_bytes = old.clone();
    let (stapling, plain) = (peer(&leaf, Some(old)), peer(&leaf, None));
    assert_eq!(scene.connect(&stapling, STAPLED).0, "ok", "nobody knows better yet");
    let known = [(&leaf.certificate, Known::Revoked)];
    let _responder = Responder::start(port, scene.folder(), &root.certificate, &root, &known, FOR_AN_HOUR);
    assert_eq!(scene.connect(&plain, OCSP).0, "EPROTO", "asked");
    let is_stored = || {
        let stored = fs::read_dir(cache.path()).unwrap().flatten();
        stored.filter(|file| fs::read(file.path()).is_ok_and(|bytes| bytes != old_bytes)).count() == 1
    };
    eventually("the answer is stored", Duration::from_secs(5), is_stored);
    for (case, target, ways) in [
        ("an old staple", &stapling, STAPLED),
        ("an old CRL", &plain, CRL),
        ("cached", &plain, CACHED),
        ("all", &stapling, Ways { stapled: true, ocsp: true, crl: true, cached: true }),
    ] {
        // Each is the first that an agent hears, who finds on disk what is known.
        scene.restart();
        let (result, text) = scene.connect(target, ways);
        assert!(result == "EPROTO" && text.contains("certificate revoked on 2026-01-02"), "{case}: {result} {text}");
    }
}

#[test]
fn later_crl_counts_over_an_older_response_after_a_restart() {
    let mut scene = Scene::new();
    let cache = tempfile::tempdir().unwrap();
    scene.keep_answers_in(cache.path());
    let root = scene.root().clone();
    let port = closed_port("127.0.0.1");
    let web_root = tempfile::tempdir().unwrap();
    let nginx = Peer::nginx_files(web_root.path());
    let crl_url = format!("http://127.0.0.1:{}/new.crl", nginx.port);
    let leaf = scene.leaf(Some(&format!("http://127.0.0.1:{port}/")), Some(&crl_url));
    let hour_ago = Setup { at: Some("-1h"), arguments: &["-ndays", "3"] };
    let known = [(&leaf.certificate, Known::Good)];
    let responder = Responder::start(port, scene.folder(), &root.certificate, &root, &known, hour_ago);
    let target = peer(&leaf, None);
    let files = || fs::read_dir(cache.path()).unwrap().count();
    assert_eq!(scene.connect(&target, OCSP).0, "ok");
    eventually("the response is written", Duration::from_secs(5), || files() == 1);
    drop(responder);
    fs::write(web_root.path().join("new.crl"), crl(&root, &[&leaf.certificate], HOUR, &[])).unwrap();
    assert!(scene.connect(&target, CRL).1.contains("certificate revoked"));
    eventually("the list has taken its place", Duration::from_secs(5), || {
        fs::read_dir(cache.path())
            .unwrap()
            .flatten()
            .all(|file| file.path().extension().is_some_and(|kind| kind == "crl"))
    });
    drop(nginx);
    scene.restart();
    assert!(scene.connect(&target, CACHED).1.contains("certificate revoked"));
}

#[test]
fn answers_that_come_too_late_for_the_handshake_are_a_refusal_with_a_reason() {
    let mut scene = Scene::with(&LOCAL.replace("fetch_seconds = 1", "fetch_seconds = 30"));
    let server = web(|_path, _body| Page::Slow(Duration::from_secs(20), Vec::new()));
    let leaf = scene.leaf(Some(&format!("http://{}/", server.addr)), Some(&format!("http://{}/crl", server.addr)));
    scene.row("OCSP and CRL, too late", &peer(&leaf, None), BOTH, "EPROTO", "no answer before the handshake's limit");
}

/// A server with a CRL in a network namespace of its own: who asks from another one finds nobody.
#[test]
fn who_asks_is_in_the_programs_namespace_unless_the_policy_says_host() {
    let pki = Pki::new();
    let port = closed_port("127.0.0.1");
    let url = format!("URI:http://localhost:{port}/a.crl");
    let leaf = pki.leaf(Leaf::of(&[NAME]).with(&[("crlDistributionPoints", &url)]));
    let (chain, key) = pki.write("inner", &leaf);
    fs::write(pki.folder().join("a.crl"), crl(pki.root(), &[], HOUR, &[])).unwrap();
    let script = r#"
import subprocess
host, ca, chain, key, port, folder = args
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "stdin": subprocess.DEVNULL}
servers = [subprocess.Popen(["openssl", "s_server", "-quiet", "-rev", "-accept", "4433", "-cert", chain, "-key", key], **quiet),
           subprocess.Popen(["python3", "-m", "http.server", port, "--bind", "127.0.0.1", "-d", folder], **quiet)]
for waited in (4433, int(port)):
    while attempt(lambda: socket.create_connection(("127.0.0.1", waited)).close()) != "ok": time.sleep(0.05)
sock = tls(host, ca); sock.setsockopt(IPPROTO_TLS, 102, 1)
came = connect(sock, "127.0.0.1", 4433)
for server in servers: server.kill()
out([came["result"], came["error"]])
"#;
    for (from, errno) in [("program", "ok"), ("host", "EPROTO")] {
        let agent =
            Agent::start_with(&LOCAL.replace("[revocation]", &format!("[revocation]\nfetch_from = \"{from}\"")));
        let mut command = command(&agent, "unshare");
        command.args(["--net", "python3"]);
        let folder = pki.folder().to_string_lossy().into_owned();
        let app = App::start_by(command, script, &[NAME, &pki.ca(), &chain, &key, &port.to_string(), &folder]);
        let said = app.finish();
        assert_eq!(said[0], errno, "{from}: {said}");
    }
}
