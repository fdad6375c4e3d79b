//! HTTP client for the URLs that a certificate names. Who has the certificate made chooses the URL, so this asks web
//! servers only, on addresses that are not the machine's own, and takes no more than so many bytes, redirects and
//! seconds.

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
    sync::OnceCell,
};
use tokio_openssl::SslStream;
use zerocopy::FromZeros as _;

use crate::{
    dial::{self, Families, Files, SocketSetup},
    netns::Namespace,
    sys::on_behalf::{SocketOwner, cgroup_path},
    telemetry::error_chain,
};

/// Place from which servers are asked.
#[derive(Clone)]
pub(crate) enum Origin {
    /// The agent itself, from its own network namespace.
    Host,
    /// An application, from its network namespace: its firewalls hold.
    Application {
        /// Network namespace of the application's socket.
        namespace: Arc<Namespace>,
        /// Process that has connected, or has made the listener.
        caller: Caller,
        /// Cgroup and user that the sockets are made for.
        owner: SocketOwner,
        /// Files that names are resolved with, once they are read. Clones share them.
        files: Arc<OnceCell<Files>>,
    },
}

/// Key of an [`Origin`], by which questions from different ones are told apart.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum Place {
    /// The agent's own network namespace.
    Host,
    /// An application: the cookie of its network namespace, and its cgroup and user.
    Application(u64, SocketOwner),
}

/// Reason why a fetch has no result.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// No server was asked, which is no server's fault.
    #[error("{0}")]
    NotAsked(String),
    /// The server, or the way there, has failed.
    #[error("{0}")]
    Failed(String),
}

impl From<String> for Error {
    fn from(what: String) -> Self {
        Self::Failed(what)
    }
}

impl Origin {
    /// Makes the origin of an application. What its names are resolved with is read when it is first needed, or by
    /// [`Self::prepare`].
    pub(crate) fn application(namespace: Arc<Namespace>, caller: Caller, owner: SocketOwner) -> Self {
        Self::Application { namespace, caller, owner, files: Arc::default() }
    }

    /// Reads what names are resolved with, while the application is there. On an error it is tried again when it is
    /// needed.
    pub(crate) async fn prepare(&self) {
        if let Self::Application { caller, files, .. } = self {
            // Later then, if it can be.
            let _unread = files.get_or_try_init(|| Files::read(*caller)).await;
        }
    }

    /// Key of this origin.
    pub(super) fn place(&self) -> Place {
        match self {
            Self::Host => Place::Host,
            Self::Application { namespace, owner, .. } => Place::Application(namespace.cookie, *owner),
        }
    }
}

/// Request to a web server.
pub(super) struct FetchRequest<'a> {
    /// URL: http or https.
    pub(super) url: &'a str,
    /// Question to send (POST), or none (GET).
    pub(super) question: Option<Bytes>,
    /// Media types of the question, and of the answer.
    pub(super) types: (&'static str, &'static str),
    /// Most bytes of the answer.
    pub(super) most: usize,
    /// Whether addresses of the machine itself may be asked.
    pub(super) local: bool,
}

/// Most redirects that are followed.
const REDIRECTS: usize = 3;

/// Fetches the answer to a request. The caller sets the time limit.
///
/// Errors: [`Error::NotAsked`] if no server may be asked, [`Error::Failed`] for all else. Cancellation closes the
/// connection.
pub(super) async fn fetch(origin: &Origin, wanted: &FetchRequest<'_>) -> Result<Bytes, Error> {
    let mut uri: Uri = wanted.url.parse().map_err(|error| format!("no URL: {error}"))?;
    for _redirect in 0..=REDIRECTS {
        match ask(origin, wanted, &uri).await? {
            Reply::Body(body) => return Ok(body),
            Reply::Redirect(next) => uri = resolve_against(&uri, &next)?,
        }
    }
    Err(format!("more than {REDIRECTS} redirects").into())
}

enum Reply {
    Body(Bytes),
    Redirect(String),
}

async fn ask(origin: &Origin, wanted: &FetchRequest<'_>, uri: &Uri) -> Result<Reply, Error> {
    let secure = match uri.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        scheme => {
            return Err(format!("{} is not asked, only http and https are", scheme.unwrap_or("nobody")).into());
        }
    };
    let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(|| "the URL has no host".to_owned())?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let stream = dial(origin, host, port, wanted.local).await?;
    if secure {
        let stream = shake_hands(stream, host).await?;
        Ok(exchange(stream, wanted, uri).await?)
    } else {
        Ok(exchange(stream, wanted, uri).await?)
    }
}

