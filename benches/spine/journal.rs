//! A journal with a million events, and ten thousand deliveries that are owed.

use std::fs;
use std::io::BufRead;
use std::time::Duration;

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::commands::run_one;
use crate::daemon::Daemon;
use crate::history::History;
use crate::launches::timed;
use crate::proc::{self, mono_ns};
use crate::report::{Report, Spread};
use crate::webhooks::Receiver;
use crate::{Extent, Outcome};

pub(crate) fn measure(extent: &Extent, report: &mut Report) -> Outcome<()> {
    many_events(extent.events, report)?;
    many_deliveries(if extent.quick { 500 } else { 10_000 }, report)
}

fn config() -> Value {
    json!({"metrics_addr": null, "durability": "normal"})
}

fn many_events(count: usize, report: &mut Report) -> Outcome<()> {
    let mut daemon = Daemon::start_with(config())?;
    run_one(&daemon)?;
    let few = Spread::of((0..5).map(|_| daemon.restart(&config(), |_| Ok(()))).collect::<Outcome<_>>()?);
    report.times("few events: start -> first answer", &few);
    eprintln!("{count} events are made ...");
    daemon.restart(&config(), |home| History::open(home)?.events(count))?;
    let size = fs::metadata(daemon.home().join("journal.db"))?.len();
    let name = |what: &str| format!("{count} events ({} MB): {what}", size >> 20);
    let starts = (0..5).map(|_| daemon.restart(&config(), |_| Ok(()))).collect::<Outcome<Vec<_>>>()?;
    // Its check of the file is given a limit of its own.
    report.times(&name("start -> first answer"), &Spread::of(starts));
    let mut client = daemon.client()?;
    let lists = (0..30).map(|_| timed(|| client.get("/v1/sessions?all=1").map(|_| ())));
    report.times(&name("GET /v1/sessions?all=1"), &Spread::of(lists.collect::<Outcome<_>>()?));
    let firsts = (0..30).map(|_| {
        timed(|| {
            let mut stream = daemon.client()?.into_events_since("0")?;
            stream.read_until(b'\n', &mut Vec::new())?;
            Ok(())
        })
    });
    report.times(&name("events since 0, the first line"), &Spread::of(firsts.collect::<Outcome<_>>()?));
    let begun = mono_ns();
    let mut stream = daemon.client()?.into_events_since("0")?;
    let (mut line, mut read, mut bytes) = (Vec::new(), 0, 0_usize);
    while read < count {
        line.clear();
        bytes += stream.read_until(b'\n', &mut line)?;
        read += usize::from(line.first() == Some(&b'{'));
    }
    let seconds = (mono_ns() - begun) as f64 / 1e9;
    let rate = count as f64 / seconds;
    let words = format!("{rate:.0} events/s, {:.0} MB/s", bytes as f64 / 1e6 / seconds);
    report.figure(&name("events since 0, all of them"), rate, words, None);
    let memory = proc::memory(daemon.pid())?;
    let words = format!("RSS {:.1} MB", memory.rss_kb as f64 / 1_024.0);
    let bounded = Some(("RSS < 32 MB".to_owned(), memory.rss_kb < 32 << 10));
    report.figure(&name("daemon's memory afterwards"), memory.rss_kb as f64, words, bounded);
    forgetting(&mut daemon, &name(""), report)
}

/// All events are older than what is kept: the next session that is forgotten takes them along.
fn forgetting(daemon: &mut Daemon, name: &str, report: &mut Report) -> Outcome<()> {
    daemon.restart(&config(), |home| {
        let db = Connection::open(home.join("journal.db"))?;
        Ok(db.execute_batch("UPDATE event SET at_us = 1")?)
    })?;
    let mut client = daemon.client()?;
    let took = timed(|| client.request("POST", "/v1/prune", "").map(|_| ()))?;
    // Whoever launches meanwhile waits for the same writer.
    let next = timed(|| client.launch(&["/bin/true"]).map(|_| ()))?;
    let ms = |ns: u64| ns as f64 / 1e6;
    let words = format!("{:.0} ms, and a launch behind it {:.0} ms", ms(took), ms(next));
    let aim = Some(("a launch waits 1 s at most".to_owned(), next <= 1_000_000_000));
    report.figure(&format!("{name}all forgotten by one prune"), ms(next), words, aim);
    let db = Connection::open(daemon.home().join("journal.db"))?;
    let pages = |what: &str| -> Outcome<u64> { Ok(db.pragma_query_value(None, what, |row| row.get(0))?) };
    let free = 100.0 * pages("freelist_count")? as f64 / pages("page_count")? as f64;
    let kept: u64 = db.query_row("SELECT count(*) FROM event", [], |row| row.get(0))?;
    let words = format!("{kept} events are kept; {free:.0} % of the file is free for what comes");
    report.figure(&format!("{name}the file afterwards"), free, words, None);
    if kept < 100 { Ok(()) } else { Err(format!("{kept} events outlived their retention").into()) }
}

/// Owed since before the daemon started, all due at once.
fn many_deliveries(count: usize, report: &mut Report) -> Outcome<()> {
    let receiver = Receiver::start()?;
    let url = format!("http://{}/webhook/bench", receiver.address);
    let config = json!({"metrics_addr": null, "durability": "normal", "webhook_url": url});
    let mut daemon = Daemon::start_with(config.clone())?;
    run_one(&daemon)?;
    receiver.seen.recv_timeout(crate::exits::PATIENCE)?;
    let begun = mono_ns();
    daemon.restart(&config, |home| History::open(home)?.owing_sessions(count))?;
    let (mut first, mut last) = (None, 0);
    for _ in 0..count {
        last = receiver.seen.recv_timeout(Duration::from_secs(30)).map_err(|_| "a delivery did not come")?.1;
        first.get_or_insert(last);
    }
    let rate = count as f64 / ((last - first.unwrap_or(begun)).max(1) as f64 / 1e9);
    let words = format!("{rate:.0}/s");
    let aim = Some((">= 2,000/s".to_owned(), rate >= 2_000.0));
    report.figure(&format!("{count} deliveries that are owed: sent"), rate, words, aim);
    Ok(())
}
