//! Transient scopes of the systemd user manager: a home for a run's processes that is not the daemon's unit.
//!
//! Owns the question whether there can be any, and the making of one. The manager is asked through `busctl`, which
//! comes with it: one bounded helper for a launch, instead of a D-Bus library in the daemon. Whatever goes wrong is an
//! answer for the caller, who has another home: no launch depends on a bus. A scope is the manager's: it goes by itself
//! when its last process has ended, and nothing here removes one.
//!
//! Inside, the shim stays at the top and the session gets a group below it (scopes are made with `Delegate=yes`), so that
//! killing the session's group spares the shim, and an empty one proves that nothing of the session is left.

use std::fmt::Write as _;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{fs, io, thread};

use super::{control, mount_in, unified_path_in};
use crate::core::resources::ResourceLimits;
use crate::core::vocab::RunId;
use crate::sys::tool;

/// The slice that all scopes are in.
pub const SLICE: &str = "agentctl.slice";

/// How long the manager may take to answer; a busy host needs some milliseconds. Limits wait longer: without a scope
/// there is no launch.
const ANSWER_MAX: Duration = Duration::from_secs(2);
const ANSWER_MAX_WITH_LIMITS: Duration = Duration::from_secs(25);
/// How much longer the helper may take altogether.
const HELPER_MORE: Duration = Duration::from_secs(1);
/// How long after the answer the process may take to be in its scope, and the first pause between two looks: it is a
/// matter of the manager's next step, and of its load.
const MOVE_MAX: Duration = Duration::from_secs(1);
const MOVE_FIRST_PAUSE: Duration = Duration::from_micros(500);
/// What the helper may say.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// Scopes have no policy for a lack of memory before systemd 253; since then the manager would end a session of which the
/// kernel killed one process. One manager for the daemon's life, as good as always: a newer one is met at its next start.
static LACKS_OOM_POLICY: AtomicBool = AtomicBool::new(false);

/// The session's group in its scope.
const GROUP: &str = "session";

/// Whether runs get scopes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scopes {
    /// Yes.
    Made(Manager),
    /// No.
    None {
        /// Why not, for people.
        why: String,
        /// All that is missing is that the manager lives on after a logout: the user's name, if it is known.
        linger: Option<String>,
    },
}

/// A user manager that lives as long as the daemon, or longer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manager {
    /// The socket of the user's bus.
    pub bus: PathBuf,
    /// The manager's cgroup.
    pub cgroup: PathBuf,
    /// Why it is the right home, for people.
    pub why: String,
    /// It ends with the user's last logout, and all in it: the user's name, if it is known.
    pub until_logout: Option<String>,
}

/// A scope that a process is in now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// The scope: limited and counted as a whole.
    pub scope: PathBuf,
    /// The group in it that the session's processes enter.
    pub session: PathBuf,
}

/// Looks whether there can be scopes, anew each time: somebody may have enabled lingering meanwhile.
pub fn scopes() -> Scopes {
    let none = |why: &str| Scopes::None { why: why.to_owned(), linger: None };
    if !Path::new("/run/systemd/system").exists() {
        return none("no systemd here");
    }
    let uid = rustix::process::geteuid().as_raw();
    let bus = PathBuf::from(format!("/run/user/{uid}/bus"));
    if !fs::metadata(&bus).is_ok_and(|found| found.file_type().is_socket()) {
        return none("the user has no systemd manager with a bus");
    }
    let (Ok(mounts), Ok(own)) =
        (fs::read_to_string("/proc/self/mountinfo"), fs::read_to_string("/proc/self/cgroup"))
    else {
        return none("/proc/self cannot be read");
    };
    let unit = format!("user@{uid}.service");
    let path = format!("/user.slice/user-{uid}.slice/{unit}");
    let cgroup = directory(&mounts, &path).filter(|dir| dir.join("cgroup.procs").exists());
    let Some(cgroup) = cgroup else {
        return none("the user's manager has no cgroup of version 2 that we see");
    };
    let is_ours = unified_path_in(&own).is_some_and(|path| path.split('/').any(|part| part == unit));
    let name = user_name(uid);
    let lingers = name.as_ref().is_some_and(|name| Path::new("/var/lib/systemd/linger").join(name).exists());
    let name = name.unwrap_or_else(|| "$USER".to_owned());
    let (why, until_logout) = match (is_ours, lingers) {
        (true, true) => ("the daemon is the manager's own", None),
        (true, false) => ("the daemon is the manager's own, and ends with it at the last logout", Some(name)),
        (false, true) => ("the manager lingers", None),
        (false, false) => {
            return Scopes::None {
                why: "the user's manager ends at the last logout (no lingering)".to_owned(),
                linger: Some(name),
            };
        }
    };
    Scopes::Made(Manager { bus, cgroup, why: why.to_owned(), until_logout })
}

