//! Debian's nginx, and `openssl s_server`: peers that know nothing of us.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::{eventually, pki::Pki, server::closed_port};

/// A server in a process of its own, on 127.0.0.1. Ends when it is dropped.
pub struct Peer {
    child: Child,
    pub port: u16,
}

impl Peer {
    /// nginx with TLS: serves `ssa\n` at `/`.
    pub fn nginx(pki: &Pki, chain: &str, key: &str) -> Self {
        Self::nginx_with(pki, chain, key, "")
    }

    /// As [`Self::nginx`], with these lines in its `server` block.
    pub fn nginx_with(pki: &Pki, chain: &str, key: &str, lines: &str) -> Self {
        let port = closed_port("127.0.0.1");
        let folder = pki.folder().join(format!("nginx-{port}"));
        fs::create_dir(&folder).expect("the folder is ours");
        let config = format!(
            "daemon off; worker_processes 1; pid {dir}/pid; error_log stderr warn;
            events {{ worker_connections 4096; }}
            http {{
              access_log off; keepalive_timeout 30;
              client_body_temp_path {dir}/b; proxy_temp_path {dir}/p; fastcgi_temp_path {dir}/f;
              uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;
              ssl_session_cache shared:s:1m; ssl_protocols TLSv1.2 TLSv1.3;
              server {{
                listen 127.0.0.1:{port} ssl http2; listen [::1]:{port} ssl http2; {lines}
                ssl_certificate {chain}; ssl_certificate_key {key};
                location / {{ return 200 \"ssa $ssl_protocol $ssl_server_name $ssl_session_reused $ssl_client_s_dn\\n\"; }}
              }}
            }}",
            dir = folder.display(),
        );
        let file = folder.join("nginx.conf");
        fs::write(&file, config).expect("the folder is ours");
        let mut command = Command::new("/usr/sbin/nginx");
        command.arg("-e").arg("stderr").arg("-p").arg(&folder).arg("-c").arg(&file);
        Self::start(command, port)
    }

    /// `openssl s_server` with these extra arguments; echoes lines in reverse.
    pub fn s_server(chain: &str, key: &str, arguments: &[&str]) -> Self {
        let port = closed_port("127.0.0.1");
        let mut command = Command::new("openssl");
        command.args(["s_server", "-quiet", "-rev", "-accept", &format!("127.0.0.1:{port}")]);
        command.args(["-cert", chain, "-cert_chain", chain, "-key", key]).args(arguments);
        Self::start(command, port)
    }

    fn start(mut command: Command, port: u16) -> Self {
        let child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it is installed");
        let mut peer = Self { child, port };
        let addr = SocketAddr::from(([127, 0, 0, 1], port));
        eventually("the peer listens", Duration::from_secs(10), || {
            assert!(matches!(peer.child.try_wait(), Ok(None)), "the peer ended");
            TcpStream::connect(addr).is_ok()
        });
        peer
    }

    /// The port as an argument.
    pub fn port(&self) -> String {
        self.port.to_string()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // nginx's master ends its workers on SIGTERM, and would orphan them on SIGKILL.
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).expect("pids are small"));
        let _gone = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _gone = self.child.wait();
    }
}
