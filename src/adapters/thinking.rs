//! How much an agent is to think: `--thinking LEVEL` in the flag that each has for it.
//!
//! Levels are the agents' own words and are passed on; only what an agent is known to refuse is refused here. Checked
//! against the help of Claude Code 2.1.330, Codex 0.169.0, pi 0.74.2 and opencode 1.18.33 (which has it since 1.1).

use super::Unfit;

/// Where the arguments go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Before all others.
    Front,
    /// Behind all others.
    Back,
}

/// The flag of one adapter.
struct Flag {
    adapter: &'static str,
    place: Place,
    /// The words before the level; the last one is joined with it.
    words: &'static [&'static str],
    /// What it knows; none where that depends on the model.
    levels: &'static [&'static str],
}

const FLAGS: [Flag; 4] = [
    Flag {
        adapter: "claude-code",
        place: Place::Back,
        words: &["--effort="],
        levels: &["low", "medium", "high", "xhigh", "max"],
    },
    // Before its subcommand, since it ends with the name of its standard input.
    Flag { adapter: "codex", place: Place::Front, words: &["-c", "model_reasoning_effort="], levels: &[] },
    Flag {
        adapter: "pi",
        place: Place::Back,
        words: &["--thinking", ""],
        levels: &["off", "minimal", "low", "medium", "high", "xhigh"],
    },
    Flag { adapter: "opencode", place: Place::Back, words: &["--variant="], levels: &[] },
];

/// The arguments of an adapter with those for the level, if one is asked for.
pub(super) fn with(adapter: &str, level: Option<&str>, argv: Vec<String>) -> Result<Vec<String>, Unfit> {
    let Some(level) = level else { return Ok(argv) };
    let flag = FLAGS.iter().find(|flag| flag.adapter == adapter);
    let flag = flag.ok_or_else(|| Unfit::NoThinking(adapter.to_owned()))?;
    // A word of ours in a place where a shell, TOML or another flag might be read is none of an agent's.
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let known = flag.levels.is_empty() || flag.levels.contains(&level);
    if level.is_empty() || level.starts_with('-') || !level.chars().all(plain) || !known {
        let levels =
            if flag.levels.is_empty() { "a word such as low or high".into() } else { flag.levels.join(", ") };
        return Err(Unfit::ThinkingLevel { adapter: adapter.to_owned(), level: level.to_owned(), levels });
    }
    let (last, first) = flag.words.split_last().unwrap_or((&"", &[]));
    let words = first.iter().map(|word| (*word).to_owned()).chain([format!("{last}{level}")]);
    Ok(match flag.place {
        Place::Front => words.chain(argv).collect(),
        Place::Back => argv.into_iter().chain(words).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_agent_is_told_in_its_own_flag() {
        let told = |adapter: &str, level| with(adapter, level, vec!["x".into()]).map(|argv| argv.join(" "));
        let said = |adapter: &str, level| told(adapter, Some(level)).expect_err("a refusal").to_string();
        assert_eq!(told("claude-code", Some("max")).as_deref(), Ok("x --effort=max"));
        assert_eq!(told("codex", Some("high")).as_deref(), Ok("-c model_reasoning_effort=high x"));
        assert_eq!(told("pi", Some("off")).as_deref(), Ok("x --thinking off"));
        assert_eq!(told("opencode", Some("minimal")).as_deref(), Ok("x --variant=minimal"));
        assert_eq!(told("gemini", None).as_deref(), Ok("x"));
        assert_eq!(said("gemini", "high"), "adapter gemini has no flag for thinking: leave --thinking out");
        assert_eq!(
            said("pi", "max"),
            "adapter pi knows no thinking \"max\": it is off, minimal, low, medium, high, xhigh"
        );
        for level in ["", "-x", "a b", "x=\"y\"", "a\nb"] {
            assert!(said("codex", level).contains("a word such as low or high"), "{level}");
        }
    }
}
