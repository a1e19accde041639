//! How answers look: tables for people, JSON for programs, one line for a verdict.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};

use comfy_table::{ContentArrangement, Table, presets};

use crate::core::vocab::{Wall, short};
use crate::sys::clock;
use crate::wire::amounts;
use crate::wire::api::{Check, CheckState, Limits, SessionView};
use crate::wire::time::parse_rfc3339;

use super::listing::Line;

/// Writes to stdout. A reader that has seen enough is no error.
pub(crate) fn out(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    quiet_pipe(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()))
}

/// Writes bytes as they are; false when nobody reads any more.
pub(crate) fn out_bytes(to_stderr: bool, bytes: &[u8]) -> io::Result<bool> {
    let written = if to_stderr {
        let mut stderr = io::stderr().lock();
        stderr.write_all(bytes).and_then(|()| stderr.flush())
    } else {
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes).and_then(|()| stdout.flush())
    };
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error),
    }
}

/// Writes a message to stderr.
pub(crate) fn say(text: &str) {
    // Without a stderr there is nobody to tell.
    let _nobody = writeln!(io::stderr().lock(), "{text}");
}

fn quiet_pipe(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// Pretty JSON and a newline.
pub(crate) fn json<T: serde::Serialize + ?Sized>(value: &T) -> io::Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(io::Error::other)?;
    out(&format!("{text}\n"))
}

