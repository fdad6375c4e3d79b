//! Answers that are kept: over a restart, verified, and the latest counts.

use std::{fs, time::Duration};

use ssa_tests::{
    eventually,
    nginx::Peer,
    pki::{Identity, Pki},
    server::closed_port,
    status::{Known, Responder, Setup, crl, response},
};
use tempfile::TempDir;

use crate::scene::*;

#[test]
fn answers_outlive_the_agent_and_are_verified_when_read() {
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

/// A scene that keeps its answers, and a certificate that names a responder, which does not run yet, and a list, `a.crl`.
struct Kept {
    scene: Scene,
    cache: TempDir,
    web_root: TempDir,
    nginx: Peer,
    port: u16,
    leaf: Identity,
}

fn kept() -> Kept {
    let mut scene = Scene::new();
    let cache = tempfile::tempdir().unwrap();
    scene.keep_answers_in(cache.path());
    let port = closed_port("127.0.0.1");
    let web_root = tempfile::tempdir().unwrap();
    let nginx = Peer::nginx_files(web_root.path());
    let crl = format!("http://127.0.0.1:{}/a.crl", nginx.port);
    let leaf = scene.leaf(Some(&format!("http://127.0.0.1:{port}/")), Some(&crl));
    Kept { scene, cache, web_root, nginx, port, leaf }
}

#[test]
fn older_good_answer_never_replaces_a_revoked_one() {
    let Kept { mut scene, cache, web_root, nginx: _nginx, port, leaf } = kept();
    let root = scene.root().clone();
    let yesterday = Setup { at: Some("-1d"), arguments: &["-ndays", "3"] };
    let old = answer_of(&scene, &leaf, &root, &root, yesterday);
    fs::write(web_root.path().join("a.crl"), crl(&root, &[], (-3600, 3600), &[])).unwrap();
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
fn later_crl_counts_over_an_older_response_after_restart() {
    let Kept { mut scene, cache, web_root, nginx, port, leaf } = kept();
    let root = scene.root().clone();
    let hour_ago = Setup { at: Some("-1h"), arguments: &["-ndays", "3"] };
    let known = [(&leaf.certificate, Known::Good)];
    let responder = Responder::start(port, scene.folder(), &root.certificate, &root, &known, hour_ago);
    let target = peer(&leaf, None);
    let files = || fs::read_dir(cache.path()).unwrap().count();
    assert_eq!(scene.connect(&target, OCSP).0, "ok");
    eventually("the response is written", Duration::from_secs(5), || files() == 1);
    drop(responder);
    fs::write(web_root.path().join("a.crl"), crl(&root, &[&leaf.certificate], HOUR, &[])).unwrap();
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
