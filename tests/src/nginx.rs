//! Debian's nginx, redis and PostgreSQL, and `openssl s_server`: peers that know nothing of us.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::{eventually, pki::Pki, server::closed_port};

/// redis' server. Debian has the same executable under several names, and looks at what it is called.
pub fn redis_server() -> Command {
    let mut command = Command::new("/usr/bin/redis-check-rdb");
    command.arg0("redis-server");
    command
}

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

    /// nginx with TLS ([`Self::nginx`]), and these lines in its `server` block.
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

    /// nginx that serves the files of a folder, in plaintext.
    pub fn nginx_files(folder: &Path) -> Self {
        let port = closed_port("127.0.0.1");
        // nginx's workers are of another user.
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).expect("it is ours");
        let own = folder.join(format!(".nginx-{port}"));
        fs::create_dir(&own).expect("the folder is ours");
        let config = format!(
            "daemon off; worker_processes 1; pid {dir}/pid; error_log stderr warn; events {{}}
            http {{
              access_log off;
              client_body_temp_path {dir}/b; proxy_temp_path {dir}/p; fastcgi_temp_path {dir}/f;
              uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;
              server {{ listen 127.0.0.1:{port}; root {root}; }}
            }}",
            dir = own.display(),
            root = folder.display(),
        );
        let file = own.join("nginx.conf");
        fs::write(&file, config).expect("the folder is ours");
        let mut command = Command::new("/usr/sbin/nginx");
        command.arg("-e").arg("stderr").arg("-p").arg(&own).arg("-c").arg(&file);
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

    /// redis, with these arguments after its port: `--port` or `--tls-port`.
    pub fn redis(folder: &Path, mut command: Command, port: u16, arguments: &[&str]) -> Self {
        command.args(["--bind", "127.0.0.1", "--save", "", "--loglevel", "warning", "--protected-mode", "no", "--dir"]);
        command.arg(folder).args(arguments);
        Self::start(command, port)
    }

    /// PostgreSQL with TLS and a database `postgres` of the user `postgres`, who needs no password.
    pub fn postgres(pki: &Pki, chain: &str, key: &str) -> Self {
        let port = closed_port("127.0.0.1");
        let folder = pki.folder().join(format!("postgres-{port}"));
        fs::create_dir(&folder).expect("the folder is ours");
        let owner =
            nix::unistd::User::from_name("postgres").expect("users can be read").expect("PostgreSQL is installed");
        let mine = |path: &Path, mode: u32| {
            std::os::unix::fs::chown(path, Some(owner.uid.as_raw()), Some(owner.gid.as_raw())).expect("root may");
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("root may");
        };
        mine(&folder, 0o700);
        fs::set_permissions(pki.folder(), fs::Permissions::from_mode(0o755)).expect("it is ours");
        for (from, to) in [(chain, "server.crt"), (key, "server.key")] {
            fs::copy(from, folder.join(to)).expect("both are there");
            mine(&folder.join(to), 0o600);
        }
        let versions = fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is installed").flatten().next();
        let binaries = versions.expect("one version is there").path().join("bin");
        let data = folder.join("data");
        let run = |name: &str| {
            let mut command = Command::new(binaries.join(name));
            command.uid(owner.uid.as_raw()).gid(owner.gid.as_raw()).env("LC_ALL", "C").current_dir(&folder);
            command
        };
        let made =
            run("initdb").args(["-A", "trust", "-N", "-U", "postgres", "-D"]).arg(&data).output().expect("it runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let mut server = run("postgres");
        server.arg("-D").arg(&data).args([
            "-p",
            &port.to_string(),
            "-h",
            "127.0.0.1",
            "-c",
            "fsync=off",
            "-c",
            "ssl=on",
        ]);
        for setting in ["unix_socket_directories", "ssl_cert_file", "ssl_key_file"] {
            let file = match setting {
                "ssl_cert_file" => "server.crt",
                "ssl_key_file" => "server.key",
                _ => ".",
            };
            server.arg("-c").arg(format!("{setting}={}", folder.join(file).display()));
        }
        Self::start(server, port)
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
