//! A strict reader of the OpenMetrics text format (1.0.0): what it reads, every scraper reads.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use super::daemon::Daemon;
use super::wait::until;

/// The series of one scrape by name and labels, as written.
pub(crate) struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    /// From the daemon's socket.
    #[track_caller]
    pub(crate) fn scrape(daemon: &Daemon) -> Self {
        let mut stream = UnixStream::connect(daemon.socket()).expect("a daemon that listens");
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: agentctl\r\nConnection: close\r\n\r\n")
            .expect("a daemon that reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("a daemon that answers");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        let kind = "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8";
        assert!(head.to_ascii_lowercase().lines().any(|line| line == kind), "{head}");
        Self::read(body)
    }

    #[track_caller]
    pub(crate) fn get(&self, series: &str) -> f64 {
        *self.0.get(series).unwrap_or_else(|| panic!("no {series} among {:?}", self.0.keys()))
    }

    #[track_caller]
    fn read(text: &str) -> Self {
        let body = text.strip_suffix("# EOF\n").unwrap_or_else(|| panic!("no end: {text}"));
        let (mut series, mut families) = (BTreeMap::new(), BTreeSet::new());
        let mut family = Family::default();
        for line in body.lines() {
            let described = line.strip_prefix("# ").map(|rest| {
                let mut words = rest.splitn(3, ' ');
                (words.next().unwrap_or_default(), words.next().unwrap_or_default(), words.next())
            });
            let Some((what, name, value)) = described else {
                let (name, value) = sample(line);
                assert!(family.allows(name), "{line:?} is no sample of {family:?}");
                let value: f64 = value.parse().unwrap_or_else(|_| panic!("no number in {line:?}"));
                assert!(series.insert(name.to_owned(), value).is_none(), "{name} came twice");
                continue;
            };
            if name != family.name {
                assert!(families.insert(name.to_owned()), "the family {name} is not in one piece");
                family = Family { name: name.to_owned(), ..Family::default() };
            }
            let slot = match what {
                "HELP" => &mut family.help,
                "TYPE" => &mut family.kind,
                _ => panic!("an unknown comment: {line:?}"),
            };
            let value = value.filter(|value| !value.is_empty()).unwrap_or_else(|| panic!("empty: {line:?}"));
            assert!(slot.replace(value.to_owned()).is_none(), "twice: {line:?}");
        }
        let metrics = Self(series);
        metrics.check_histogram("agentctl_session_duration_seconds");
        metrics.check_histogram("agentctl_session_memory_peak_bytes");
        metrics
    }

    #[track_caller]
    fn check_histogram(&self, name: &str) {
        let prefix = format!("{name}_bucket{{le=\"");
        let mut buckets: Vec<(f64, f64)> = Vec::new();
        for (series, count) in &self.0 {
            let Some(bound) = series.strip_prefix(&prefix) else { continue };
            let bound = bound.strip_suffix("\"}").expect("one label");
            buckets.push((bound.parse().expect("a bound is a number"), *count));
        }
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        assert!(buckets.is_sorted_by(|a, b| a.1 <= b.1), "buckets are cumulative: {buckets:?}");
        let last = buckets.last().copied().expect("a histogram has buckets");
        assert_eq!(last, (f64::INFINITY, self.get(&format!("{name}_count"))));
        assert!(self.get(&format!("{name}_sum")) >= 0.0);
    }
}

/// Name with labels, and value.
#[track_caller]
fn sample(line: &str) -> (&str, &str) {
    let (name, value) =
        line.rsplit_once(' ').unwrap_or_else(|| panic!("neither comment nor sample: {line:?}"));
    let plain = name.split('{').next().unwrap_or_default();
    let good = |c: char| c.is_ascii_alphanumeric() || c == '_';
    assert!(!plain.is_empty() && plain.chars().all(good), "{line:?}");
    assert!(!plain.contains(char::is_whitespace) && (name == plain || name.ends_with("\"}")), "{line:?}");
    (name, value)
}

#[derive(Debug, Default)]
struct Family {
    name: String,
    help: Option<String>,
    kind: Option<String>,
}

impl Family {
    /// Whether a sample belongs to the family that was described last, completely.
    fn allows(&self, sample: &str) -> bool {
        let suffixes: &[&str] = match self.kind.as_deref() {
            Some("gauge") => &[""],
            Some("counter") => &["_total"],
            Some("histogram") => &["_bucket", "_count", "_sum"],
            _ => return false,
        };
        let plain = sample.split('{').next().unwrap_or_default();
        self.help.is_some() && plain.strip_prefix(&self.name).is_some_and(|suffix| suffixes.contains(&suffix))
    }
}

/// Waits until no delivery is owed: then no webhook is under way and none will follow.
#[track_caller]
pub(crate) fn nothing_owed(daemon: &Daemon) {
    until("the last delivery to be over", || {
        (Metrics::scrape(daemon).get("agentctl_deliveries_pending") == 0.0).then_some(())
    });
}
