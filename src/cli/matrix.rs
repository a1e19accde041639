//! The matrix file: a group launch written down, in YAML.
//!
//! Owns what may be in it, and where in it something is wrong. Refuses to know what an adapter takes: that the daemon says.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, SeqAccess, Visitor};
use serde_saphyr::Error;

use crate::config::{hint, nearest, parse_duration};
use crate::core::vocab::millis;
use crate::limits;
use crate::wire::groups::Slot;

use super::Failure;

/// A matrix file, as written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Matrix {
    /// What all are told, unless the command line says.
    pub prompt: Option<String>,
    /// The repository. `~` is the home directory.
    pub cwd: Option<String>,
    pub spec: Option<PathBuf>,
    pub hooks: Hooks,
    /// Where new branches begin, unless an entry says.
    #[serde(alias = "baseBranch")]
    pub base_branch: Option<String>,
    /// How much all are to think, unless an entry says.
    pub thinking: Option<String>,
    matrix: Vec<Entry>,
}

/// Scripts of each session.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Hooks {
    #[serde(alias = "onCreate")]
    pub on_create: Option<String>,
    #[serde(alias = "onComplete")]
    pub on_complete: Option<String>,
}

/// One session, or one for each model and each level of thinking in it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    adapter: String,
    #[serde(default)]
    model: OneOrMore,
    #[serde(default)]
    thinking: OneOrMore,
    branch: Option<String>,
    #[serde(alias = "baseBranch")]
    base_branch: Option<String>,
    safe: Option<bool>,
    acp: Option<bool>,
    #[serde(default, deserialize_with = "duration")]
    timeout: Option<Duration>,
    max_tokens: Option<u64>,
    max_cost: Option<f64>,
}

/// A word, or a list of words; none is none.
#[derive(Debug, Default, PartialEq, Eq)]
struct OneOrMore(Vec<String>);

impl<'de> Deserialize<'de> for OneOrMore {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Words;

        impl<'de> Visitor<'de> for Words {
            type Value = OneOrMore;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a word or a list of words (a number is written in quotes)")
            }

            fn visit_str<E>(self, word: &str) -> Result<OneOrMore, E> {
                Ok(OneOrMore(vec![word.to_owned()]))
            }

            fn visit_unit<E>(self) -> Result<OneOrMore, E> {
                Ok(OneOrMore::default())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<OneOrMore, A::Error> {
                let mut words = Vec::new();
                while let Some(word) = list.next_element()? {
                    words.push(word);
                }
                Ok(OneOrMore(words))
            }
        }

        deserializer.deserialize_any(Words)
    }
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    text.map(|text| parse_duration(&text).map_err(D::Error::custom)).transpose()
}

impl Matrix {
    /// Reads a file. The error names it, and the place in it.
    pub(crate) fn read(path: &Path) -> Result<Self, Failure> {
        let shown = path.display();
        let broken = |why: String| Failure::new(1, format!("the matrix {shown}: {why}"));
        let most = limits::MATRIX_BYTES_MAX;
        let mut text = Vec::new();
        let file = File::open(path).map_err(|error| broken(error.to_string()))?;
        // What is no file, such as a pipe, may have no end.
        file.take(most + 1).read_to_end(&mut text).map_err(|error| broken(error.to_string()))?;
        if text.len() as u64 > most {
            return Err(broken(format!("it is larger than {most} bytes")));
        }
        let text = String::from_utf8(text).map_err(|error| broken(error.to_string()))?;
        Self::parse(&text).map_err(broken)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let options = serde_saphyr::options! { with_snippet: false };
        let matrix: Self =
            serde_saphyr::from_str_with_options(text, options).map_err(|error| told(&error))?;
        if matrix.matrix.is_empty() {
            return Err("it has no sessions: `matrix` is a list with an `adapter` in each entry".into());
        }
        Ok(matrix)
    }

    /// A slot for each session: every model with every level of thinking, in the order of the file.
    pub(crate) fn slots(&self) -> Result<Vec<Slot>, String> {
        let mut slots = Vec::new();
        for (at, entry) in self.matrix.iter().enumerate() {
            let each = |words: &OneOrMore| -> Vec<Option<String>> {
                if words.0.is_empty() { vec![None] } else { words.0.iter().cloned().map(Some).collect() }
            };
            let (models, levels) = (each(&entry.model), each(&entry.thinking));
            let count = models.len().saturating_mul(levels.len());
            let (all, most) = (slots.len().saturating_add(count), limits::GROUP_SLOTS_MAX);
            if all > most {
                return Err(format!(
                    "with entry {} ({}) it is {all} sessions, and a group has at most {most}; write several files",
                    at + 1,
                    entry.adapter
                ));
            }
            if let Some(branch) = entry.branch.as_ref().filter(|_| count > 1) {
                return Err(format!(
                    "entry {} ({}) is {count} sessions and has one branch, {branch}; leave it out, or write an entry each",
                    at + 1,
                    entry.adapter
                ));
            }
            for model in &models {
                for level in &levels {
                    slots.push(Slot {
                        adapter: Some(entry.adapter.clone()),
                        model: model.clone(),
                        branch: entry.branch.clone(),
                        base: entry.base_branch.clone(),
                        thinking: level.clone(),
                        safe: entry.safe,
                        acp: entry.acp,
                        timeout_ms: entry.timeout.map(millis),
                        max_tokens: entry.max_tokens,
                        max_cost: entry.max_cost,
                    });
                }
            }
        }
        Ok(slots)
    }
}

