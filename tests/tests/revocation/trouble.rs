//! Responders and lists in trouble: refused in time, with a reason.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::json;
use ssa_tests::{
    app::python,
    pki::{Identity, Pki},
    server::{Server, closed_port},
    status::{Known, Page, Responder, Setup, crl, web},
};

use crate::scene::*;

/// Days ago, and in days: when an answer that counts no more, or not yet, was given.
const PAST: Setup<'_> = Setup { at: Some("-3d"), arguments: &["-ndays", "1"] };
const FUTURE: Setup<'_> = Setup { at: Some("+3d"), arguments: &["-ndays", "1"] };
const DAY: i64 = 86_400;

/// A client, and a web server that gives every request the same answer. A redirect to nowhere goes to another path of it.
struct Trouble {
    scene: Scene,
    page: Arc<Mutex<Page>>,
    server: Server,
    /// Another CA, which nobody trusts.
    wrong: Pki,
    urls: usize,
}

impl Trouble {
    fn new() -> Self {
        let page = Arc::new(Mutex::new(Page::Status(500)));
        let now = Arc::clone(&page);
        let server = web(move |path, _body| match (path, now.lock().unwrap().clone()) {
            (path, Page::Redirect(to)) => Page::Redirect(if to.is_empty() { format!("{path}x") } else { to }),
            (_path, page) => page,
        });
        Self { scene: Scene::new(), page, server, wrong: Pki::new(), urls: 0 }
    }

    /// An URL that was not asked before: servers that failed are left alone for a while.
    fn url(&mut self) -> String {
        self.urls += 1;
        format!("http://{}/{}", self.server.addr, self.urls)
    }

    /// A connection to a peer with this certificate is refused while the server answers this.
    #[track_caller]
    fn is_refused(&mut self, case: &str, page: Page, leaf: &Identity, ways: Ways, want: &str) {
        *self.page.lock().unwrap() = page;
        self.scene.row(case, &peer(leaf, None), ways, "EPROTO", want);
    }
}

#[test]
fn ocsp_trouble_is_refused_in_time_with_a_reason() {
    let mut trouble = Trouble::new();
    for (case, page, want) in [
        ("an error", Page::Status(503), "HTTP status 503"),
        ("slow", Page::Slow(Duration::from_secs(5), vec![0; 100]), "no answer within 1 s"),
        ("garbage", Page::Bytes(b"<html>no</html>".to_vec()), "no OCSP response"),
        ("huge", Page::Endless, "limit"),
        ("redirect loop", Page::Redirect(String::new()), "more than 3 redirects"),
        ("redirect to a file", Page::Redirect("file:///etc/passwd".to_owned()), "a redirect to no URL"),
    ] {
        let url = trouble.url();
        let leaf = trouble.scene.leaf(Some(&url), None);
        trouble.is_refused(&format!("OCSP, {case}"), page, &leaf, OCSP, want);
    }
}

#[test]
fn ocsp_response_that_must_not_count_is_refused() {
    let mut trouble = Trouble::new();
    let (root, wrong) = (trouble.scene.root().clone(), trouble.wrong.root().clone());
    let strange = trouble.scene.leaf(None, None);
    for (case, of, issuer, signer, setup, want) in [
        ("wrong signer", None, &root, &wrong, FOR_AN_HOUR, "not by whom it should be"),
        ("unknown issuer", None, &wrong, &wrong, FOR_AN_HOUR, "not by whom it should be"),
        ("expired", None, &root, &root, PAST, "the response has expired"),
        ("of the future", None, &root, &root, FUTURE, "the response is of the future"),
        ("replayed of another", Some(&strange), &root, &root, FOR_AN_HOUR, "about another certificate"),
    ] {
        let url = trouble.url();
        let leaf = trouble.scene.leaf(Some(&url), None);
        let response = answer_of(&trouble.scene, of.unwrap_or(&leaf), issuer, signer, setup);
        trouble.is_refused(&format!("OCSP, {case}"), Page::Bytes(response), &leaf, OCSP, want);
    }
}