/// The directory of a cgroup, where the mount shows it.
fn directory(mountinfo: &str, path: &str) -> Option<PathBuf> {
    let (mount_point, root) = mount_in(mountinfo)?;
    Some(mount_point.join(Path::new(path).strip_prefix(&root).ok()?))
}

/// By logind's own record of the user.
fn user_name(uid: u32) -> Option<String> {
    let record = fs::read_to_string(format!("/run/systemd/users/{uid}")).ok()?;
    let name = record.lines().find_map(|line| line.strip_prefix("NAME="))?;
    (!name.is_empty() && !name.contains('/')).then(|| name.to_owned())
}

impl Manager {
    /// Whether a scope can have these limits; else why not, and what to do.
    pub fn can_limit(&self, limits: &ResourceLimits) -> Result<(), String> {
        control::offers(&self.cgroup.join("cgroup.controllers"), limits).map_err(|missing| {
            format!(
                "limits cannot be kept: the user's manager has no controllers {missing} ({}); have them delegated to \
                 user@.service (Delegate=), or launch without them",
                self.cgroup.display()
            )
        })
    }

    /// Puts the process `pid`, a child of ours that waits, into a scope of its own with these limits. Blocks for some
    /// milliseconds, at most some seconds. After an error the process is where it was, or nearly: a manager that was
    /// merely slow may still move it later, which harms nobody.
    pub fn make(&self, run: RunId, pid: u32, limits: &ResourceLimits) -> Result<Made, String> {
        let unit = format!("agentctl-{run}.scope");
        self.start_unit(&unit, run, pid, limits)?;
        let scope = self.await_move(pid, &unit)?;
        if !limits.is_none() {
            control::limited(&scope, limits)?;
        }
        let session = scope.join(GROUP);
        match fs::create_dir(&session) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(format!("make {}: {error}", session.display()))
            }
            Ok(()) | Err(_) => Ok(Made { scope, session }),
        }
    }

    /// StartTransientUnit (org.freedesktop.systemd1(5)).
    fn start_unit(&self, unit: &str, run: RunId, pid: u32, limits: &ResourceLimits) -> Result<(), String> {
        let answer_max = if limits.is_none() { ANSWER_MAX } else { ANSWER_MAX_WITH_LIMITS };
        if !LACKS_OOM_POLICY.load(Ordering::Relaxed) {
            let mut properties = properties(run, pid, limits);
            properties.push(["OOMPolicy", "s", "continue"].map(str::to_owned).to_vec());
            match self.call(unit, properties, answer_max) {
                Err(why) if why.contains("OOMPolicy") => LACKS_OOM_POLICY.store(true, Ordering::Relaxed),
                done => return done,
            }
        }
        self.call(unit, properties(run, pid, limits), answer_max)
    }

    fn call(&self, unit: &str, properties: Vec<Vec<String>>, answer_max: Duration) -> Result<(), String> {
        let mut address = String::from("unix:path=");
        for byte in self.bus.as_os_str().as_encoded_bytes() {
            match byte {
                b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'-' | b'_' | b'/' | b'.' => {
                    address.push(char::from(*byte))
                }
                other => write!(address, "%{other:02x}").expect("a String takes all"),
            }
        }
        let count = properties.len().to_string();
        let mut busctl = Command::new("busctl");
        busctl
            .arg(format!("--address={address}"))
            .arg(format!("--timeout={}", answer_max.as_secs()))
            .args(["--quiet", "call", "org.freedesktop.systemd1", "/org/freedesktop/systemd1"])
            .args(["org.freedesktop.systemd1.Manager", "StartTransientUnit", "ssa(sv)a(sa(sv))"])
            .args([unit, "fail", &count])
            .args(properties.into_iter().flatten())
            .arg("0")
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        let ran = tool::run(&mut busctl, answer_max + HELPER_MORE, ANSWER_BYTES_MAX);
        let ran = ran.map_err(|error| format!("busctl: {error}"))?;
        if ran.success {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&ran.stderr);
        Err(format!("the user's manager refused: {}", said.trim()))
    }

    /// The answer says that the job is queued; it is done when the kernel shows the process in the scope.
    fn await_move(&self, pid: u32, unit: &str) -> Result<PathBuf, String> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(|error| error.to_string())?;
        let mut pause = MOVE_FIRST_PAUSE;
        loop {
            let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup"));
            let cgroup = cgroup.map_err(|error| format!("see the cgroup of the shim: {error}"))?;
            let path = unified_path_in(&cgroup).filter(|path| path.rsplit('/').next() == Some(unit));
            if let Some(path) = path {
                return directory(&mounts, &path).ok_or_else(|| format!("the scope {path} is not mounted"));
            }
            if pause > MOVE_MAX {
                return Err(format!("the user's manager did not put the shim into {unit}"));
            }
            thread::sleep(pause);
            pause *= 2;
        }
    }
}

