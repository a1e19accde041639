//! What is checked of a host, and what each finding means for the sessions on it.
//!
//! Owns the words. Refuses to change anything, and to be needed: every loss it names is handled where it happens.
//! What the daemon knows of itself is checked in `daemon/doctor.rs`; this half also answers without one.

use std::path::Path;

use crate::limits;
use crate::sys::cgroup::scope::Scopes;
use crate::sys::cgroup::{self, CgroupMode};
use crate::sys::features::Features;
use crate::sys::host_limits::{Bound, HostLimits, Systemd};
use crate::wire::api::{Check, CheckState};

/// Everything that can be told of this host.
pub fn host(
    features: &Features,
    host: &HostLimits,
    systemd: &Systemd,
    found: &Scopes,
    max_sessions: usize,
) -> Vec<Check> {
    let mut checks = kernel(features);
    checks.push(cgroups(&features.cgroup));
    checks.push(scopes(found));
    checks.extend(room(host, max_sessions));
    checks.push(service(systemd));
    checks.extend(testing_aid(&features.without));
    checks
}

/// What the kernel offers, and what is lost without it.
fn kernel(features: &Features) -> Vec<Check> {
    let offered = |name, there, gives: &str, lost: &str| {
        let state = if there { CheckState::Ok } else { CheckState::Note };
        Check::new(name, state, if there { gives } else { lost })
    };
    let pidfd = if features.pidfd {
        Check::new("pidfd", CheckState::Ok, "processes are held by descriptor, never by number")
    } else {
        Check::new("pidfd", CheckState::Problem, "the kernel has no pidfd_open: ends are seen a second late")
            .advise("use Linux 5.3 or newer")
    };
    let ring = match &features.io_uring {
        Ok(()) => Check::new("io_uring", CheckState::Ok, "ends are awaited on a ring"),
        Err(why) => Check::new("io_uring", CheckState::Note, format!("{why}: epoll is used, same promises")),
    };
    vec![
        pidfd,
        ring,
        offered(
            "pidfs handles",
            features.pidfs_handles,
            "after a restart a process is found again for certain",
            "after a restart a process is found by number and start time, which can be fooled (Linux 6.14 has handles)",
        ),
        offered(
            "exit status",
            features.info_exit,
            "the kernel keeps the status of a run whose shim was killed",
            "the status of a run whose shim was killed is lost (Linux 6.15 keeps it)",
        ),
        offered(
            "reap notice",
            features.reap_notice,
            "the kernel tells when a process is reaped",
            "when a process is reaped is not told (Linux 6.9 does)",
        ),
        offered(
            "children lists",
            features.children_lists,
            "a tree costs what it holds",
            "a tree is found by reading all of /proc (no CONFIG_PROC_CHILDREN)",
        ),
    ]
}

fn cgroups(mode: &CgroupMode) -> Check {
    match mode {
        CgroupMode::Own { base, why } => Check::new(
            "cgroups",
            CheckState::Ok,
            format!("one for each session, below {} ({why})", base.display()),
        ),
        CgroupMode::None { why } => Check::new(
            "cgroups",
            CheckState::Note,
            format!("none ({why}): a session's tree is its shim's descendants"),
        ),
    }
}

fn scopes(found: &Scopes) -> Check {
    match found {
        Scopes::Made(manager) => {
            let found = format!(
                "one for each session in {} of the user's manager ({}), whatever becomes of the daemon's unit",
                cgroup::scope::SLICE,
                manager.why
            );
            match &manager.until_logout {
                Some(user) => Check::new("scopes", CheckState::Note, found)
                    .advise(format!("sudo loginctl enable-linger {user}")),
                None => Check::new("scopes", CheckState::Ok, found),
            }
        }
        Scopes::None { why, linger } => {
            let check = Check::new(
                "scopes",
                CheckState::Note,
                format!("none ({why}): sessions stay where the daemon is"),
            );
            match linger {
                Some(user) => check.advise(format!("sudo loginctl enable-linger {user}")),
                None => check,
            }
        }
    }
}

