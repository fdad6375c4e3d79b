//! Fetching by HTTP what a certificate tells to fetch. Who has the certificate made chooses the URL, so this asks web servers
//! only, on addresses that are not the machine's own, and takes no more than so many bytes, redirects and seconds.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::{Pin, pin},
    sync::Arc,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Method, Request, StatusCode, Uri,
    client::conn::http1,
    header::{ACCEPT, CONTENT_TYPE, HOST, LOCATION, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use openssl::ssl::{SslConnector, SslMethod};
use ssa_common::{
    peer_option::{ABSENT, SLOTS},
    socket::{Caller, Endpoint},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_openssl::SslStream;
use zerocopy::FromZeros as _;

use crate::{
    kernel::on_behalf::Owner,
    netns::Namespace,
    peer_leg::{self, Setup},
    resolve::{self, Families},
};

/// From where is asked.
#[derive(Clone)]
pub(crate) enum Origin {
    /// As the agent itself, from its own network namespace.
    Host,
    /// As the program, from its network namespace: its firewalls hold.
    Program { namespace: Arc<Namespace>, caller: Caller, owner: Owner },
}

/// What distinguishes one origin from another.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum Place {
    Host,
    Program(u64, Owner),
}

impl Origin {
    pub(super) fn place(&self) -> Place {
        match self {
            Self::Host => Place::Host,
            Self::Program { namespace, owner, .. } => Place::Program(namespace.cookie, *owner),
        }
    }
}

/// What is asked for.
pub(super) struct Wanted<'a> {
    pub(super) url: &'a str,
    /// A question to send (POST), or none (GET).
    pub(super) question: Option<Bytes>,
    /// Type of the question, and of the answer.
    pub(super) types: (&'static str, &'static str),
    /// An answer has so many bytes at most.
    pub(super) most: usize,
    /// Whether addresses of the machine itself may be asked.
    pub(super) local: bool,
}

/// Redirects that are followed.
const REDIRECTS: usize = 3;

/// Fetches it.
///
/// Cancellation closes the connection.
pub(super) async fn fetch(origin: &Origin, wanted: &Wanted<'_>) -> Result<Bytes, String> {
    let mut uri: Uri = wanted.url.parse().map_err(|error| format!("no URL: {error}"))?;
    for _redirect in 0..=REDIRECTS {
        match ask(origin, wanted, &uri).await? {
            Said::Body(body) => return Ok(body),
            Said::Elsewhere(next) => uri = resolve_against(&uri, &next)?,
        }
    }
    Err(format!("more than {REDIRECTS} redirects"))
}

enum Said {
    Body(Bytes),
    Elsewhere(String),
}

async fn ask(origin: &Origin, wanted: &Wanted<'_>, uri: &Uri) -> Result<Said, String> {
    let secure = match uri.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        scheme => return Err(format!("{} is not asked, only http and https are", scheme.unwrap_or("nobody"))),
    };
    let host = uri.host().filter(|host| !host.is_empty()).ok_or("the URL has no host")?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let stream = dial(origin, host, port, wanted.local).await?;
    if secure {
        let stream = shake_hands(stream, host).await?;
        exchange(stream, wanted, uri).await
    } else {
        exchange(stream, wanted, uri).await
    }
}

/// Connects to the first of a host's addresses that answers.
async fn dial(origin: &Origin, host: &str, port: u16, local: bool) -> Result<TcpStream, String> {
    let unknown = |error: String| format!("{host}: {error}");
    let found: Vec<IpAddr> = match (host.parse(), origin) {
        (Ok(addr), _) => vec![addr],
        (Err(_name), Origin::Host) => {
            let found = tokio::net::lookup_host((host, port)).await.map_err(|error| unknown(error.to_string()))?;
            found.map(|addr| addr.ip()).collect()
        }
        (Err(_name), Origin::Program { namespace, caller, owner }) => {
            let found = resolve::addresses(namespace, *caller, *owner, host, Families::Both).await;
            found.map_err(|error| unknown(error.to_string()))?
        }
    };
    let mut failed = unknown("the name has no address".to_owned());
    for addr in found {
        if !local && is_local(addr) {
            failed = format!("{addr} is not asked: it is local, which `fetch_local` of [revocation] does not allow");
            continue;
        }
        let to = SocketAddr::new(addr, port);
        let dialled = match origin {
            Origin::Host => TcpStream::connect(to).await,
            Origin::Program { namespace, owner, .. } => peer_leg::dial(namespace, to, plain(*owner)).await,
        };
        match dialled {
            Ok(stream) => return Ok(stream),
            Err(error) => failed = format!("{to}: {error}"),
        }
    }
    Err(failed)
}

