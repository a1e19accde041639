//! Metrics: the core's plain numbers in the OpenMetrics text format, on the socket and on a loopback port.
//!
//! Names are those that dashboards of the earlier tool know. No ids, paths or prompts.

use std::convert::Infallible;
use std::rc::Rc;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::task::spawn_local;

use crate::core::counters::{Counters, DURATION_BOUNDS_S, MEMORY_BOUNDS_BYTES};
use crate::core::session::{Session, Status};
use crate::core::vocab::Wall;
use crate::limits;
use crate::sys::clock;

use super::Daemon;
use super::http::{Answer, whole};

/// The text of a scrape.
pub(super) fn answer(daemon: &Daemon) -> Response<Answer> {
    let numbers = Numbers::of(daemon);
    let mut registry = Registry::default();
    registry.register_collector(Box::new(numbers));
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &registry) {
        Ok(()) => {
            whole(StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", text.into())
        }
        Err(error) => whole(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", error.to_string().into()),
    }
}

/// Serves /metrics at the configured address. A taken port is a warning: supervision is more than its metrics.
pub(super) async fn serve(daemon: &Rc<Daemon>) {
    let Some(address) = daemon.config.borrow().metrics_addr.clone() else { return };
    let listener = match TcpListener::bind(&address).await {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!(
                "metrics are not served at {address}: {error}; set metrics_addr to another one, or null"
            );
            return;
        }
    };
    let daemon = Rc::clone(daemon);
    spawn_local(async move {
        let places = std::sync::Arc::new(tokio::sync::Semaphore::new(16));
        loop {
            let Ok(place) = std::sync::Arc::clone(&places).acquire_owned().await else { return };
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            };
            let daemon = Rc::clone(&daemon);
            spawn_local(async move {
                let service = service_fn(move |request: Request<hyper::body::Incoming>| {
                    let found = request.uri().path() == "/metrics" && request.method() == hyper::Method::GET;
                    let missing =
                        || whole(StatusCode::NOT_FOUND, "text/plain", "only /metrics is here\n".into());
                    let answer = if found { answer(&daemon) } else { missing() };
                    async move { Ok::<_, Infallible>(answer) }
                });
                let serving = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(limits::HEAD_TIMEOUT)
                    .keep_alive(false)
                    .serve_connection(TokioIo::new(stream), service);
                // A scraper that leaves early loses nothing but its answer.
                let _left = tokio::time::timeout(limits::BODY_TIMEOUT, serving).await;
                drop(place);
            });
        }
    });
}

/// The numbers at one moment.
#[derive(Debug)]
struct Numbers {
    counters: Counters,
    live: usize,
    fuses: usize,
    owed: usize,
    oldest_owed_s: f64,
    endpoints_paused: usize,
    journal_well: bool,
    idle: usize,
    lingering: usize,
    stuck: usize,
    queued: usize,
    locks_auto: usize,
    locks_manual: usize,
}

impl Numbers {
    fn of(daemon: &Daemon) -> Self {
        let core = daemon.core.borrow();
        let counted = |is: fn(&Session) -> bool| core.sessions().filter(|session| is(session)).count();
        let oldest: Option<Wall> = core.outbox().iter().map(|(_, delivery)| delivery.queued).min();
        Self {
            counters: core.counters().clone(),
            live: core.live(),
            fuses: core.dir_fuses().count(),
            owed: core.outbox().len(),
            oldest_owed_s: oldest.map_or(0.0, |oldest| clock::now().wall.since(oldest).as_secs_f64()),
            endpoints_paused: core
                .settings()
                .endpoints
                .iter()
                .filter(|endpoint| !core.is_served(&endpoint.name))
                .count(),
            idle: counted(|session| session.status(false) == Status::Idle),
            lingering: counted(|session| session.lingers_since().is_some()),
            stuck: counted(|session| session.stuck_since().is_some()),
            queued: core.queued(),
            locks_auto: core.holders().len(),
            locks_manual: core.manual_locks().len(),
            journal_well: *core.journal() == crate::core::JournalHealth::Well,
        }
    }
}

