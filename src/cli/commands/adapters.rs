//! `adapters`: which agents there are, what each can do, and whether its program is here.
//!
//! What there is, the daemon says, since it reads the configuration; what is here is looked for in this PATH, which is the
//! one that a session launched from here gets.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use hyper::Method;
use serde_json::{Value, json};

use crate::limits;
use crate::sys::tool;
use crate::wire::api::AdapterView;

use super::super::client::Client;
use super::super::render;
use super::super::{Failure, JsonFlag};
use super::NO_BODY;

pub(super) async fn adapters(args: JsonFlag) -> Result<u8, Failure> {
    let known: Vec<AdapterView> = Client::find()?.json(Method::GET, "/v1/adapters", NO_BODY).await?;
    // All at once: some are slow to start.
    let found: Vec<Option<(PathBuf, Option<String>)>> = std::thread::scope(|scope| {
        let looks: Vec<_> = known
            .iter()
            .map(|adapter| {
                scope.spawn(|| {
                    let path = find_program(adapter.program.as_deref()?)?;
                    let version = version_of(&path);
                    Some((path, version))
                })
            })
            .collect();
        looks.into_iter().map(|look| look.join().unwrap_or_default()).collect()
    });
    if args.json {
        let rows: Vec<Value> = known.iter().zip(&found).map(|(adapter, found)| row(adapter, found)).collect();
        render::json(&rows)?;
    } else {
        render::adapters(
            &known.iter().zip(&found).map(|(adapter, found)| cells(adapter, found)).collect::<Vec<_>>(),
        )?;
    }
    Ok(0)
}

type Here = Option<(PathBuf, Option<String>)>;

fn row(adapter: &AdapterView, found: &Here) -> Value {
    let mut row = serde_json::to_value(adapter).unwrap_or_default();
    row["path"] = json!(found.as_ref().map(|(path, _)| path));
    row["version"] = json!(found.as_ref().and_then(|(_, version)| version.as_ref()));
    row
}

fn cells(adapter: &AdapterView, found: &Here) -> [String; 4] {
    let program = match (&adapter.program, found) {
        (None, _) => "any command".to_owned(),
        (Some(program), None) => format!("{program}: not found"),
        (Some(program), Some(_)) => program.clone(),
    };
    // A program that is here and does not answer, or says no number, has one all the same.
    let unknown = if found.is_some() { "not told" } else { "-" };
    let version =
        found.as_ref().and_then(|(_, version)| version.clone()).unwrap_or_else(|| unknown.to_owned());
    let can = [
        (adapter.reads_output, "outcome"),
        (adapter.resumes, "resume"),
        (adapter.acp, "acp"),
        (adapter.declared, "declared"),
    ];
    let can: Vec<_> = can.into_iter().filter_map(|(can, word)| can.then_some(word)).collect();
    [adapter.name.clone(), program, version, can.join(", ")]
}

/// The file that PATH gives for a program, or the program itself where it is a path.
fn find_program(program: &str) -> Option<PathBuf> {
    let runs = |path: &Path| {
        std::fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    if program.contains('/') {
        return Some(PathBuf::from(program)).filter(|path| runs(path));
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|path| runs(path))
}

/// The number in what the program says of itself, on whichever stream.
fn version_of(program: &Path) -> Option<String> {
    let mut command = Command::new(program);
    command.arg("--version");
    let ran = tool::run(&mut command, limits::VERSION_TIMEOUT, limits::VERSION_BYTES_MAX).ok()?;
    [ran.stdout, ran.stderr].iter().find_map(|said| number_in(&String::from_utf8_lossy(said)))
}

fn number_in(said: &str) -> Option<String> {
    let like_a_version = |word: &&str| word.contains('.') && word.starts_with(|c: char| c.is_ascii_digit());
    let words = said.split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+' | '_')));
    words
        .map(|word| word.trim_start_matches('v').trim_end_matches('.'))
        .find(like_a_version)
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_programs_say() {
        for (said, version) in [
            ("2.1.330 (Claude Code)\n", Some("2.1.330")),
            ("codex-cli 0.169.0\n", Some("0.169.0")),
            ("v1.2.3-rc.1", Some("1.2.3-rc.1")),
            ("no idea", None),
            ("", None),
        ] {
            assert_eq!(number_in(said).as_deref(), version, "{said}");
        }
    }
}