#[test]
fn crl_trouble_is_refused_in_time_with_a_reason() {
    let mut trouble = Trouble::new();
    let (root, wrong) = (trouble.scene.root().clone(), trouble.wrong.root().clone());
    let impostor = Identity { key: wrong.key.clone(), ..root.clone() };
    let list = |signer: &Identity, span: (i64, i64)| Page::Bytes(crl(signer, &[], span, &[]));
    let partial = |point: &str| Page::Bytes(crl(&root, &[], HOUR, &[("issuingDistributionPoint", point)]));
    for (case, page, want) in [
        ("an error", Page::Status(404), "HTTP status 404"),
        ("slow", Page::Slow(Duration::from_secs(5), vec![0; 100]), "no answer within 1 s"),
        ("garbage", Page::Bytes(b"<html>no</html>".to_vec()), "no CRL"),
        ("huge", Page::Endless, "length limit exceeded"),
        ("redirect loop", Page::Redirect(String::new()), "more than 3 redirects"),
        ("wrong signer", list(&impostor, HOUR), "CRL signature failure"),
        ("unknown issuer", list(&wrong, HOUR), "not for this certificate"),
        ("expired", list(&root, (-2 * DAY, -DAY)), "the CRL has expired"),
        ("of the future", list(&root, (DAY, 2 * DAY)), "the CRL is of the future"),
        ("for CAs only", partial("critical,onlyCA:TRUE"), "different CRL scope"),
        ("for some reasons only", partial("critical,onlysomereasons:keyCompromise"), "not for this"),
    ] {
        let url = trouble.url();
        let leaf = trouble.scene.leaf(None, Some(&url));
        trouble.is_refused(&format!("CRL, {case}"), page, &leaf, CRL, want);
    }
}

#[test]
fn servers_that_are_down_are_a_refusal_with_a_reason() {
    let mut scene = Scene::new();
    let closed = closed_port("127.0.0.1");
    let leaf =
        scene.leaf(Some(&format!("http://127.0.0.1:{closed}/ocsp")), Some(&format!("http://127.0.0.1:{closed}/crl")));
    scene.row("OCSP and CRL, down", &peer(&leaf, None), BOTH, "EPROTO", "refused");
}

#[test]
fn staple_that_must_not_count_is_refused() {
    let mut scene = Scene::new();
    let (root, wrong) = (scene.root().clone(), Pki::new().root().clone());
    let (leaf, strange) = (scene.leaf(None, None), scene.leaf(None, None));
    let staple = |of: &Identity, signer: &Identity, setup| Some(answer_of(&scene, of, &root, signer, setup));
    let staples = [
        ("garbage", Some(b"no".to_vec()), "no OCSP response"),
        ("wrong signer", staple(&leaf, &wrong, FOR_AN_HOUR), "not by whom it should be"),
        ("expired", staple(&leaf, &root, PAST), "the response has expired"),
        ("of the future", staple(&leaf, &root, FUTURE), "the response is of the future"),
        ("replayed of another", staple(&strange, &root, FOR_AN_HOUR), "about another certificate"),
        ("none", None, "stapled: none was sent"),
    ];
    for (case, staple, want) in staples {
        scene.row(&format!("stapled, {case}"), &peer(&leaf, staple), STAPLED, "EPROTO", want);
    }
}

#[test]
fn responder_is_asked_once_for_many_and_not_soon_after_failure() {
    let mut scene = Scene::new();
    let asked = Arc::new(AtomicUsize::new(0));
    let answers: Arc<Mutex<Option<Vec<u8>>>> = Arc::default();
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
    sock = tls(host, ca); sock.setsockopt(IPPROTO_TLS, TLS_REVOCATION_CHECKS, 1)
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
fn nonce_refuses_a_replayed_answer() {
    let mut scene = Scene::with(local().set("nonce", true));
    let root = scene.root().clone();
    let port = closed_port("127.0.0.1");
    let real = scene.leaf(Some(&format!("http://127.0.0.1:{port}/")), None);
    let known = [(&real.certificate, Known::Good)];
    let _responder = Responder::start(port, scene.folder(), &root.certificate, &root, &known, FOR_AN_HOUR);
    assert_eq!(scene.connect(&peer(&real, None), OCSP), ("ok".to_owned(), String::new()));
    let page: Arc<Mutex<Vec<u8>>> = Arc::default();
    let now = Arc::clone(&page);
    let server = web(move |_path, _body| Page::Bytes(now.lock().unwrap().clone()));
    let leaf = scene.leaf(Some(&format!("http://{}/", server.addr)), None);
    *page.lock().unwrap() = answer_of(&scene, &leaf, &root, &root, FOR_AN_HOUR);
    let (result, text) = scene.connect(&peer(&leaf, None), OCSP);
    assert!(result == "EPROTO" && text.contains("not the nonce"), "{text}");
}

#[test]
fn answer_after_the_handshake_limit_is_refused_with_a_reason() {
    let mut scene = Scene::with(local_with(30, ""));
    let server = web(|_path, _body| Page::Slow(Duration::from_secs(20), Vec::new()));
    let leaf = scene.leaf(Some(&format!("http://{}/", server.addr)), Some(&format!("http://{}/crl", server.addr)));
    scene.row("OCSP and CRL, too late", &peer(&leaf, None), BOTH, "EPROTO", "no answer before the handshake's limit");
}
