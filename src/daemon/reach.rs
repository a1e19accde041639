//! Whether the processes of a run can be asked for from here: same boot, same pid namespace.
//!
//! Everything that looks for a process by its recorded identity asks through [`find`]. In another pid namespace the
//! kernel answers for a living process as for one that never was; such an answer is no evidence, and none comes from
//! here.

use crate::core::vocab::{HostId, ProcessId, RunId};
use crate::sys::{Backend, Found, ProcessRef};

use super::Daemon;

/// Where a run was started, as seen from this daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// Same boot, same pid namespace.
    Here,
    /// Another pid namespace of this boot: only exit files and free locks count.
    OtherNamespace,
    /// An earlier boot of this machine, or of the container whose first process the daemon was: all of it has ended.
    EarlierBoot,
    /// Another machine: nothing counts but an exit file.
    OtherMachine,
}

impl Reach {
    /// Of a run that was started `there`, for a daemon that is `here`. Boot ids are random, so one that is the same is
    /// the same kernel, whatever a container shows as its machine id. `ended` is a pid namespace that is no more.
    pub(super) fn of(here: &HostId, there: &HostId, ended: Option<u64>) -> Self {
        match (here.boot == there.boot, here.pid_ns == there.pid_ns) {
            (true, true) => Self::Here,
            (true, false) if ended == Some(there.pid_ns) => Self::EarlierBoot,
            (true, false) => Self::OtherNamespace,
            (false, _) if here.is_another_machine_than(there) => Self::OtherMachine,
            (false, _) => Self::EarlierBoot,
        }
    }

    pub(super) fn of_host(daemon: &Daemon, there: &HostId) -> Self {
        Self::of(daemon.sys.host(), there, daemon.ended_container)
    }

    /// Of a run that the journal knows; one that it does not know was started by this very daemon.
    pub(super) fn of_run(daemon: &Daemon, id: RunId) -> Self {
        let core = daemon.core.borrow();
        core.session(id.session).map_or(Self::Here, |session| Self::of_host(daemon, &session.run.host))
    }

    /// What cannot be told for it.
    pub(super) fn limit(self) -> Option<&'static str> {
        match self {
            Self::Here | Self::EarlierBoot => None,
            Self::OtherNamespace => {
                Some("started in another pid namespace of this host; its processes cannot be seen from here")
            }
            Self::OtherMachine => {
                Some("started on another machine; only that machine can tell whether it runs")
            }
        }
    }
}

/// A process of a run, by its recorded identity.
pub(super) fn find(daemon: &Daemon, id: RunId, process: &ProcessId) -> Found {
    let reach = Reach::of_run(daemon, id);
    match (reach, reach.limit()) {
        (_, Some(limit)) => Found::Unknown(limit.to_owned()),
        (Reach::EarlierBoot, None) => Found::Gone,
        (Reach::Here | Reach::OtherNamespace | Reach::OtherMachine, None) => {
            match daemon.sys.started().backend {
                Backend::Portable => ProcessRef::find_portable(process),
                Backend::Uring | Backend::Epoll => ProcessRef::find(process),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_boot_is_the_same_kernel_whatever_the_machine_is_called() {
        let host =
            |machine: &str, boot: &str, pid_ns| HostId { machine: machine.into(), boot: boot.into(), pid_ns };
        let here = host("m", "b", 1);
        for (there, reach) in [
            (here.clone(), Reach::Here),
            (host("", "b", 1), Reach::Here),
            (host("other", "b", 1), Reach::Here),
            (host("m", "b", 2), Reach::OtherNamespace),
            (host("other", "b", 2), Reach::OtherNamespace),
            (host("m", "earlier", 1), Reach::EarlierBoot),
            // Without a name of the machine, another boot is taken for an earlier one.
            (host("", "earlier", 2), Reach::EarlierBoot),
            (host("other", "earlier", 1), Reach::OtherMachine),
        ] {
            assert_eq!(Reach::of(&here, &there, None), reach, "{there:?}");
            let ended = if there == host("m", "b", 2) || there == host("other", "b", 2) {
                Reach::EarlierBoot
            } else {
                reach
            };
            assert_eq!(Reach::of(&here, &there, Some(2)), ended, "{there:?}");
        }
    }
}
