//! A testing aid: what the running kernel offers, and this process is to do without.
//!
//! `AGENTCTL_SYS_WITHOUT=pidfs,info_exit` makes the calls behind these features fail as on a kernel that lacks them, so
//! that weaker hosts can be tried, and tested, on a strong one. Only `sys` reads it, where the kernel is called; nothing
//! else knows of it, and no behaviour exists for it alone. A shim is told by the daemon that starts it; sessions are not.

use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

/// The variable.
pub(super) const VARIABLE: &str = "AGENTCTL_SYS_WITHOUT";

/// Something that a host may lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lack {
    /// File handles of processes (Linux 6.14).
    Pidfs,
    /// The status of a reaped process for whoever holds it (Linux 6.15).
    InfoExit,
    /// The news that a process was reaped (Linux 6.9).
    ReapNotice,
    /// io_uring, by seccomp or by kernel.io_uring_disabled.
    IoUring,
    /// inotify instances, all used up.
    Inotify,
    /// Holes in files.
    Holes,
    /// Word that a file in a directory was written to (fcntl(2), F_NOTIFY).
    DirNotify,
}

impl Lack {
    const ALL: [Self; 7] = [
        Self::Pidfs,
        Self::InfoExit,
        Self::ReapNotice,
        Self::IoUring,
        Self::Inotify,
        Self::Holes,
        Self::DirNotify,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Pidfs => "pidfs",
            Self::InfoExit => "info_exit",
            Self::ReapNotice => "reap_notice",
            Self::IoUring => "io_uring",
            Self::Inotify => "inotify",
            Self::Holes => "holes",
            Self::DirNotify => "dir_notify",
        }
    }

    fn bit(self) -> u16 {
        1 << self as u16
    }

    /// What the kernel answers where it is lacking.
    fn errno(self) -> i32 {
        match self {
            Self::Pidfs | Self::Holes => libc::EOPNOTSUPP,
            Self::InfoExit => libc::ENOTTY,
            Self::ReapNotice | Self::DirNotify => libc::EINVAL,
            Self::IoUring => libc::ENOSYS,
            Self::Inotify => libc::EMFILE,
        }
    }
}

/// Not the name of a feature.
#[derive(Debug, thiserror::Error)]
#[error("{VARIABLE} names {0:?}; it takes a list of: {known}", known = Lack::ALL.map(Lack::name).join(", "))]
pub struct UnknownLack(String);

/// Whether this process is to do without it.
pub(super) fn without(feature: Lack) -> bool {
    // Zero: not asked yet. What begins as anything else has its page in each shim, which writes to it.
    static LACKS: AtomicU16 = AtomicU16::new(0);
    const ASKED: u16 = 1 << 15;
    let mut lacks = LACKS.load(Ordering::Relaxed);
    if lacks == 0 {
        lacks = parse(&wanted()).unwrap_or_default().into_iter().fold(ASKED, |bits, lack| bits | lack.bit());
        LACKS.store(lacks, Ordering::Relaxed);
    }
    lacks & feature.bit() != 0
}

/// The kernel's refusal where this process is to do without it.
pub(super) fn refuse(feature: Lack) -> io::Result<()> {
    if without(feature) { Err(io::Error::from_raw_os_error(feature.errno())) } else { Ok(()) }
}

/// Whether the variable can be understood; asked once, at a start.
pub(super) fn check() -> Result<(), UnknownLack> {
    parse(&wanted()).map(|_understood| ())
}

/// The variable as it was given; empty when it was not.
pub(super) fn wanted() -> String {
    std::env::var(VARIABLE).unwrap_or_default()
}

fn parse(text: &str) -> Result<Vec<Lack>, UnknownLack> {
    let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
    let lack = |word: &str| {
        let found = Lack::ALL.into_iter().find(|lack| lack.name() == word);
        found.ok_or_else(|| UnknownLack(word.to_owned()))
    };
    words.map(lack).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_names_is_understood_and_nothing_else() {
        assert_eq!(parse("").expect("nothing"), []);
        assert_eq!(parse("pidfs, info_exit,").expect("two"), [Lack::Pidfs, Lack::InfoExit]);
        let all = Lack::ALL.map(Lack::name).join(",");
        assert_eq!(parse(&all).expect("all"), Lack::ALL);
        let error = parse("pidfs,io-uring").expect_err("a name that is none").to_string();
        assert!(error.contains("\"io-uring\"") && Lack::ALL.iter().all(|lack| error.contains(lack.name())));
    }
}
