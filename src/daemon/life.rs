//! Signs of life of a run, looked for when the core asks: what it has printed, the processor time that it used, who
//! else lives in its tree.
//!
//! Owns one look, of a few small files of /proc. Refuses to compare it with an earlier one, which is the core's
//! business, and to take for stillness what could not be read: one part that fails makes the whole look unknown.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use tokio::task::{spawn_blocking, spawn_local};

use crate::core::Event;
use crate::core::trouble::{Sample, Signs};
use crate::core::vocab::RunId;
use crate::sys::ProcessRef;
use crate::sys::tree::Tree;

use super::Daemon;
use super::perform::TreeLook;

/// Looks once; the answer always comes.
pub(super) fn sample(daemon: &Rc<Daemon>, id: RunId) {
    let logs = ["stdout", "stderr"].map(|stream| daemon.home.log(id, stream));
    let tree = TreeLook::of(daemon, id);
    let tools_apart = daemon.adapter_of(id.session).is_some_and(|adapter| adapter.keeps_tools_apart());
    let daemon = Rc::clone(daemon);
    spawn_local(async move {
        let members = tree.members(&daemon).await;
        let looked = spawn_blocking(move || look(tree.leader.as_ref(), members, &logs, tools_apart)).await;
        let sample = match looked {
            Ok(Ok(signs)) => Sample::Seen(signs),
            Ok(Err(why)) => Sample::Unknown(why),
            Err(panicked) => Sample::Unknown(panicked.to_string()),
        };
        if let Sample::Unknown(why) = &sample {
            tracing::debug!(session = %id.session, "look for signs of life: {why}");
        }
        daemon.send(Event::Sampled(id, sample));
    });
}

fn look(
    leader: Option<&ProcessRef>,
    tree: Tree,
    logs: &[PathBuf],
    tools_apart: bool,
) -> Result<Signs, String> {
    let unreadable = |pid: u32| move |error| format!("read what process {pid} has used: {error}");
    let leader = leader.ok_or("no handle on the leader")?;
    let members = match tree {
        Tree::Known(members) => members,
        Tree::Unknown(why) => return Err(why),
    };
    let activity = leader.activity().map_err(unreadable(leader.pid()))?;
    let (mut cpu, mut helpers, mut others) = (activity.cpu, 0, 0);
    for member in members.iter().filter(|member| !member.id().same(leader.id())) {
        let its = member.activity().map_err(unreadable(member.pid()))?;
        if tools_apart && its.session == activity.session {
            cpu += its.cpu;
            helpers += 1;
        } else {
            others += 1;
        }
    }
    let output_bytes = logs.iter().map(|log| length(log)).sum::<Result<u64, String>>()?;
    Ok(Signs { output_bytes, cpu, helpers, others })
}

fn length(log: &Path) -> Result<u64, String> {
    let found = std::fs::metadata(log).map_err(|error| format!("look at {}: {error}", log.display()))?;
    Ok(found.len())
}
