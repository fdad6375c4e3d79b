//! `ssa-agent probe`: application of the self-test. Knows only sockets.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    process::ExitCode,
    time::Instant,
};

use anyhow::{Context as _, Result};
use socket2::{Domain, Socket, Type};
use ssa_common::uapi;

use crate::sys::sockopt::{tls_get, tls_set};

/// Connect to the server of a self-test
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The server's address
    addr: SocketAddr,
    /// The server's name
    name: String,
    /// PEM of the only trusted CA
    #[arg(allow_hyphen_values = true)]
    ca: String,
    /// The errno with which it must be refused, before a SYN is sent again
    #[arg(long)]
    refused: Option<i32>,
}

/// Runs `ssa-agent probe`: connects, fetches a line, and prints what the socket answers about its peer; or fails unless
/// connect is refused as expected.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let socket = Socket::new(Domain::for_address(args.addr), Type::STREAM, None)?;
    tls_set(&socket, uapi::TLS_HOSTNAME, &args.name).context("setting TLS_HOSTNAME")?;
    tls_set(&socket, uapi::TLS_TRUSTED_PEER_CERTIFICATES, &args.ca).context("setting the trusted CA")?;
    let began = Instant::now();
    if let Some(errno) = args.refused {
        let result = socket.connect(&args.addr.into());
        let came = result.err().and_then(|error| error.raw_os_error());
        let took = began.elapsed();
        let in_time = came == Some(errno) && took < std::time::Duration::from_secs(1);
        anyhow::ensure!(in_time, "after {took:?} connect gave errno {came:?} instead of {errno}");
        return Ok(ExitCode::SUCCESS);
    }
    if let Err(error) = socket.connect(&args.addr.into()) {
        let why = tls_get(&socket, uapi::TLS_ERROR).unwrap_or_default();
        return Err(error).with_context(|| format!("connecting: {}", String::from_utf8_lossy(&why)));
    }
    let took = began.elapsed();
    let cipher = tls_get(&socket, uapi::TLS_CHOSEN_CIPHER)?;
    let version = tls_get(&socket, uapi::TLS_VERSION_CONN)?;
    let mut stream = TcpStream::from(socket);
    stream.write_all(b"hello\n")?;
    let mut line = String::new();
    stream.read_to_string(&mut line)?;
    anyhow::ensure!(line == "hello\n", "the server's answer was {line:?}");
    let cipher = String::from_utf8_lossy(&cipher);
    let version = match version[..] {
        [4, 3, ..] => "TLS 1.3",
        _ => "TLS 1.2",
    };
    println!(
        "ssa-agent: it works: peer {} ({}), {version}, {}, connect took {:.1} ms",
        args.name,
        args.addr,
        cipher.trim_end_matches('\0'),
        took.as_secs_f64() * 1e3
    );
    Ok(ExitCode::SUCCESS)
}
