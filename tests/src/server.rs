//! Peers of ours, from well-behaved to hostile: a thread for each connection.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use openssl::ssl::{ShutdownState, Ssl, SslAcceptor, SslContext, SslMethod, SslStream, SslVersion};

use crate::pki::{Identity, Leaf, Pki};

/// A listening server. Its threads end with the test.
pub struct Server {
    pub addr: SocketAddr,
    accepted: Arc<AtomicUsize>,
}

impl Server {
    /// Hands every TCP connection to `serve`, on a thread of its own.
    pub fn tcp(addr: &str, serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let addr: IpAddr = addr.parse().expect("an address");
        let listener = TcpListener::bind((addr, 0)).expect("loopback has ports");
        // The standard library's backlog of 128 is too short for hundreds of connects at once.
        nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(1024).expect("allowed")).expect("bound");
        let addr = listener.local_addr().expect("bound");
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&accepted);
        let serve = Arc::new(serve);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                count.fetch_add(1, Ordering::SeqCst);
                let serve = Arc::clone(&serve);
                thread::spawn(move || serve(stream));
            }
        });
        Self { addr, accepted }
    }

    /// Hands every TLS connection, after its handshake, to `serve`. Handshakes that fail are dropped.
    pub fn tls(addr: &str, context: SslContext, serve: impl Fn(SslStream<TcpStream>) + Send + Sync + 'static) -> Self {
        Self::tcp(addr, move |stream| {
            if let Some(stream) = handshake(&context, stream) {
                serve(stream);
            }
        })
    }

    /// An echo server over TLS.
    pub fn echo(addr: &str, identity: &Identity) -> Self {
        Self::tls(addr, context(identity), echo)
    }

    /// TCP connections that were accepted so far.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// The port as an argument.
    pub fn port(&self) -> String {
        self.addr.port().to_string()
    }

    /// The address as an argument.
    pub fn host(&self) -> String {
        self.addr.ip().to_string()
    }
}

/// A CA, and an echo server on 127.0.0.1 that has a certificate of it for this name.
pub fn echo_peer(name: &str) -> (Pki, Server) {
    let pki = Pki::new();
    let server = Server::echo("127.0.0.1", &pki.leaf(Leaf::of(&[name])));
    (pki, server)
}

/// Shakes hands as a server.
pub fn handshake(context: &SslContext, stream: TcpStream) -> Option<SslStream<TcpStream>> {
    let _off = stream.set_nodelay(true);
    let mut stream = SslStream::new(Ssl::new(context).expect("the context is good"), stream).expect("it is a stream");
    stream.accept().ok()?;
    Some(stream)
}

/// Sends back what it gets, and ends in order after the other side.
pub fn echo(mut stream: SslStream<TcpStream>) {
    let mut buffer = [0; 16384];
    while let Ok(read @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..read]).is_err() {
            return;
        }
    }
    let _gone = stream.shutdown();
}

/// Reads to the end, then answers with how much it was: only a half-closed connection gets it.
pub fn count_then_answer(mut stream: SslStream<TcpStream>) {
    let mut buffer = [0; 16384];
    let mut total = 0;
    while let Ok(read @ 1..) = stream.read(&mut buffer) {
        total += read;
    }
    if stream.get_shutdown().contains(ShutdownState::RECEIVED) {
        let _gone = stream.write_all(format!("{total} bytes").as_bytes());
        let _gone = stream.shutdown();
    }
}

/// TLS 1.2 and 1.3 with this identity.
pub fn context(identity: &Identity) -> SslContext {
    context_with(identity, |_acceptor| {})
}

/// TLS 1.2 and 1.3 with this identity, changed by `change`.
pub fn context_with(identity: &Identity, change: impl FnOnce(&mut openssl::ssl::SslAcceptorBuilder)) -> SslContext {
    let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server()).expect("OpenSSL works");
    acceptor.set_min_proto_version(Some(SslVersion::TLS1_2)).expect("TLS 1.2 is there");
    acceptor.set_private_key(&identity.key).expect("the key is good");
    acceptor.set_certificate(&identity.certificate).expect("the certificate is good");
    for certificate in &identity.intermediates {
        acceptor.add_extra_chain_cert(certificate.clone()).expect("the certificate is good");
    }
    acceptor.set_session_id_context(b"ssa-tests").expect("short");
    change(&mut acceptor);
    acceptor.build().into_context()
}

/// Closes with a reset.
pub fn reset(stream: &TcpStream) {
    let _off = socket2::SockRef::from(stream).set_linger(Some(std::time::Duration::ZERO));
}

/// Ends TCP without `close_notify`: what an attacker on the way can do.
pub fn truncate(stream: &SslStream<TcpStream>) {
    let _gone = stream.get_ref().shutdown(Shutdown::Write);
}

/// A port on loopback that nobody listens on.
pub fn closed_port(addr: &str) -> u16 {
    let addr: IpAddr = addr.parse().expect("an address");
    TcpListener::bind((addr, 0)).expect("loopback has ports").local_addr().expect("bound").port()
}

/// Values that server threads leave for the test.
pub type Shared<T> = Arc<Mutex<T>>;
