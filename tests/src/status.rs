//! Who says whether certificates are revoked: `openssl ocsp`, CRLs behind nginx, and web servers that mean no good.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use openssl::{
    asn1::{Asn1Object, Asn1OctetString, Asn1Time},
    hash::MessageDigest,
    x509::{
        X509, X509Builder, X509Crl, X509CrlBuilder, X509Extension, X509RevokedBuilder,
        extension::AuthorityKeyIdentifier,
    },
};

use crate::{
    eventually,
    pki::Identity,
    server::{Server, closed_port},
};

/// Status of a certificate, as its issuer tells it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Known {
    Good,
    Revoked,
    /// Answers that it does not know the certificate.
    Unknown,
}

/// `openssl ocsp`. Ends when it is dropped.
pub struct Responder {
    child: Child,
    pub port: u16,
}

/// Clock and arguments of a responder.
#[derive(Clone, Copy, Default)]
pub struct Setup<'a> {
    /// Time that it thinks it is, such as `-2d` (faketime(1)).
    pub at: Option<&'a str>,
    /// More arguments: `-nmin 60`, say.
    pub arguments: &'a [&'a str],
}

impl Responder {
    /// Knows these certificates of an issuer; `signer` signs the answers. Certificates name the port.
    pub fn start(
        port: u16,
        folder: &Path,
        issuer: &X509,
        signer: &Identity,
        certificates: &[(&X509, Known)],
        setup: Setup<'_>,
    ) -> Self {
        let folder = folder.join(format!("responder-{port}"));
        // One that was there before has left it.
        fs::create_dir_all(&folder).expect("the folder is ours");
        let file = |name: &str, bytes: &[u8]| {
            let path = folder.join(name);
            fs::write(&path, bytes).expect("the folder is ours");
            path
        };
        let index: String =
            certificates.iter().filter_map(|(certificate, known)| index_line(certificate, *known)).collect();
        let index = file("index.txt", index.as_bytes());
        let issuer = file("issuer.pem", &issuer.to_pem().expect("certificates can be written"));
        let certificate = file("signer.pem", &signer.certificate.to_pem().expect("certificates can be written"));
        let key = file("signer.key", &signer.key.private_key_to_pem_pkcs8().expect("keys can be written"));
        let mut command = match setup.at {
            Some(at) => {
                let mut command = Command::new("faketime");
                command.args(["-f", at, "openssl"]);
                command
            }
            None => Command::new("openssl"),
        };
        command.args(["ocsp", "-port", &port.to_string(), "-index"]).arg(index).arg("-CA").arg(issuer);
        command.arg("-rsigner").arg(certificate).arg("-rkey").arg(key).args(setup.arguments);
        let child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it is installed");
        let mut responder = Self { child, port };
        // A connection without a request would keep OpenSSL's responder busy for ever.
        eventually("the responder listens", Duration::from_secs(10), || {
            assert!(matches!(responder.child.try_wait(), Ok(None)), "the responder ended");
            listens(port)
        });
        responder
    }
}

/// Whether somebody listens at a port of every address.
fn listens(port: u16) -> bool {
    const LISTEN: &str = "0A";
    let all = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default()).concat();
    let own = format!(":{port:04X}");
    all.lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .any(|words| words.get(1).is_some_and(|local| local.ends_with(&own)) && words.get(3) == Some(&LISTEN))
}

impl Drop for Responder {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

/// A line of the database of openssl-ca(1).
fn index_line(certificate: &X509, known: Known) -> Option<String> {
    let serial =
        certificate.serial_number().to_bn().and_then(|serial| serial.to_hex_str()).expect("it has a serial number");
    match known {
        Known::Good => Some(format!("V\t491231235959Z\t\t{serial}\tunknown\t/CN=any\n")),
        Known::Revoked => Some(format!("R\t491231235959Z\t260102030405Z,keyCompromise\t{serial}\tunknown\t/CN=any\n")),
        Known::Unknown => None,
    }
}

/// An OCSP response about one certificate, made by `openssl ocsp`.
pub fn response(
    folder: &Path,
    issuer: &X509,
    signer: &Identity,
    certificate: &X509,
    known: Known,
    setup: Setup<'_>,
) -> Vec<u8> {
    let port = closed_port("127.0.0.1");
    let responder = Responder::start(port, folder, issuer, signer, &[(certificate, known)], setup);
    let path = |name: &str| folder.join(format!("{name}-{}", responder.port));
    let (issuer_path, own, out) = (path("issuer"), path("certificate"), path("response"));
    fs::write(&issuer_path, issuer.to_pem().expect("certificates can be written")).expect("the folder is ours");
    fs::write(&own, certificate.to_pem().expect("certificates can be written")).expect("the folder is ours");
    let said = Command::new("openssl")
        .args(["ocsp", "-no_nonce", "-noverify", "-url", &format!("http://127.0.0.1:{}/", responder.port), "-issuer"])
        .arg(issuer_path)
        .arg("-cert")
        .arg(own)
        .arg("-respout")
        .arg(&out)
        .output()
        .expect("it is installed");
    fs::read(out).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&said.stderr)))
}