impl Collector for Numbers {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let c = &self.counters;
        let gauges = [
            ("agentctl_sessions_active", "Sessions without a verdict", self.live as f64),
            ("agentctl_sessions_queued", "Sessions that wait for their turn", self.queued as f64),
            ("agentctl_sessions_idle", "Sessions whose agent waits for input", self.idle as f64),
            (
                "agentctl_sessions_lingering",
                "Sessions whose agent is done by its own word and has not exited",
                self.lingering as f64,
            ),
            ("agentctl_sessions_stuck", "Sessions that show no sign of life", self.stuck as f64),
            ("agentctl_fuses_active", "Directory fuses that burn", self.fuses as f64),
            ("agentctl_deliveries_pending", "Webhook deliveries that are owed", self.owed as f64),
            (
                "agentctl_delivery_oldest_seconds",
                "Age of the oldest delivery that is owed",
                self.oldest_owed_s,
            ),
            (
                "agentctl_webhook_endpoints_paused",
                "Endpoints that nothing is sent to",
                self.endpoints_paused as f64,
            ),
            (
                "agentctl_journal_writable",
                "1 when records can be made durable",
                f64::from(u8::from(self.journal_well)),
            ),
        ];
        for (name, help, value) in gauges {
            let metric = ConstGauge::new(value);
            metric.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        let mut locks = encoder.encode_descriptor(
            "agentctl_locks_active",
            "Directories that are taken, by sessions or by hand",
            None,
            MetricType::Gauge,
        )?;
        for (kind, count) in [("auto", self.locks_auto), ("manual", self.locks_manual)] {
            let label = [("type", kind)];
            ConstGauge::new(count as f64).encode(locks.encode_family(&label)?)?;
        }
        let mut ended = encoder.encode_descriptor(
            "agentctl_sessions",
            "Ended sessions by outcome",
            None,
            MetricType::Counter,
        )?;
        for (outcome, count) in [
            ("completed", c.completed),
            ("failed", c.failed),
            ("stopped", c.cancelled),
            ("timed_out", c.timed_out),
            ("launch_failed", c.launch_failed),
            ("lost", c.lost),
        ] {
            let label = [("status", outcome)];
            ConstCounter::new(count).encode(ended.encode_family(&label)?)?;
        }
        let counters = [
            ("agentctl_launches", "Launches accepted", c.launches),
            (
                "agentctl_sessions_oom_killed",
                "Ended sessions whose leader the kernel killed for want of memory",
                c.oom_killed,
            ),
            (
                "agentctl_session_oom_kills",
                "Processes of ended sessions that the kernel killed for want of memory, as far as known",
                c.oom_kills,
            ),
            ("agentctl_fuses_expired", "Directory fuses that fired", c.fuses_expired),
            ("agentctl_webhook_deliveries", "Webhook deliveries entered", c.deliveries),
            ("agentctl_webhook_attempts", "Attempts made", c.attempts),
            ("agentctl_webhook_attempts_failed", "Attempts that were not accepted", c.attempts_failed),
            ("agentctl_webhook_deliveries_dead", "Deliveries given up", c.deliveries_dead),
            ("agentctl_session_lingering", "Spells in which an agent lived on after its work", c.lingering),
            ("agentctl_session_stuck", "Spells in which a session showed no sign of life", c.stuck),
            (
                "agentctl_exit_files_rejected",
                "Exit files that the kernel or the record contradicted",
                c.exit_files_rejected,
            ),
            (
                "agentctl_journal_write_failures",
                "Times that the journal could not be written, tries anew included",
                c.journal_failures,
            ),
            (
                "agentctl_evidence_disagreements",
                "Evidence that disagreed with a known status",
                c.disagreements,
            ),
        ];
        for (name, help, value) in counters {
            let metric = ConstCounter::new(value);
            metric.encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)?;
        }
        ConstCounter::new(c.cpu_us as f64 / 1e6).encode(encoder.encode_descriptor(
            "agentctl_session_cpu_seconds",
            "CPU time of ended sessions, as far as known",
            None,
            MetricType::Counter,
        )?)?;
        let memory = MEMORY_BOUNDS_BYTES.map(|bytes| bytes as f64);
        for (name, help, bounds, counts, sum) in [
            (
                "agentctl_session_duration_seconds",
                "Durations of ended sessions",
                DURATION_BOUNDS_S,
                c.durations,
                c.duration_sum_s,
            ),
            (
                "agentctl_session_memory_peak_bytes",
                "The most memory that ended sessions had at a time, of those whose cgroup tells",
                memory,
                c.memory_peaks,
                c.memory_peak_sum_bytes as f64,
            ),
        ] {
            let buckets: Vec<(f64, u64)> = bounds.into_iter().chain([f64::INFINITY]).zip(counts).collect();
            let mut histogram = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
            histogram.encode_histogram::<NoLabelSet>(sum, counts.iter().sum(), &buckets, None)?;
        }
        Ok(())
    }
}