/// The table of sessions.
pub(crate) fn table(sessions: &[Line<'_>]) -> io::Result<()> {
    if sessions.is_empty() {
        return out("No sessions found.\n");
    }
    let grouped = sessions.iter().any(|session| session.group.is_some());
    let strangers = sessions.iter().any(|session| session.origin != "launched");
    let mut header = vec!["ID", "Status", "Adapter", "Model"];
    if strangers {
        header.push("Origin");
    }
    if grouped {
        header.push("Group");
    }
    header.extend(["CWD", "PID", "Started", "Prompt"]);
    let now = clock::now().wall;
    let mut rows: Vec<Vec<String>> = vec![header.iter().map(|&word| word.to_owned()).collect()];
    rows.extend(sessions.iter().map(|session| row(session, strangers, grouped, now)));
    fit(&mut rows, width());
    lay_out(rows)
}

/// The adapters: name, program, version, what it can.
pub(crate) fn adapters(known: &[[String; 4]]) -> io::Result<()> {
    let header = ["Adapter", "Program", "Version", "Can"].map(str::to_owned);
    lay_out(std::iter::once(&header).chain(known).map(|row| row.to_vec()).collect())
}

/// A table with its header underlined.
fn lay_out(mut rows: Vec<Vec<String>>) -> io::Result<()> {
    let columns = rows.first().map_or(0, Vec::len);
    let dashes = (0..columns).map(|at| "-".repeat(widest(&rows, at))).collect();
    rows.insert(1, dashes);
    print_rows(rows)
}

/// A table of any kind: as wide as it is on a terminal that can hold it, else the last column gives way.
pub(crate) fn columns(header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> io::Result<()> {
    let mut all = vec![header.iter().map(|&word| word.to_owned()).collect::<Vec<_>>()];
    all.extend(rows);
    let last = header.len() - 1;
    let others: usize = (0..last).map(|at| widest(&all, at) + 2).sum();
    let allowed = width().saturating_sub(others).max(12);
    all.iter_mut().for_each(|row| row[last] = shorten(&row[last], allowed, false));
    let dashes = (0..header.len()).map(|at| "-".repeat(widest(&all, at))).collect();
    all.insert(1, dashes);
    print_rows(all)
}

fn print_rows(rows: Vec<Vec<String>>) -> io::Result<()> {
    out(&rows_text(rows))
}

/// A line each, whatever is in a cell.
fn rows_text(rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    for row in rows {
        table.add_row(row.iter().map(|cell| one_line(cell)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

fn row(session: &Line<'_>, strangers: bool, grouped: bool, now: Wall) -> Vec<String> {
    let or_dash = |text: Option<&Cow<'_, str>>| {
        text.filter(|text| !text.is_empty()).map_or("-".into(), |text| text.to_string())
    };
    let mut cells = vec![
        short(&session.id),
        // The one phase in which nothing runs.
        if session.phase == "queued" { session.phase.to_string() } else { session.status.to_string() },
        session.adapter.to_string(),
        or_dash(session.model.as_ref()),
    ];
    if strangers {
        cells.push(session.origin.to_string());
    }
    if grouped {
        cells.push(or_dash(session.group.as_ref()));
    }
    cells.extend([
        short_home(&session.cwd),
        session.pid.map_or("-".into(), |pid| pid.to_string()),
        ago(&session.started_at, now),
        or_dash(session.prompt.as_ref().or(session.name.as_ref())).chars().take(60).collect(),
    ]);
    cells
}

fn one_line(text: &str) -> Cow<'_, str> {
    if text.contains(char::is_control) {
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
    } else {
        text.into()
    }
}

/// The longest columns give way: first the prompt, then the directory, until the table fits.
fn fit(rows: &mut [Vec<String>], width: usize) {
    let columns = rows[0].len();
    let total = |rows: &[Vec<String>]| (0..columns).map(|at| widest(rows, at) + 2).sum::<usize>() - 2;
    for (column, least) in [(columns - 1, 10), (columns - 4, 12), (3, 8)] {
        let excess = total(rows).saturating_sub(width);
        if excess == 0 {
            return;
        }
        let allowed = widest(rows, column).saturating_sub(excess).max(least);
        let keep_end = column == columns - 4;
        for row in rows.iter_mut() {
            row[column] = shorten(&row[column], allowed, keep_end);
        }
    }
}

fn widest(rows: &[Vec<String>], at: usize) -> usize {
    rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0)
}

/// Cuts a text, its end for paths at their beginning, since the end names them.
fn shorten(text: &str, allowed: usize, keep_end: bool) -> String {
    let length = text.chars().count();
    if length <= allowed {
        text.to_owned()
    } else if keep_end {
        std::iter::once('…').chain(text.chars().skip(length - allowed + 1)).collect()
    } else {
        text.chars().take(allowed - 1).chain(['…']).collect()
    }
}

/// The terminal's width; 80 where there is none.
fn width() -> usize {
    if !io::stdout().is_terminal() {
        return 80;
    }
    rustix::termios::tcgetwinsize(io::stdout()).map_or(80, |size| usize::from(size.ws_col).max(80))
}

/// A path, with the home directory as `~`.
pub(crate) fn short_home(path: &str) -> String {
    let home = std::env::var("HOME").unwrap_or_default();
    match path.strip_prefix(&home) {
        _ if path.is_empty() => "-".to_owned(),
        Some(rest) if !home.is_empty() && (rest.is_empty() || rest.starts_with('/')) => format!("~{rest}"),
        Some(_) | None => path.to_owned(),
    }
}

pub(crate) fn ago(started: &str, now: Wall) -> String {
    let Some(started) = parse_rfc3339(started) else { return "-".into() };
    let seconds = now.since(started).as_secs();
    match seconds {
        0..60 => format!("{seconds}s ago"),
        60..3_600 => format!("{}m ago", seconds / 60),
        3_600..86_400 => format!("{}h ago", seconds / 3_600),
        86_400.. => format!("{}d ago", seconds / 86_400),
    }
}

/// One session, a key and a value a line.
pub(crate) fn details(session: &SessionView) -> io::Result<()> {
    let now = clock::now().wall;
    let dash = || "-".to_owned();
    let mut lines: Vec<(&str, String)> = vec![
        ("ID", session.id.clone()),
        ("Status", status_words(session)),
        ("Adapter", session.adapter.clone()),
        ("Model", session.model.clone().unwrap_or_else(dash)),
    ];
    if session.origin != "launched" {
        lines.push(("Origin", session.origin.to_string()));
    }
    let optional = [("Name", &session.name), ("Group", &session.group), ("Native ID", &session.native_id)];
    lines.extend(optional.into_iter().filter_map(|(key, value)| Some((key, value.clone()?))));
    lines.extend([
        ("CWD", short_home(&session.cwd)),
        ("PID", session.pid.map_or_else(dash, |pid| pid.to_string())),
        ("Started", format!("{} ({})", ago(&session.started_at, now), session.started_at)),
    ]);
    if let Some(stopped) = &session.stopped_at {
        lines.push(("Stopped", format!("{} ({stopped})", ago(stopped, now))));
    } else if let Some(timeout) = &session.timeout_at {
        lines.push(("Deadline", timeout.clone()));
    }
    lines.push(("Prompt", session.prompt.as_deref().unwrap_or("-").chars().take(60).collect()));
    if let Some(tokens) = session.tokens {
        lines.push(("Tokens", format!("in: {}, out: {}", tokens.r#in, tokens.out)));
    }
    if let Some(cost) = session.cost {
        lines.push(("Cost", format!("${cost:.4}")));
    }
    if let Some(limits) = &session.limits {
        lines.push(("Limits", limit_words(limits)));
    }
    for evidence in &session.evidence {
        lines.push(("Evidence", format!("{}: {} ({})", evidence.prong, evidence.detail, evidence.at)));
    }
    for key in ["message", "unverified", "unrecorded"] {
        if let Some(text) = session.meta.get(key).and_then(|value| value.as_str()) {
            lines.push(("Note", text.to_owned()));
        }
    }
    lines.extend(waits_for(session).map(|why| ("Queued", why)));
    let warnings = session.meta.get("warnings").and_then(|warnings| warnings.as_array());
    let warnings = warnings.into_iter().flatten().filter_map(|warning| warning.as_str());
    lines.extend(warnings.map(|warning| ("Note", warning.to_owned())));
    for (key, what) in [("lingering", "done by its own word, and still there"), ("stuck", "no sign of life")]
    {
        if let Some(since) = session.meta.get(key).and_then(|value| value["since"].as_str()) {
            lines.push(("Note", format!("{what}, since {since} ({})", ago(since, now))));
        }
    }
    for (kind, hook) in session.meta.get("hooks").and_then(|hooks| hooks.as_object()).into_iter().flatten() {
        let text = |key| hook[key].as_str().unwrap_or_default();
        let why = if text("reason").is_empty() { String::new() } else { format!(" ({})", text("reason")) };
        lines.push(("Hook", format!("{kind}: {}{why}, {}", text("state"), text("logPath"))));
    }
    let of_old_tool = || Some(format!("{} (of an earlier agentctl)", session.meta.get("oldLog")?.as_str()?));
    lines.push(("Log", session.log_path.clone().or_else(of_old_tool).unwrap_or_else(dash)));
    let text: String = lines.iter().map(|(key, value)| format!("{key:<10} {}\n", one_line(value))).collect();
    out(&text)
}

/// What a queued session waits for.
pub(crate) fn waits_for(session: &SessionView) -> Option<String> {
    let queued = session.meta.get("queued").filter(|_| session.phase == "queued")?;
    Some(queued["waitsFor"].as_str().unwrap_or_default().to_owned())
}

fn limit_words(limits: &Limits) -> String {
    let words = [
        limits.memory_max_bytes.map(|bytes| format!("memory {}", amounts::size(bytes))),
        limits.cpu_quota_percent.map(|percent| format!("cpu {percent}%")),
        limits.tasks_max.map(|count| format!("tasks {count}")),
    ];
    words.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn status_words(session: &SessionView) -> String {
    match (&session.outcome, &session.reason) {
        (Some(outcome), Some(reason)) => format!("{} ({outcome}: {reason})", session.status),
        _ if session.phase != session.status => format!("{} ({})", session.status, session.phase),
        _ => session.status.to_string(),
    }
}

/// The findings of `doctor`, a line each, the next step below.
pub(crate) fn checks(checks: &[Check]) -> io::Result<()> {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(u16::try_from(width()).unwrap_or(u16::MAX));
    for check in checks {
        let word = match check.state {
            CheckState::Ok => "ok",
            CheckState::Note => "note",
            CheckState::Problem => "PROBLEM",
            CheckState::Unknown => "unknown",
        };
        let advice = check.advice.as_ref().map(|advice| format!("\n-> {advice}")).unwrap_or_default();
        table.add_row([word, &check.name, &format!("{}{advice}", check.found)]);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let text: String = table.lines().map(|line| format!("{}\n", line.trim_end())).collect();
    out(&text)
}

/// The verdict in one line: what, how long, and on which evidence.
pub(crate) fn verdict_line(session: &SessionView) -> String {
    let id = short(&session.id);
    let outcome = session.outcome.as_deref().unwrap_or("not ended").replace('_', " ");
    let message = session.meta.get("message").and_then(|value| value.as_str());
    let message = message.map(|text| format!(": {}", one_line(text))).unwrap_or_default();
    if session.outcome.as_deref() == Some("launch_failed") {
        return format!("agentctl: session {id} was not launched{message}");
    }
    let how = match (session.exit_code, &session.signal) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("killed by {signal}"),
        (None, None) => "exit code unknown".to_owned(),
    };
    let reason = session.reason.as_deref().unwrap_or_default();
    let reason = if reason.starts_with("exit_code_") || reason.starts_with("sig") { "" } else { reason };
    let reason = if reason.is_empty() { String::new() } else { format!(", {reason}") };
    let lasted =
        session.stopped_at.as_deref().and_then(parse_rfc3339).zip(parse_rfc3339(&session.started_at));
    let lasted = lasted
        .map(|(end, start)| format!(" after {:.1} s", end.since(start).as_secs_f64()))
        .unwrap_or_default();
    let prongs: Vec<_> = session.evidence.iter().map(|entry| &*entry.prong).collect();
    let evidence = if prongs.is_empty() { "none".to_owned() } else { prongs.join(", ") };
    format!("agentctl: session {id} {outcome}, {how}{reason}{lasted} [evidence: {evidence}]{message}")
}