/// What is wrong, and where.
fn told(error: &Error) -> String {
    let what = if let Error::SerdeUnknownField { field, expected, .. } = error {
        let near = nearest(field, expected.iter().copied());
        format!("unknown key \"{field}\"{}", hint(near.as_deref()))
    } else {
        // Its place is said by us.
        let text = error.to_string();
        text.lines().next().unwrap_or_default().to_owned()
    };
    match error.location() {
        Some(place) => format!("line {}, column {}: {what}", place.line(), place.column()),
        None => what,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_and_thinking_are_crossed_in_the_order_of_the_file() {
        let matrix = Matrix::parse(
            "prompt: do it\ncwd: ~/app\nspec: plan.md\nthinking: low\nhooks:\n  on_create: setup\n  onComplete: |\n    report\nbase_branch: main\n\
             matrix:\n  - adapter: claude-code\n    model: [opus, sonnet]\n    thinking: [low, high]\n  - adapter: codex\n    branch: x\n    \
             baseBranch: dev\n    timeout: 2h\n    max_cost: 1.5\n    safe: true\n",
        );
        let matrix = matrix.expect("a matrix");
        assert_eq!(
            (matrix.prompt.as_deref(), matrix.hooks.on_complete.as_deref()),
            (Some("do it"), Some("report\n"))
        );
        let slots = matrix.slots().expect("slots");
        let told = |slot: &Slot| {
            [&slot.adapter, &slot.model, &slot.thinking].map(|it| it.clone().unwrap_or_default())
        };
        let told: Vec<_> = slots.iter().map(|slot| told(slot).join(" ")).collect();
        let crossed =
            ["opus low", "opus high", "sonnet low", "sonnet high"].map(|it| format!("claude-code {it}"));
        assert_eq!(told[..4], crossed);
        let last = Slot {
            adapter: Some("codex".into()),
            branch: Some("x".into()),
            base: Some("dev".into()),
            timeout_ms: Some(7_200_000),
            max_cost: Some(1.5),
            safe: Some(true),
            ..Slot::default()
        };
        assert_eq!(slots[4..], [last]);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (text, words) in [
            ("prompt: x\nmatirx: []\n", "line 2, column 1: unknown key \"matirx\"; did you mean \"matrix\"?"),
            (
                "matrix:\n  - adapter: a\n    modle: x\n",
                "line 3, column 5: unknown key \"modle\"; did you mean \"model\"?",
            ),
            ("matrix:\n  - model: x\n", "missing field"),
            ("matrix:\n  - adapter: a\n    model: 5.1\n", "line 3"),
            ("matrix:\n  - adapter: a\n    timeout: soon\n", "line 3"),
            ("matrix: [\n", "line"),
            ("prompt: x\n", "it has no sessions"),
            ("", "it has no sessions"),
            ("matrix:\n  - adapter: a\n  - adapter: a\nmatrix: []\n", "line 4"),
        ] {
            let said = Matrix::parse(text).expect_err(text);
            assert!(said.contains(words), "{text:?}: {words} is not in: {said}");
        }
        let many = |name| format!("[{}]", [name; 11].join(", "));
        let product =
            format!("matrix:\n  - adapter: a\n    model: {}\n    thinking: {}\n", many("m"), many("t"));
        let said = Matrix::parse(&product).expect("a matrix").slots().expect_err("too many");
        let words = "with entry 1 (a) it is 121 sessions, and a group has at most 100; write several files";
        assert_eq!(said, words);
        let endless = Matrix::read(Path::new("/dev/zero")).expect_err("it has no end");
        assert_eq!(endless.message, "the matrix /dev/zero: it is larger than 1048576 bytes");
        let one_branch =
            Matrix::parse("matrix:\n  - adapter: a\n    model: [x, y]\n    branch: b\n").expect("a matrix");
        let said = one_branch.slots().expect_err("one branch for two");
        assert_eq!(
            said,
            "entry 1 (a) is 2 sessions and has one branch, b; leave it out, or write an entry each"
        );
    }
}
