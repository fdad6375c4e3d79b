//! Monitor: answers by HTTP whether the agent is ready and alive, and its metrics.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context as _, Result};
use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse as _, Response},
    routing::get,
};
use tokio::{net::TcpListener, task::AbortHandle};
use tracing::{error, info};

use super::{
    health::Health,
    metrics::{Metrics, Snapshot},
};

/// Parts that the answers are made of.
struct Monitor<S> {
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    snapshot: S,
}

/// Answers HTTP on an address, in a task that the returned handle ends. `snapshot` reads what only the running agent
/// knows. Errors: the address can't be bound.
pub(crate) async fn serve(
    at: SocketAddr,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    snapshot: impl Fn() -> Snapshot + Send + Sync + 'static,
) -> Result<AbortHandle> {
    let listener = TcpListener::bind(at).await.with_context(|| format!("`listen` of [monitor], {at}"))?;
    info!(at = %listener.local_addr()?, "metrics are at /metrics, health at /healthz/ready and /healthz/live");
    let router = router(Arc::new(Monitor { health, metrics, snapshot }));
    let serving = tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            error!(%error, "metrics and health are no longer served");
        }
    });
    Ok(serving.abort_handle())
}

fn router<S: Fn() -> Snapshot + Send + Sync + 'static>(monitor: Arc<Monitor<S>>) -> Router {
    Router::new()
        .route("/metrics", get(async |State(monitor): State<Arc<Monitor<S>>>| metrics(&monitor)))
        .route("/healthz/ready", get(async |State(monitor): State<Arc<Monitor<S>>>| probe(monitor.health.is_ready())))
        .route("/healthz/live", get(async |State(monitor): State<Arc<Monitor<S>>>| probe(monitor.health.is_alive())))
        .with_state(monitor)
}

fn metrics<S: Fn() -> Snapshot>(monitor: &Monitor<S>) -> Response {
    match monitor.metrics.text(&(monitor.snapshot)()) {
        Ok(text) => ([(CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

fn probe(good: bool) -> (StatusCode, &'static str) {
    if good { (StatusCode::OK, "yes\n") } else { (StatusCode::SERVICE_UNAVAILABLE, "no\n") }
}
