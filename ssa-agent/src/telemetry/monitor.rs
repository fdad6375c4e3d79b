//! What machines ask: whether the agent is ready and alive, and its metrics. To systemd it says the same by itself.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use sd_notify::NotifyState;
use tokio::{net::TcpListener, task::AbortHandle, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info};

use crate::app::run::Agent;

/// Whether the agent does what it is for.
#[derive(Default)]
pub(crate) struct Health(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    ready: bool,
    /// When the hooks' events were last looked at.
    beat: Option<Instant>,
}

/// Events are looked at every 100 ms; an agent that did not for so long hangs.
const BEAT_LIMIT: Duration = Duration::from_secs(10);

impl Health {
    /// From here on sockets connect; or no longer.
    pub(crate) fn set_ready(&self, ready: bool) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).ready = ready;
    }

    /// The events were looked at.
    pub(crate) fn beat(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).beat = Some(Instant::now());
    }

    fn is_ready(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).ready && self.is_alive()
    }

    fn is_alive(&self) -> bool {
        // Before the first, it is about to begin.
        self.last_beat().is_none_or(|beat| beat.elapsed() < BEAT_LIMIT)
    }

    /// As [`Self::is_alive`], and it has begun: the service manager was told that it is ready.
    fn beats(&self) -> bool {
        self.last_beat().is_some_and(|beat| beat.elapsed() < BEAT_LIMIT)
    }

    fn last_beat(&self) -> Option<Instant> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).beat
    }
}

/// Answers HTTP on an address, for as long as the agent runs.
pub(crate) async fn serve(agent: Arc<Agent>, at: SocketAddr) -> Result<AbortHandle> {
    let listener = TcpListener::bind(at).await.with_context(|| format!("`listen` of [monitor], {at}"))?;
    info!(at = %listener.local_addr()?, "metrics are at /metrics, health at /healthz/ready and /healthz/live");
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz/ready", get(async |State(agent): State<Arc<Agent>>| said(agent.health.is_ready())))
        .route("/healthz/live", get(async |State(agent): State<Arc<Agent>>| said(agent.health.is_alive())))
        .with_state(agent);
    let serving = tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            error!(%error, "metrics and health are no longer served");
        }
    });
    Ok(serving.abort_handle())
}

async fn metrics(State(agent): State<Arc<Agent>>) -> Response {
    match agent.metrics.text(&agent) {
        Ok(text) => ([(CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

fn said(good: bool) -> (StatusCode, &'static str) {
    if good { (StatusCode::OK, "yes\n") } else { (StatusCode::SERVICE_UNAVAILABLE, "no\n") }
}

/// Tells the service manager something, if there is one (sd_notify(3)).
pub(crate) fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        debug!(%error, "the service manager was not told");
    }
}

/// Tells the service manager that the agent lives, twice as often as it wants to hear it (`WatchdogSec=`).
pub(crate) async fn watchdog(agent: Arc<Agent>, stop: CancellationToken) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    while !stop.is_cancelled() {
        if agent.health.beats() {
            tell(&[NotifyState::Watchdog]);
        }
        let _stopped = stop.run_until_cancelled(sleep(limit / 2)).await;
    }
}
