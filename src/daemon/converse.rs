//! Talking to an agent in ACP: what the conversation wants said becomes a line of the run's input file, which the shim
//! moves into the agent's standard input.
//!
//! Owns that file while the run lives. A line is said once it is whole in the file, and the shim moves each once: so a
//! daemon that dies at any moment has said a line or has not, and the next one reads which. What is to be said when is
//! `adapters/acp.rs`'s business; what was heard comes from the log (follow.rs).

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::time::Duration;

use tokio::time::sleep;

use crate::adapters::acp::{Conversation, Next, Plan};
use crate::core::fuse::Evidence;
use crate::core::vocab::RunId;
use crate::wire::session_dir::RunFiles;

use super::reach::Reach;
use super::{Daemon, blocking, launch};

/// What was said is read again so often, where that fails, with pauses from so long to twice as long each time. Its agent's
/// output is not read meanwhile.
const READ_AGAIN_MAX: u32 = 6;
const READ_AGAIN_FIRST: Duration = Duration::from_millis(100);

/// What is said to one agent, and by whom.
pub(super) struct Dialogue {
    id: RunId,
    files: RunFiles,
    conversation: Conversation,
    /// Until it is carried out.
    plan: Option<Plan>,
    /// The input has ended.
    over: bool,
}

/// What an earlier life has left.
struct Left {
    /// What it said; `None` when it ended the input.
    said: Option<Vec<u8>>,
    plan: Option<Plan>,
}

impl Dialogue {
    /// The one with this run's agent, as far as it has come. `None` where there is none, or none to be had from here.
    pub(super) async fn of(daemon: &Daemon, id: RunId) -> Option<Self> {
        let safe = daemon.core.borrow().session(id.session).filter(|s| s.spec.acp).map(|s| s.spec.safe)?;
        if Reach::of_run(daemon, id) != Reach::Here {
            return None;
        }
        let files = daemon.home.run_files(id);
        let mut tries = 0;
        let left = loop {
            let theirs = files.clone();
            let error = match blocking(move || read(&theirs)).await {
                Ok(left) => break left,
                Err(error) => error,
            };
            if tries < READ_AGAIN_MAX {
                sleep(READ_AGAIN_FIRST * 2_u32.pow(tries)).await;
                tries += 1;
                continue;
            }
            let why = format!("what was said to the agent cannot be read, so nothing more is: {error}");
            tracing::error!(session = %id.session, "{why}");
            daemon.evidence(id, Evidence::CannotTell(why));
            return None;
        };
        let mut conversation = Conversation::new(safe);
        let said = left.said.as_deref().unwrap_or_default();
        for line in said.split(|byte| *byte == b'\n') {
            conversation.said(line);
        }
        // A life that ended between a line and its news: moving what is moved already does nothing.
        launch::tell_shim(daemon, id, "what was said to the agent");
        Some(Self { id, files, conversation, plan: left.plan, over: left.said.is_none() })
    }

    /// A line of the agent's output.
    pub(super) fn heard(&mut self, line: &[u8]) {
        if !self.over {
            self.conversation.heard(line);
        }
    }

    /// Says what is to be said, now that all is heard that there is. After an error one may try again.
    pub(super) async fn go_on(&mut self, daemon: &Daemon) -> io::Result<()> {
        while !self.over {
            let stopping = stopping(daemon, self.id);
            if stopping && is_launching(daemon, self.id) {
                // The shim still needs the file; TERM comes as soon as there is a leader.
                return Ok(());
            }
            match self.conversation.next(self.plan.as_ref(), stopping) {
                Next::Wait => return Ok(()),
                Next::Say(line) => self.say(line).await?,
                Next::End => {
                    if self.plan.is_none() && !self.conversation.is_prompted() && !stopping {
                        let why =
                            "its prompt is not there any more; it was not given to the agent".to_owned();
                        daemon.evidence(self.id, Evidence::CannotTell(why));
                    }
                    let files = self.files.clone();
                    blocking(move || files.remove_input()).await?;
                    self.over = true;
                }
            }
            launch::tell_shim(daemon, self.id, "what was said to the agent");
        }
        Ok(())
    }

    async fn say(&mut self, line: String) -> io::Result<()> {
        let path = self.files.dir().join(self.files.input_name());
        let text = line.clone() + "\n";
        blocking(move || {
            // Not created: the shim removes it when the leader has ended.
            let mut file = OpenOptions::new().append(true).open(path)?;
            let before = file.metadata()?.len();
            file.write_all(text.as_bytes()).or_else(|error| file.set_len(before).and(Err(error)))
        })
        .await?;
        self.conversation.said(line.as_bytes());
        if self.conversation.is_prompted() && self.plan.take().is_some() {
            let prompt = self.files.dir().join(self.files.prompt_name());
            // One that cannot be removed now is, with the input.
            let _left = blocking(move || fs::remove_file(prompt)).await;
        }
        Ok(())
    }
}

fn stopping(daemon: &Daemon, id: RunId) -> bool {
    let core = daemon.core.borrow();
    core.session(id.session).is_none_or(|session| session.run_id() != id || session.run.fuse.stop.is_some())
}

fn is_launching(daemon: &Daemon, id: RunId) -> bool {
    let core = daemon.core.borrow();
    core.session(id.session)
        .is_some_and(|session| session.run_id() == id && session.run.fuse.leader.is_none())
}

fn read(files: &RunFiles) -> io::Result<Left> {
    let input = files.dir().join(files.input_name());
    let said = match fs::read(&input) {
        Ok(said) => said,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Left { said: None, plan: None }),
        Err(error) => return Err(error),
    };
    // A daemon died in the middle of a line: the shim has moved none of it.
    let whole = said.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
    if whole < said.len() {
        OpenOptions::new().write(true).open(&input)?.set_len(whole as u64)?;
    }
    let plan = match fs::read(files.dir().join(files.prompt_name())) {
        Ok(text) => Plan::decode(&text),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    Ok(Left { said: Some(said[..whole].to_vec()), plan })
}
