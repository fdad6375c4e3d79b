//! Each source of an answer: stapled, OCSP, CRL, cached; for leaves and intermediates.

use std::{
    fs,
    net::TcpStream,
    process::{Command, Stdio},
    time::Duration,
};

use ssa_tests::{
    app::programs,
    eventually,
    nginx::Peer,
    pki::{Leaf, Pki},
    server::closed_port,
    status::{Known, Responder, crl, response},
};

use crate::scene::*;

#[test]
fn each_source_tells_good_revoked_and_unknown() {
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
fn must_staple_certificate_without_staple_is_refused() {
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
fn delegated_responder_counts_with_nocheck_only() {
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
fn tls_1_3_peer_staples_for_its_intermediates() {
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
        scene.application.say(&format!("{port} {}", STAPLED.options()));
        let said = scene.application.said();
        server.kill().unwrap();
        server.wait().unwrap();
        assert_eq!(said[0], errno, "{version}: {said}");
        let text = said[1].as_str().unwrap();
        assert!(errno == "ok" || text.contains("CN=SSA test intermediate"), "{text}");
    }
}

#[test]
fn response_stapled_by_nginx_is_taken() {
    let mut scene = Scene::new();
    let leaf = scene.leaf(None, None);
    let root = scene.root().clone();
    let staple = answer_of(&scene, &leaf, &root, &root, FOR_AN_HOUR);
    let file = scene.folder().join("nginx.ocsp");
    fs::write(&file, staple).unwrap();
    let (chain, key) = scene.pki.write("nginx", &leaf);
    let nginx =
        Peer::nginx_with(&scene.pki, &chain, &key, &format!("ssl_stapling on; ssl_stapling_file {};", file.display()));
    scene.application.say(&format!("{} {}", nginx.port, STAPLED.options()));
    let said = scene.application.said();
    assert_eq!(said[0], "ok", "{said}");
}
