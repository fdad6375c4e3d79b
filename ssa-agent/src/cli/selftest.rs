//! Self-test that it works here: a TLS server with a throw-away CA, and a plain socket in the cgroup.

use std::{io, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use openssl::{
    asn1::Asn1Time,
    bn::{BigNum, MsbOption},
    ec::{EcGroup, EcKey},
    error::ErrorStack,
    hash::MessageDigest,
    nid::Nid,
    pkey::{PKey, Private},
    ssl::{Ssl, SslAcceptor, SslMethod},
    x509::{
        X509, X509Builder, X509NameBuilder,
        extension::{BasicConstraints, KeyUsage, SubjectAlternativeName},
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    process::Command,
    time::timeout,
};
use tokio_openssl::SslStream;

const NAME: &str = "proof.ssa.test";

/// Serves one connection, and runs `ssa-agent probe` in the cgroup against it. Returns what the probe prints. Errors:
/// the probe's, or no end within 30 s.
pub(crate) async fn run(cgroup: &Path) -> Result<String> {
    let (ca, acceptor) = server().context("making a throw-away CA")?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let addr = listener.local_addr()?.to_string();
    let serving = tokio::spawn(serve(listener, acceptor));
    let executable = std::env::current_exe()?;
    let mut probe = Command::new(&executable);
    probe.args(["exec".as_ref(), "--cgroup".as_ref(), cgroup.as_os_str(), "--".as_ref(), executable.as_os_str()]);
    probe.args(["probe", &addr, NAME, &ca]).kill_on_drop(true);
    let output = timeout(Duration::from_secs(30), probe.output()).await.context("no answer within 30 s")??;
    let printed = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    ensure!(output.status.success(), "the plain socket could not fetch over TLS: {printed}");
    serving.await??;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Connects to a server of another name, and to a port without a listener: both refusals must come at once, by the
/// packets that end a hold. The error says which packet was lost.
pub(crate) async fn refusals(cgroup: &Path) -> Result<()> {
    let (ca, acceptor) = server().context("making a throw-away CA")?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let addr = listener.local_addr()?.to_string();
    let serving = tokio::spawn(serve(listener, acceptor));
    refused(cgroup, &addr, &ca, libc::EPROTO).await.context("an ICMP error did not arrive")?;
    // It ends with an error: its client has refused it.
    let _refused = serving.await?;
    refused(cgroup, &addr, &ca, libc::ECONNREFUSED).await.context("a TCP reset did not arrive")
}

async fn refused(cgroup: &Path, addr: &str, ca: &str, errno: i32) -> Result<()> {
    let executable = std::env::current_exe()?;
    let mut probe = Command::new(&executable);
    probe.args(["exec".as_ref(), "--cgroup".as_ref(), cgroup.as_os_str(), "--".as_ref(), executable.as_os_str()]);
    probe.args(["probe", "--refused", &errno.to_string(), addr, "other.ssa.test", ca]).kill_on_drop(true);
    let output = timeout(Duration::from_secs(10), probe.output()).await.context("no answer within 10 s")??;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

/// Echoes one line, and ends in order.
async fn serve(listener: TcpListener, acceptor: SslAcceptor) -> Result<()> {
    let (stream, _from) = listener.accept().await?;
    let mut stream = SslStream::new(Ssl::new(acceptor.context())?, stream)?;
    std::pin::Pin::new(&mut stream).accept().await.map_err(io::Error::other)?;
    let mut line = [0; 6];
    stream.read_exact(&mut line).await?;
    stream.write_all(&line).await?;
    stream.shutdown().await?;
    Ok(())
}

/// Makes a server's certificate of a CA that exists for this moment only: (CA as PEM, server).
fn server() -> Result<(String, SslAcceptor), ErrorStack> {
    let ca_key = key()?;
    let ca = certificate("SSA self-test CA", &ca_key, None)?;
    let leaf_key = key()?;
    let leaf = certificate(NAME, &leaf_key, Some((&ca, &ca_key)))?;
    let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server())?;
    acceptor.set_private_key(&leaf_key)?;
    acceptor.set_certificate(&leaf)?;
    let pem = String::from_utf8_lossy(&ca.to_pem()?).into_owned();
    Ok((pem, acceptor.build()))
}

fn key() -> Result<PKey<Private>, ErrorStack> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
    PKey::from_ec_key(EcKey::generate(&group)?)
}

/// Makes the certificate of a server, signed by the issuer; or of a CA, signed by itself.
fn certificate(name: &str, key: &PKey<Private>, issuer: Option<(&X509, &PKey<Private>)>) -> Result<X509, ErrorStack> {
    let mut subject = X509NameBuilder::new()?;
    subject.append_entry_by_text("CN", name)?;
    let subject = subject.build();
    let mut serial = BigNum::new()?;
    serial.rand(120, MsbOption::MAYBE_ZERO, false)?;
    let mut builder = X509Builder::new()?;
    builder.set_version(2)?;
    builder.set_serial_number(&*serial.to_asn1_integer()?)?;
    builder.set_subject_name(&subject)?;
    builder.set_issuer_name(issuer.map_or(&*subject, |(ca, _key)| ca.subject_name()))?;
    builder.set_pubkey(key)?;
    builder.set_not_before(&*Asn1Time::days_from_now(0)?)?;
    builder.set_not_after(&*Asn1Time::days_from_now(1)?)?;
    match issuer {
        None => {
            builder.append_extension(BasicConstraints::new().critical().ca().build()?)?;
            builder.append_extension(KeyUsage::new().critical().key_cert_sign().build()?)?;
        }
        Some(_) => {
            let names = SubjectAlternativeName::new().dns(name).build(&builder.x509v3_context(None, None))?;
            builder.append_extension(names)?;
        }
    }
    builder.sign(issuer.map_or(key, |(_ca, ca_key)| ca_key), MessageDigest::sha256())?;
    Ok(builder.build())
}
