//! Log of the agent.

use std::{
    io::{IsTerminal as _, stderr},
    os::fd::AsFd as _,
};

use tracing::Level;
use tracing_subscriber::{EnvFilter, filter::Directive, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// Starts logging of what `filter` lets through: to the journal if standard error is one, else to standard error. To be
/// called once. Errors: a bad filter.
pub(in crate::cli) fn start_logging(filter: &str) -> anyhow::Result<()> {
    let mut filter = EnvFilter::builder().with_default_directive(Directive::from(Level::INFO)).parse(filter)?;
    // They tell of every bad line of a file that applications bring.
    for target in ["hickory_resolver=error", "hickory_net=error", "hickory_proto=error", "resolv_conf=error"] {
        filter = filter.add_directive(target.parse()?);
    }
    let registry = tracing_subscriber::registry().with(filter);
    if is_journal()
        && let Ok(journal) = tracing_journald::layer()
    {
        registry.with(journal.with_field_prefix(Some("SSA".to_owned()))).init();
    } else {
        let ansi = stderr().is_terminal();
        registry.with(tracing_subscriber::fmt::layer().with_writer(stderr).with_ansi(ansi)).init();
    }
    Ok(())
}

/// Whether standard error goes to the journal (`JOURNAL_STREAM`, systemd.exec(5)): it takes fields as fields.
fn is_journal() -> bool {
    let stream = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    let own = nix::sys::stat::fstat(stderr().as_fd());
    own.is_ok_and(|own| stream == format!("{}:{}", own.st_dev, own.st_ino))
}
