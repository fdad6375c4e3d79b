//! Responders and lists in trouble: refused in time, with a reason.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use openssl::x509::X509;
use serde_json::json;
use ssa_tests::{
    app::python,
    pki::{Identity, Pki},
    server::closed_port,
    status::{Known, Page, Responder, Setup, crl, response, web},
};

use crate::scene::*;

/// What becomes of a responder, or of a list, in trouble.
#[test]
fn trouble_is_refused_in_time_with_a_reason() {
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

#[test]
fn responder_is_asked_once_for_many_and_not_soon_after_failure() {
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
    let page: Arc<std::sync::Mutex<Vec<u8>>> = Arc::default();
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
