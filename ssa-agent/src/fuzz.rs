//! Entry points for fuzzers: each parser of what comes from outside, and what must hold of what it makes of it. The
//! targets are in `fuzz/`; their corpus is run as a test of this module, on every build.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::OnceLock,
    time::Instant,
};

use openssl::x509::X509;

use crate::{
    app::upgrade,
    control, enforce,
    kernel::{self, Errno, Syn},
    policy::File,
    revocation::{self, Subject},
    tls::{self, Credentials, ServerName, certificates},
};

/// Parser by name.
pub type Target = (&'static str, fn(&[u8]));

/// Parsers, by name. Each takes any bytes.
pub const TARGETS: &[Target] = &[
    ("config", config),
    ("control", control),
    ("dns", dns),
    ("events", events),
    ("host_name", host_name),
    ("packet", packet),
    ("pem", pem),
    ("records", records),
    ("staples", staples),
    ("status", status),
];

/// Parses a configuration. A good file stays good when it is read again.
fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    File::fuzz(text);
}

/// Parses a request on the control socket, and what an agent that takes over may be told.
fn control(bytes: &[u8]) {
    control::protocol::fuzz(bytes);
    upgrade::protocol::fuzz(bytes);
}

/// Takes in messages to name servers and from them, by UDP or in segments of TCP.
fn dns(bytes: &[u8]) {
    enforce::fuzz_names(bytes, Instant::now());
}

/// Parses records of the ring buffer.
fn events(bytes: &[u8]) {
    let _unknown = kernel::parse_event(bytes);
}

/// Parses names for SNI and for the check of certificates: OpenSSL must be given nothing that it takes for "any".
fn host_name(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match ServerName::parse(text) {
        Ok(ServerName::Dns(name)) => {
            let labels_are_full = name.split('.').all(|label| (1..=63).contains(&label.len()));
            assert!(labels_are_full && name.len() <= 253 && name.is_ascii(), "{name:?}");
            assert!(
                !name.contains('*') && !name.bytes().any(|byte| byte.is_ascii_whitespace() || byte == 0),
                "{name:?}"
            );
            assert!(name.parse::<Ipv4Addr>().is_err(), "an address is none: {name:?}");
        }
        Ok(ServerName::Ip(addr)) => assert_eq!(text.parse::<IpAddr>().ok(), Some(addr), "{text:?}"),
        Err(_invalid) => {}
    }
}

/// Parses the headers of a SYN: what is made of them goes out of a raw socket.
fn packet(bytes: &[u8]) {
    let Some(syn) = Syn::parse(bytes) else { return };
    let resumed = Syn::parse(&syn.resume()).expect("a resumed SYN is a SYN");
    assert_eq!((resumed.source, resumed.target, resumed.isn), (syn.source, syn.target, syn.isn));
    for errno in [Errno::ConnectionRefused, Errno::HostUnreachable, Errno::NetworkUnreachable, Errno::Protocol] {
        assert!(Syn::parse(&syn.refuse(errno)).is_none(), "a refusal is no SYN");
    }
}

/// Parses certificates and keys that applications bring.
fn pem(bytes: &[u8]) {
    let mut credentials = Credentials::default();
    if certificates(bytes).is_ok_and(|all| all.is_empty()) {
        panic!("no certificate is an error");
    }
    if credentials.add_chain(bytes, None).is_ok() {
        let _wrong = credentials.add_key(bytes);
    }
    let _incomplete = credentials.finish();
}

/// Follows TLS that an application speaks itself, cut in any way.
fn records(bytes: &[u8]) {
    tls::fuzz_records(bytes);
}

/// Parses a Certificate message of a peer.
fn staples(bytes: &[u8]) {
    tls::fuzz_staples(bytes);
}

/// Verifies OCSP responses and CRLs. Nobody but the issuer, whose key no fuzzer has, can make one that counts.
fn status(bytes: &[u8]) {
    static SUBJECT: OnceLock<Subject> = OnceLock::new();
    let subject = SUBJECT.get_or_init(|| {
        let read = |pem: &[u8]| X509::from_pem(pem).expect("it is a certificate");
        let (leaf, issuer) = (
            read(include_bytes!("../../fuzz/certificates/leaf.pem")),
            read(include_bytes!("../../fuzz/certificates/issuer.pem")),
        );
        Subject::new(&leaf, &issuer).expect("both are good")
    });
    revocation::fuzz_status(bytes, subject);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What fuzzers have found worth keeping, and the cases of bugs that were.
    #[test]
    fn corpus_is_parsed() {
        let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
        for (name, parse) in TARGETS {
            let files = std::fs::read_dir(corpus.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
            let mut count = 0;
            for file in files.flatten() {
                let bytes = std::fs::read(file.path()).unwrap();
                parse(&bytes);
                // And cut short anywhere.
                (0..bytes.len()).step_by(1 + bytes.len() / 64).for_each(|length| parse(&bytes[..length]));
                count += 1;
            }
            assert!(count > 0, "{name} has no corpus");
        }
    }
}