/// Connects to the first of a host's addresses that answers.
async fn dial(origin: &Origin, host: &str, port: u16, local: bool) -> Result<TcpStream, Error> {
    let unknown = |error: String| format!("{host}: {error}");
    if let Origin::Application { owner, .. } = origin
        && is_frozen(owner)
    {
        // A socket for it would wait for the thaw, with one of the few threads that make them.
        return Err(Error::NotAsked("the application's cgroup is frozen".to_owned()));
    }
    let found: Vec<IpAddr> = match (host.parse(), origin) {
        (Ok(addr), _) => vec![addr],
        (Err(_name), Origin::Host) => {
            let found = tokio::net::lookup_host((host, port)).await.map_err(|error| unknown(error.to_string()))?;
            found.map(|addr| addr.ip()).collect()
        }
        (Err(_name), Origin::Application { namespace, caller, owner, files }) => {
            let files = files.get_or_try_init(|| Files::read(*caller)).await;
            let files = files.map_err(|error| Error::NotAsked(unknown(error.to_string())))?;
            let found = dial::addresses(namespace, files, *owner, host, Families::Both).await;
            found.map_err(|error| unknown(error.to_string()))?
        }
    };
    let refuse = |addr: IpAddr| {
        Error::NotAsked(format!("{addr} is not asked: it is local, which `fetch_local` of [revocation] does not allow"))
    };
    let mut failed = Error::Failed(unknown("the name has no address".to_owned()));
    for addr in found {
        if !local && is_local(addr) {
            failed = refuse(addr);
            continue;
        }
        let to = SocketAddr::new(addr, port);
        let dialled = match origin {
            Origin::Host => TcpStream::connect(to).await,
            Origin::Application { namespace, owner, .. } => dial::dial(namespace, to, bare_setup(*owner)).await,
        };
        match dialled {
            // Nobody else has this machine's addresses.
            Ok(stream) if !local && stream.local_addr().is_ok_and(|own| own.ip() == to.ip()) => failed = refuse(addr),
            Ok(stream) => return Ok(stream),
            Err(error) => failed = format!("{to}: {error}").into(),
        }
    }
    Err(failed)
}

/// Whether an application's cgroup is frozen (`cgroup.events`, in cgroup-v2.rst of the kernel's documentation).
fn is_frozen(owner: &SocketOwner) -> bool {
    let path = owner.cgroups.into_iter().find_map(|inode| cgroup_path(inode).ok());
    let events = path.and_then(|path| std::fs::read_to_string(path.join("cgroup.events")).ok());
    events.is_some_and(|events| events.lines().any(|line| line == "frozen 1"))
}

/// Setup of a socket without options.
fn bare_setup(owner: SocketOwner) -> SocketSetup {
    SocketSetup { owner, bound: Endpoint::new_zeroed(), interface: 0, options: [ABSENT; SLOTS] }
}

/// Whether an address is of this machine or its link, or where clouds keep what machines may know of themselves only.
fn is_local(addr: IpAddr) -> bool {
    /// Addresses of metadata services that are no link-local ones.
    const METADATA: [IpAddr; 5] = [
        IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
        IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
        IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
        IpAddr::V6(Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42)),
        IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
    ];
    let addr = match addr.to_canonical() {
        // What translators make IPv4 of (RFC 6052, section 2.1).
        IpAddr::V6(v6) if v6.segments()[..6] == [0x64, 0xff9b, 0, 0, 0, 0] => {
            let [.., a, b, c, d] = v6.octets();
            Ipv4Addr::new(a, b, c, d).into()
        }
        addr @ (IpAddr::V4(_) | IpAddr::V6(_)) => addr,
    };
    let own = match addr {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_link_local() || v4.octets()[0] == 0 || v4.is_broadcast(),
        // What is left of IPv4-compatible addresses (::/96) has ::1 and :: in it.
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.segments()[..6] == [0; 6],
    };
    own || addr.is_multicast() || METADATA.contains(&addr)
}

/// Shakes hands with a web server, as curl would: whether its certificate is revoked is not asked.
async fn shake_hands(stream: TcpStream, host: &str) -> Result<SslStream<TcpStream>, String> {
    let ssl =
        SslConnector::builder(SslMethod::tls_client()).and_then(|builder| builder.build().configure()?.into_ssl(host));
    let mut stream =
        SslStream::new(ssl.map_err(|error| error.to_string())?, stream).map_err(|error| error.to_string())?;
    Pin::new(&mut stream).connect().await.map_err(|error| format!("https: {error}"))?;
    Ok(stream)
}

/// Sends one request and reads its answer.
async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    wanted: &FetchRequest<'_>,
    uri: &Uri,
) -> Result<Reply, String> {
    let failed = |error: hyper::Error| error_chain(&error);
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
            return Ok(Reply::Redirect(next.ok_or("a redirect to nowhere")?.to_owned()));
        }
        if status != StatusCode::OK {
            return Err(format!("HTTP status {}", status.as_u16()));
        }
        let body = Limited::new(response.into_body(), wanted.most).collect().await;
        Ok(Reply::Body(body.map_err(|error| error.to_string())?.to_bytes()))
    };
    let (mut answer, mut connection) = (pin!(answer), pin!(connection));
    tokio::select! {
        biased;
        answered = &mut answer => answered,
        // What has come is still there to be read.
        _ended = &mut connection => answer.await,
    }
}

/// Target of a redirect: another URL, or a path of the same server.
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
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "168.63.129.16",
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