/// The limits against the number of sessions that the configuration allows.
fn room(host: &HostLimits, max_sessions: usize) -> Vec<Check> {
    let wanted = u64::try_from(max_sessions).unwrap_or(u64::MAX);
    let holds = |name: &'static str, bound: Option<Bound>, kept: u64, each: u64, raise: &str| match bound {
        None => Check::new(name, CheckState::Unknown, "the limit cannot be read"),
        Some(Bound::Unlimited) => Check::new(name, CheckState::Ok, "no limit"),
        Some(Bound::AtMost(limit)) => {
            let sessions = limit.saturating_sub(kept) / each;
            let found = format!("{limit}: room for {sessions} sessions, {wanted} are allowed");
            if sessions >= wanted {
                Check::new(name, CheckState::Ok, found)
            } else {
                Check::new(name, CheckState::Note, found).advise(format!("{raise}, or lower max_sessions"))
            }
        }
    };
    vec![
        holds(
            "open files",
            Some(host.files),
            limits::FILES_FOR_ITSELF,
            limits::FILES_PER_SESSION,
            "raise the hard limit of open files (LimitNOFILE= of the unit)",
        ),
        holds("processes", Some(host.processes), 0, limits::PIDS_PER_SESSION, "raise ulimit -u"),
        holds(
            "process numbers",
            host.pids.map(Bound::AtMost),
            limits::PIDS_OF_THE_HOST,
            limits::PIDS_PER_SESSION,
            "raise the sysctl kernel.pid_max",
        ),
        watches(host),
    ]
}

/// One instance for exits/ and one for all logs, however many sessions there are.
fn watches(host: &HostLimits) -> Check {
    if let Some(why) = &host.inotify_refused {
        let found = format!(
            "no instance is to be had ({why}): ends are known by pidfd, and exit files looked for then"
        );
        return Check::new("inotify", CheckState::Problem, found)
            .advise("raise the sysctl fs.inotify.max_user_instances, or see who uses them");
    }
    match (host.inotify_instances, host.inotify_watches) {
        (Some(instances), Some(watches)) => {
            let found = format!(
                "{instances} instances and {watches} watches for this user; a daemon takes 2 and one a log that is read"
            );
            if instances < 4 {
                Check::new("inotify", CheckState::Problem, found)
                    .advise("raise the sysctl fs.inotify.max_user_instances")
            } else {
                Check::new("inotify", CheckState::Ok, found)
            }
        }
        (None, _) | (_, None) => Check::new("inotify", CheckState::Unknown, "its limits cannot be read"),
    }
}

fn service(systemd: &Systemd) -> Check {
    match (systemd.booted, &systemd.unit) {
        (_, Some(unit)) => Check::new("systemd", CheckState::Ok, format!("part of {unit}")),
        (true, None) => {
            Check::new("systemd", CheckState::Note, "runs here, and this is part of no unit of it")
        }
        (false, None) => {
            Check::new("systemd", CheckState::Note, "does not run here: nobody restarts the daemon")
        }
    }
}

/// Said loudly: a host that is weaker than it must be is a mistake outside of tests.
fn testing_aid(without: &str) -> Option<Check> {
    let found = format!("AGENTCTL_SYS_WITHOUT={without}: done without, as if this host lacked it");
    (!without.is_empty()).then(|| {
        Check::new("testing aid", CheckState::Note, found)
            .advise("unset AGENTCTL_SYS_WITHOUT and restart the daemon")
    })
}