/// Name, signature and value of each property, as busctl takes them.
fn properties(run: RunId, pid: u32, limits: &ResourceLimits) -> Vec<Vec<String>> {
    let number = |name: &str, value: u64| vec![name.to_owned(), "t".to_owned(), value.to_string()];
    let text = |name: &str, value: &str| vec![name.to_owned(), "s".to_owned(), value.to_owned()];
    let description = format!("agentctl session {}, run {}", run.session.short(), run.run);
    let mut all = vec![
        text("Description", &description),
        text("Slice", SLICE),
        text("CollectMode", "inactive-or-failed"),
        ["Delegate", "b", "true"].map(str::to_owned).to_vec(),
        vec!["PIDs".to_owned(), "au".to_owned(), "1".to_owned(), pid.to_string()],
    ];
    all.extend(limits.memory_max_bytes.map(|bytes| number("MemoryMax", bytes)));
    all.extend(
        limits.cpu_quota_percent.map(|percent| number("CPUQuotaPerSecUSec", u64::from(percent) * 10_000)),
    );
    // The shim is in the scope too.
    all.extend(limits.tasks_max.map(|count| number("TasksMax", count.saturating_add(1))));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run() -> RunId {
        RunId { session: "0b0f7a52-6f6e-4a3c-9d53-1f1c7a1f1c11".parse().expect("an id"), run: 2 }
    }

    #[test]
    fn a_scope_is_delegated_holds_the_shim_and_has_the_limits_that_were_asked() {
        let words = |limits: &ResourceLimits| properties(run(), 77, limits).concat().join(" ");
        let bare = words(&ResourceLimits::default());
        for part in ["Slice s agentctl.slice", "Delegate b true", "PIDs au 1 77", "session 0b0f7a52, run 2"] {
            assert!(bare.contains(part), "{bare}");
        }
        assert!(!bare.contains("Max"), "{bare}");
        let all = words(&ResourceLimits {
            memory_max_bytes: Some(4096),
            cpu_quota_percent: Some(150),
            tasks_max: Some(10),
        });
        assert!(all.ends_with("MemoryMax t 4096 CPUQuotaPerSecUSec t 1500000 TasksMax t 11"), "{all}");
    }

    #[test]
    fn a_bus_that_nobody_serves_is_an_answer() {
        let dir = tempfile::tempdir().expect("a directory");
        let manager = Manager {
            bus: dir.path().join("b,us"),
            cgroup: dir.path().into(),
            why: String::new(),
            until_logout: None,
        };
        let why = manager.make(run(), std::process::id(), &ResourceLimits::default());
        assert!(why.is_err(), "{why:?}");
    }

    #[test]
    fn a_bus_that_never_answers_is_given_up() {
        let dir = tempfile::tempdir().expect("a directory");
        let bus = dir.path().join("bus");
        // Connections wait in its backlog for ever.
        let _deaf = std::os::unix::net::UnixListener::bind(&bus).expect("a socket");
        let manager = Manager { bus, cgroup: dir.path().into(), why: String::new(), until_logout: None };
        manager.make(run(), std::process::id(), &ResourceLimits::default()).expect_err("nobody answered");
    }
}