/// A CRL, valid from and to so many seconds from now.
pub fn crl(issuer: &Identity, revoked: &[&X509], (from, to): (i64, i64), extensions: &[(&str, &str)]) -> Vec<u8> {
    let made = || -> Result<X509Crl, openssl::error::ErrorStack> {
        let mut builder = X509CrlBuilder::new()?;
        builder.set_issuer_name(issuer.certificate.subject_name())?;
        builder.set_last_update(&*at(from)?)?;
        builder.set_next_update(&*at(to)?)?;
        for certificate in revoked {
            let mut entry = X509RevokedBuilder::new()?;
            entry.set_serial_number(certificate.serial_number())?;
            entry.set_revocation_date(&*Asn1Time::from_unix(1_767_312_000)?)?;
            builder.add_revoked(entry.build())?;
        }
        let of_issuer = X509Builder::new()?;
        let context = of_issuer.x509v3_context(Some(&issuer.certificate), None);
        builder.append_extension(AuthorityKeyIdentifier::new().keyid(true).build(&context)?)?;
        // `cRLNumber` 1 (RFC 5280, section 5.2.3).
        let number = Asn1OctetString::new_from_bytes(&[2, 1, 1])?;
        let name = Asn1Object::from_str("2.5.29.20")?;
        builder.append_extension(X509Extension::new_from_der(&name, false, &number)?)?;
        for (name, value) in extensions {
            builder.append_extension(extension(name, value)?)?;
        }
        builder.sort()?;
        builder.sign(&issuer.key, MessageDigest::sha256())?;
        builder.build()
    };
    made().and_then(|crl| crl.to_der()).expect("CRLs can be made")
}

#[expect(deprecated, reason = "no other function takes extensions as texts")]
fn extension(name: &str, value: &str) -> Result<X509Extension, openssl::error::ErrorStack> {
    X509Extension::new(None, None, name, value)
}

fn at(seconds: i64) -> Result<Asn1Time, openssl::error::ErrorStack> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("it is after 1970");
    Asn1Time::from_unix(i64::try_from(now.as_secs()).expect("it is before the end of time") + seconds)
}

/// Answer of a web server to a request.
#[derive(Clone)]
pub enum Page {
    Bytes(Vec<u8>),
    /// Bytes without end.
    Endless,
    /// Redirects to another path, or URL.
    Redirect(String),
    /// An answer after so long.
    Slow(Duration, Vec<u8>),
    Status(u16),
}

/// A web server of ours: what it answers depends on the path and the body.
pub fn web(answer: impl Fn(&str, &[u8]) -> Page + Send + Sync + 'static) -> Server {
    Server::tcp("127.0.0.1", move |mut stream| {
        let Some((path, body)) = request(&mut stream) else { return };
        let page = |stream: &mut TcpStream, status: &str, headers: &str, bytes: &[u8]| {
            let head =
                format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n", bytes.len());
            let _gone = stream.write_all(head.as_bytes());
            let _gone = stream.write_all(bytes);
        };
        match answer(&path, &body) {
            Page::Bytes(bytes) => page(&mut stream, "200 OK", "", &bytes),
            Page::Redirect(to) => page(&mut stream, "302 Found", &format!("Location: {to}\r\n"), b""),
            Page::Status(status) => page(&mut stream, &format!("{status} No"), "", b""),
            Page::Slow(late, bytes) => {
                thread::sleep(late);
                page(&mut stream, "200 OK", "", &bytes);
            }
            Page::Endless => {
                let _gone = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
                while stream.write_all(&[0; 65536]).is_ok() {}
            }
        }
    })
}

/// Path and body of a request.
fn request(stream: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let read = stream.read(&mut buffer).ok().filter(|read| *read > 0)?;
        bytes.extend_from_slice(&buffer[..read]);
        let Some(end) = bytes.windows(4).position(|part| part == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let length = head.lines().find_map(|line| {
            line.to_ascii_lowercase().strip_prefix("content-length:").map(|rest| rest.trim().to_owned())
        });
        let length: usize = length.and_then(|length| length.parse().ok()).unwrap_or(0);
        if bytes.len() >= end + 4 + length {
            let path = head.split(' ').nth(1)?.to_owned();
            return Some((path, bytes[end + 4..].to_vec()));
        }
    }
}