/// Whether the shim is where it is looked for.
pub fn shim(program: Result<&Path, &std::io::Error>) -> Check {
    match program {
        Ok(path) => Check::new("shim", CheckState::Ok, path.display().to_string()),
        Err(error) => {
            Check::new("shim", CheckState::Problem, format!("agentctl-shim cannot be opened: {error}"))
                .advise("install agentctl-shim in the same directory as agentctl")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::cgroup::scope::Manager;

    fn everything() -> Features {
        Features {
            pidfd: true,
            reap_notice: true,
            pidfs_handles: true,
            info_exit: true,
            children_lists: true,
            io_uring: Ok(()),
            cgroup: CgroupMode::Own { base: "/sys/fs/cgroup/x".into(), why: "ours".into() },
            without: String::new(),
        }
    }

    fn roomy() -> HostLimits {
        HostLimits {
            files: Bound::AtMost(1 << 20),
            processes: Bound::Unlimited,
            pids: Some(4 << 20),
            inotify_instances: Some(128),
            inotify_watches: Some(8_192),
            inotify_refused: None,
        }
    }

    fn made() -> Scopes {
        Scopes::Made(Manager {
            bus: "/run/user/7/bus".into(),
            cgroup: "/sys/fs/cgroup/m".into(),
            why: "the manager lingers".into(),
            until_logout: None,
        })
    }

    const UNIT: &str = "agentctl.service";

    fn states(
        features: &Features,
        host_limits: &HostLimits,
        max_sessions: usize,
    ) -> Vec<(String, CheckState)> {
        let systemd = Systemd { booted: true, unit: Some(UNIT.into()) };
        let checks = host(features, host_limits, &systemd, &made(), max_sessions);
        checks.into_iter().map(|check| (check.name, check.state)).collect()
    }

    /// What differs from a host that has everything.
    #[track_caller]
    fn check(
        features: &Features,
        host_limits: &HostLimits,
        max_sessions: usize,
        differ: &[(&str, CheckState)],
    ) {
        let states = states(features, host_limits, max_sessions);
        let found: Vec<_> = states.iter().filter(|(_, state)| *state != CheckState::Ok).collect();
        let found: Vec<_> = found.iter().map(|(name, state)| (name.as_str(), *state)).collect();
        assert_eq!(found, differ);
    }

    #[test]
    fn a_host_that_has_everything_is_all_ok() {
        check(&everything(), &roomy(), 10_000, &[]);
    }

    #[test]
    fn what_a_weaker_kernel_lacks_is_a_note_each_and_no_pidfd_a_problem() {
        let weak = Features {
            pidfd: false,
            reap_notice: false,
            pidfs_handles: false,
            info_exit: false,
            children_lists: false,
            io_uring: Err("refused".into()),
            cgroup: CgroupMode::None { why: "no cgroup2".into() },
            without: "pidfs".into(),
        };
        let note = CheckState::Note;
        let expected = [
            ("pidfd", CheckState::Problem),
            ("io_uring", note),
            ("pidfs handles", note),
            ("exit status", note),
            ("reap notice", note),
            ("children lists", note),
            ("cgroups", note),
            ("testing aid", note),
        ];
        check(&weak, &roomy(), 10_000, &expected);
    }

    #[test]
    fn sessions_that_stay_with_the_daemon_are_a_note_with_the_command_where_one_helps() {
        assert_eq!(scopes(&made()).state, CheckState::Ok);
        let Scopes::Made(manager) = made() else { unreachable!("made") };
        let check = scopes(&Scopes::Made(Manager { until_logout: Some("ann".into()), ..manager }));
        let advice = Some("sudo loginctl enable-linger ann");
        assert_eq!((check.state, check.advice.as_deref()), (CheckState::Note, advice));
        for (linger, advice) in [(None, None), (Some("ann"), Some("sudo loginctl enable-linger ann"))] {
            let found = Scopes::None { why: "for a reason".into(), linger: linger.map(str::to_owned) };
            let check = scopes(&found);
            assert_eq!((check.state, check.advice.as_deref()), (CheckState::Note, advice));
            assert!(check.found.contains("for a reason"), "{}", check.found);
        }
    }

    #[test]
    fn limits_are_held_against_the_sessions_that_are_allowed() {
        let tight = HostLimits {
            files: Bound::AtMost(1_024),
            processes: Bound::AtMost(100),
            pids: None,
            inotify_instances: Some(1),
            inotify_watches: Some(1),
            inotify_refused: None,
        };
        let expected = [
            ("open files", CheckState::Note),
            ("processes", CheckState::Note),
            ("process numbers", CheckState::Unknown),
            ("inotify", CheckState::Problem),
        ];
        check(&everything(), &tight, 1_000, &expected);
        check(&everything(), &HostLimits { pids: Some(2_000), ..roomy() }, 10, &[]);
        let used_up = HostLimits { inotify_refused: Some("EMFILE".into()), ..roomy() };
        check(&everything(), &used_up, 10, &[("inotify", CheckState::Problem)]);
    }
}
