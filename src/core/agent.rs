//! What an agent says of itself, in words that all agents share.
//!
//! Adapters translate an agent's output into these; the supervisor never sees an agent's own format.
//! None of it is evidence of an end: an agent's words colour an outcome, they never make a verdict.

use serde::{Deserialize, Serialize};

/// Four counters, since vendors count cached tokens differently and a blind sum is wrong by factors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tokens {
    /// Prompt tokens that were not read from a cache.
    pub r#in: u64,
    /// Generated tokens, reasoning included.
    pub out: u64,
    /// Prompt tokens read from the provider's cache.
    pub cache_read: u64,
    /// Prompt tokens written to the provider's cache.
    pub cache_write: u64,
}

impl Tokens {
    /// All four together.
    pub fn sum(self) -> u64 {
        [self.r#in, self.out, self.cache_read, self.cache_write].into_iter().fold(0, u64::saturating_add)
    }

    /// Counter by counter, not below zero.
    pub fn minus(self, other: Self) -> Self {
        Self {
            r#in: self.r#in.saturating_sub(other.r#in),
            out: self.out.saturating_sub(other.out),
            cache_read: self.cache_read.saturating_sub(other.cache_read),
            cache_write: self.cache_write.saturating_sub(other.cache_write),
        }
    }

    /// Counter by counter, saturating.
    pub fn plus(self, other: Self) -> Self {
        Self {
            r#in: self.r#in.saturating_add(other.r#in),
            out: self.out.saturating_add(other.out),
            cache_read: self.cache_read.saturating_add(other.cache_read),
            cache_write: self.cache_write.saturating_add(other.cache_write),
        }
    }
}

/// What a run may use; it is stopped when it has told that it used more. An agent that tells only at its end is not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Budget {
    /// Tokens of all four counters together.
    pub max_tokens: Option<u64>,
    /// US dollars.
    pub max_cost: Option<f64>,
}

/// What earlier runs of a session used, by the agent's own store or else by their verdicts: where an agent's totals go on
/// across runs, its own share of each run is what its total has grown by. (By verdicts, what a run used and never told
/// comes with the next one's.)
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spent {
    pub tokens: Tokens,
    pub cost_usd: f64,
    /// Somebody else's run came before and nobody knows what it used: what such totals say of a later run is not known.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unknown: bool,
}

/// What an agent's own store says that a conversation has used; `None` where it does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stored {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<Tokens>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_usd: Option<f64>,
}

impl Stored {
    /// Nothing at all is said.
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// One thing that an agent's output stream tells.
#[derive(Clone, Debug, PartialEq)]
pub enum AgentEvent {
    /// The agent's own id of the conversation, needed to resume it.
    NativeId(String),
    /// More was used: an increment. Cost in US dollars.
    Used { tokens: Tokens, cost_usd: f64 },
    /// What was used in all, where an agent tells running totals instead; of each kind the latest counts.
    Total { span: Span, tokens: Option<Tokens>, cost_usd: Option<f64> },
    /// A whole message of the assistant.
    Said(String),
    /// The next piece of the message that is being said, where an agent tells no whole ones.
    SaidMore(String),
    /// It calls a tool: which, and what it is to do. For people.
    ToolCalled { name: String, input: String },
    /// A tool has answered. For people.
    ToolAnswered { ok: bool, output: String },
    /// The agent reports a failure of the run, in its own words.
    Failed(String),
    /// A turn or step ended for this reason.
    StepEnded(StepEnd),
    /// It says that its work is over, well or badly: nothing more is to come, and it should exit. A final step that ended
    /// with `stop` says the same.
    Over,
    /// It waits for input.
    Idle,
    /// It works.
    Active,
}

/// What a running total covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// This run alone.
    Run,
    /// The whole conversation, with the runs that this one resumes.
    Conversation,
}

/// Why a step ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StepEnd {
    /// The model finished its answer: the only one that means success.
    Stop,
    /// The model wants tools to run; more steps should follow.
    ToolCalls,
    /// It failed, in the agent's words. Unlike [`AgentEvent::Failed`] a later step takes it back: agents try again.
    Failed(String),
    /// Anything else (`length`, `content-filter`, ...), in the agent's word.
    Other(String),
}

/// What an agent's output, read up to the leader's end, says of the outcome.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentReport {
    /// It says that it succeeded.
    Success,
    /// It says that it failed; its words, when it had any.
    Error(Option<String>),
    /// Nothing in the output says how it went.
    Missing,
    /// The output could not be read: not the same as having said nothing.
    Unreadable(String),
}