/// A socket without wishes.
fn plain(owner: Owner) -> Setup {
    Setup { owner, bound: Endpoint::new_zeroed(), interface: 0, options: [ABSENT; SLOTS] }
}

/// Whether an address is of this machine or its link, or where clouds keep what machines may know of themselves only.
fn is_local(addr: IpAddr) -> bool {
    /// Metadata services that are on no link-local address.
    const METADATA: [IpAddr; 2] =
        [IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)), IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254))];
    let addr = addr.to_canonical();
    let own = match addr {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_link_local() || v4.octets()[0] == 0 || v4.is_broadcast(),
        // What is left of IPv4-compatible addresses (::/96) has ::1 and :: in it.
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.segments()[..6] == [0; 6],
    };
    own || addr.is_multicast() || METADATA.contains(&addr)
}

/// TLS to a web server, as curl would: whether its certificate is revoked is not asked.
async fn shake_hands(stream: TcpStream, host: &str) -> Result<SslStream<TcpStream>, String> {
    let ssl =
        SslConnector::builder(SslMethod::tls_client()).and_then(|builder| builder.build().configure()?.into_ssl(host));
    let mut stream =
        SslStream::new(ssl.map_err(|error| error.to_string())?, stream).map_err(|error| error.to_string())?;
    Pin::new(&mut stream).connect().await.map_err(|error| format!("https: {error}"))?;
    Ok(stream)
}

/// One request and its answer.
async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    wanted: &Wanted<'_>,
    uri: &Uri,
) -> Result<Said, String> {
    let failed = |error: hyper::Error| crate::error::chain(&error);
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    let authority = uri.authority().map(|authority| authority.as_str()).unwrap_or_default();
    // What is before it is nobody's business but the server's that it was for.
    let host = authority.rsplit('@').next().unwrap_or_default();
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let (method, body) = match &wanted.question {
        Some(question) => (Method::POST, question.clone()),
        None => (Method::GET, Bytes::new()),
    };
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, host)
        .header(USER_AGENT, concat!("ssa-agent/", env!("CARGO_PKG_VERSION")))
        .header(ACCEPT, wanted.types.1);
    if wanted.question.is_some() {
        request = request.header(CONTENT_TYPE, wanted.types.0);
    }
    let request = request.body(Full::new(body)).map_err(|error| error.to_string())?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(failed)?;
        let status = response.status();
        if status.is_redirection() {
            let next = response.headers().get(LOCATION).and_then(|next| next.to_str().ok());
            return Ok(Said::Elsewhere(next.ok_or("a redirect to nowhere")?.to_owned()));
        }
        if status != StatusCode::OK {
            return Err(format!("HTTP status {}", status.as_u16()));
        }
        let body = Limited::new(response.into_body(), wanted.most).collect().await;
        Ok(Said::Body(body.map_err(|error| error.to_string())?.to_bytes()))
    };
    let (mut answer, mut connection) = (pin!(answer), pin!(connection));
    tokio::select! {
        biased;
        said = &mut answer => said,
        // What has come is still there to be read.
        _ended = &mut connection => answer.await,
    }
}

/// Where a redirect goes: to another URL, or to a path of the same server.
fn resolve_against(from: &Uri, next: &str) -> Result<Uri, String> {
    let base = url::Url::parse(&from.to_string()).map_err(|error| error.to_string())?;
    let next = base.join(next).map_err(|error| format!("a redirect to no URL: {error}"))?;
    next.as_str().parse().map_err(|error| format!("a redirect to no URL: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_addresses_are_known_in_all_their_forms() {
        for local in [
            "127.0.0.1",
            "127.8.9.1",
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "fe80::1",
            "ff02::1",
            "100.100.100.200",
            "fd00:ec2::254",
        ] {
            assert!(is_local(local.parse().unwrap()), "{local}");
        }
        for other in ["10.0.0.1", "192.168.1.1", "93.184.216.34", "2001:db8::1", "fd00::1", "::ffff:10.0.0.1"] {
            assert!(!is_local(other.parse().unwrap()), "{other}");
        }
    }

    #[test]
    fn redirects_may_be_relative() {
        let from: Uri = "http://ca.test:81/a/b.crl".parse().unwrap();
        for (next, to) in [
            ("c.crl", "http://ca.test:81/a/c.crl"),
            ("/d", "http://ca.test:81/d"),
            ("https://x.test/", "https://x.test/"),
        ] {
            assert_eq!(resolve_against(&from, next).unwrap(), to);
        }
        assert!(resolve_against(&from, "http://").is_err());
    }
}
