//! A client that checks, and peers whose certificates name responders and lists.

use std::{path::Path, time::Duration};

use serde_json::json;
use ssa_tests::{
    agent::Agent,
    app::App,
    config::Config,
    pki::{Identity, Leaf, Pki},
    report,
    server::{self, Server},
    status::{Known, Setup, response},
};

pub(crate) const NAME: &str = "peer.ssa.test";

/// Configuration of these tests: responders are on this machine, and answers are not kept. Ends in the section `[revocation]`.
pub(crate) fn local() -> Config {
    local_with(1, "")
}

/// Configuration of [`local`] with other values: seconds that a fetch may take, and a folder that answers are kept in.
pub(crate) fn local_with(fetch_seconds: u16, folder: &str) -> Config {
    let cache = Config::section("cache").set("directory", folder);
    cache.and(Config::section("revocation")).set("fetch_local", true).set("fetch_seconds", fetch_seconds)
}

/// An answer that says for how long it counts.
pub(crate) const FOR_AN_HOUR: Setup<'_> = Setup { at: None, arguments: &["-nmin", "60"] };

pub(crate) const HOUR: (i64, i64) = (-60, 3600);

/// Ways that may answer.
#[derive(Clone, Copy, Default)]
pub(crate) struct Ways {
    pub(crate) stapled: bool,
    pub(crate) ocsp: bool,
    pub(crate) crl: bool,
    pub(crate) cached: bool,
}

pub(crate) const STAPLED: Ways = Ways { stapled: true, ocsp: false, crl: false, cached: false };

pub(crate) const OCSP: Ways = Ways { ocsp: true, stapled: false, ..STAPLED };

pub(crate) const CRL: Ways = Ways { crl: true, stapled: false, ..STAPLED };

pub(crate) const BOTH: Ways = Ways { ocsp: true, ..CRL };

pub(crate) const CACHED: Ways = Ways { cached: true, stapled: false, ..STAPLED };

impl Ways {
    /// Values of the four options, as the application is told them.
    pub(crate) fn options(self) -> String {
        let number = |on: bool| u8::from(on);
        let Self { stapled, ocsp, crl, cached } = self;
        format!("{} {} {} {}", number(stapled), number(ocsp), number(crl), number(cached))
    }
}

/// Connects for each line that it is told: port, and the four ways.
pub(crate) const SCRIPT: &str = r#"
host, ca = args
for line in sys.stdin:
    port, *ways = line.split()
    sock = tls(host, ca)
    sock.setsockopt(IPPROTO_TLS, TLS_REVOCATION_CHECKS, 1)
    for option, way in zip(range(TLS_OCSP_STAPLED_CHECKS, TLS_CACHED_REV_CHECKS + 1), ways):
        sock.setsockopt(IPPROTO_TLS, option, int(way))
    came = connect(sock, "127.0.0.1", port)
    out([came["result"], came["error"], came["ms"]])
    sock.close()
"#;

pub(crate) struct Scene {
    pub(crate) pki: Pki,
    pub(crate) agent: Agent,
    pub(crate) application: App,
}

impl Scene {
    pub(crate) fn new() -> Self {
        Self::with(local())
    }

    pub(crate) fn with(config: Config) -> Self {
        let pki = Pki::new();
        let agent = Agent::start_with(config);
        let application = App::start(&agent, SCRIPT, &[NAME, &pki.ca()]);
        Self { pki, agent, application }
    }

    /// Keeps answers in a folder from now on.
    pub(crate) fn keep_answers_in(&mut self, folder: &Path) {
        self.agent.configure(local_with(1, folder.to_str().unwrap()));
        self.restart();
    }

    /// Another agent in the place of this one, after its end.
    pub(crate) fn restart(&mut self) {
        self.application.kill();
        self.agent.stop();
        self.agent.restart();
        self.application = App::start(&self.agent, SCRIPT, &[NAME, &self.pki.ca()]);
    }

    pub(crate) fn root(&self) -> &Identity {
        self.pki.root()
    }

    pub(crate) fn folder(&self) -> &Path {
        self.pki.folder()
    }

    /// A certificate that names these.
    pub(crate) fn leaf(&self, ocsp: Option<&str>, crl: Option<&str>) -> Identity {
        let ocsp = ocsp.map(|url| format!("OCSP;URI:{url}"));
        let crl = crl.map(|url| format!("URI:{url}"));
        let both = [("authorityInfoAccess", &ocsp), ("crlDistributionPoints", &crl)];
        let extensions: Vec<(&str, &str)> =
            both.iter().filter_map(|(name, value)| Some((*name, value.as_deref()?))).collect();
        self.pki.leaf(Leaf::of(&[NAME]).with(&extensions))
    }

    pub(crate) fn connect(&mut self, peer: &Server, ways: Ways) -> (String, String) {
        let (result, text, ms) = self.timed(peer, ways);
        // The handshake's limit is 2 s; then comes the refusal.
        assert!(ms < ssa_tests::long(Duration::from_millis(2500)).as_secs_f64() * 1e3, "{result} {text} after {ms} ms");
        (result, text)
    }

    pub(crate) fn timed(&mut self, peer: &Server, ways: Ways) -> (String, String, f64) {
        self.application.say(&format!("{} {}", peer.addr.port(), ways.options()));
        let said = self.application.said();
        let text = |index: usize| said[index].as_str().unwrap().to_owned();
        (text(0), text(1), said[2].as_f64().unwrap())
    }

    /// The row of a table, and what came of it.
    #[track_caller]
    pub(crate) fn row(&mut self, case: &str, peer: &Server, ways: Ways, errno: &str, want: &str) {
        let (result, text, ms) = self.timed(peer, ways);
        let came = json!({"result": result, "ms": ms, "error": text});
        report::errno(&format!("revocation: {case}"), &came);
        assert_eq!(result, errno, "{case}: {text}");
        assert!(text.contains(want), "{case}: {text}");
        assert!(ms < ssa_tests::long(Duration::from_millis(2500)).as_secs_f64() * 1e3, "{case}: {ms} ms");
    }
}

/// An echo server that staples this, if anything.
pub(crate) fn peer(identity: &Identity, staple: Option<Vec<u8>>) -> Server {
    let context = server::context_with(identity, |acceptor| {
        acceptor
            .set_status_callback(move |ssl| match &staple {
                Some(der) => ssl.set_ocsp_status(der).map(|()| true),
                None => Ok(false),
            })
            .unwrap();
    });
    Server::tls("127.0.0.1", context, server::echo)
}

pub(crate) fn answer_of(
    scene: &Scene,
    of: &Identity,
    issuer: &Identity,
    signer: &Identity,
    setup: Setup<'_>,
) -> Vec<u8> {
    response(scene.folder(), &issuer.certificate, signer, &of.certificate, Known::Good, setup)
}
