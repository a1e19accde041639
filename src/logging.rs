//! Where the daemon's own lines go: the systemd journal with fields, a terminal as text, or JSON.
//!
//! Owns the choice and the two formats that are not a library's. Refuses to know what is worth saying. A line that
//! cannot be written is lost: told on stderr, which is where it could not be written, the loss would be a panic.

use std::fmt::{Debug, Write as _};
use std::io::IsTerminal;
use std::sync::Arc;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::sys::journald::Journald;
use crate::wire::journald::Entry;

/// Starts logging. `journal`: where it goes unless `AGENTCTL_LOG_FORMAT` asks for `text` or `json` on stderr.
pub fn start(journal: Option<Arc<Journald>>) {
    let filter = EnvFilter::try_from_env("AGENTCTL_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let format = std::env::var("AGENTCTL_LOG_FORMAT").unwrap_or_default();
    if let Some(journal) = journal.filter(|_| !matches!(format.as_str(), "json" | "text")) {
        tracing_subscriber::registry().with(filter).with(ToJournal(journal)).init();
        return;
    }
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colour);
    let builder = builder.log_internal_errors(false);
    if format == "json" { builder.json().init() } else { builder.init() }
}

/// One entry a line; each field by itself, so that `journalctl AGENTCTL_SESSION_ID=...` finds what concerns a session.
struct ToJournal(Arc<Journald>);

impl<S: Subscriber> Layer<S> for ToJournal {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = Line::default();
        event.record(&mut line);
        let meta = event.metadata();
        let mut entry = Entry::new(&line.text, priority(*meta.level()));
        entry.push("AGENTCTL_TARGET", meta.target());
        for (name, value) in &line.fields {
            entry.push(name, value);
        }
        let lost = self.0.take_lost();
        if lost > 0 {
            entry.push("AGENTCTL_ENTRIES_LOST", &lost.to_string());
        }
        self.0.send(&entry.encode());
    }
}

fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

/// A line taken apart.
#[derive(Default)]
struct Line {
    text: String,
    fields: Vec<(String, String)>,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            // Writing into a text cannot fail.
            let _infallible = write!(self.text, "{value:?}");
            return;
        }
        let name = match field.name() {
            "session" => "AGENTCTL_SESSION_ID".to_owned(),
            other => format!("AGENTCTL_{other}"),
        };
        self.fields.push((name, format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        // Without the quotes of its debug form.
        self.record_debug(field, &format_args!("{value}"));
    }
}
