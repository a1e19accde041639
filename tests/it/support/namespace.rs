//! Tests that need mounts or limits of their own: run again in namespaces of their own, where nothing that they do
//! reaches the rest of the machine.

use std::ffi::CString;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, mount_remount, unmount};

use super::play::{stderr, stdout};

/// Set in the second life of a test.
const INSIDE: &str = "AGENTCTL_TEST_INSIDE";
/// And the mount namespace of its first life.
const OUTSIDE: &str = "AGENTCTL_TEST_OUTSIDE";

/// False in the first life of a test, which has then run its second one; true in that. `test` is its full name.
#[must_use]
pub(crate) fn in_own_mounts(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    again(test, if root { &["--mount"] } else { &["--user", "--map-root-user", "--mount"] })
}

/// The same with a user namespace of its own, whose limits can be lowered.
#[must_use]
pub(crate) fn in_own_limits(test: &str) -> bool {
    again(test, &["--user", "--map-root-user", "--mount"])
}

/// The same as PID 1 of a pid namespace of its own, with mounts of its own. Orphans come to the test and are reaped by
/// nobody but it.
#[must_use]
pub(crate) fn in_own_pids(test: &str) -> bool {
    let mut namespaces = vec!["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"];
    if !rustix::process::geteuid().is_root() {
        namespaces.extend(["--user", "--map-root-user"]);
    }
    again(test, &namespaces)
}

/// What a seccomp filter answers with EPERM.
#[derive(Clone, Copy)]
pub(crate) enum Denied {
    IoUring,
    OpenByHandle,
}

/// The same with a seccomp filter on the test and all that it starts.
#[must_use]
pub(crate) fn under_seccomp(test: &str, denied: &[Denied]) -> bool {
    if !again(test, &[]) {
        return false;
    }
    let number = |denied: &Denied| match denied {
        Denied::IoUring => libc::SYS_io_uring_setup,
        Denied::OpenByHandle => libc::SYS_open_by_handle_at,
    };
    let filter = SeccompFilter::new(
        denied.iter().map(|denied| (number(denied), Vec::new())).collect(),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EPERM.cast_unsigned()),
        std::env::consts::ARCH.try_into().expect("an architecture with seccomp"),
    );
    let program: BpfProgram = filter.and_then(TryInto::try_into).expect("a filter");
    seccompiler::apply_filter(&program).expect("a filter on this thread and its children");
    true
}

/// Whoever changes what a mount namespace shows, or a setting, is in one of its own.
#[track_caller]
fn assert_own(what: &str) {
    let own = std::env::var(OUTSIDE).is_ok_and(|outside| outside != mount_namespace());
    assert!(own, "{what} would be changed for the whole machine");
}

fn mount_namespace() -> String {
    std::fs::read_link("/proc/self/ns/mnt").expect("a namespace").display().to_string()
}

/// Writes a setting of the kernel that belongs to a namespace of the test's own. Nothing else may be set by a test.
#[track_caller]
pub(crate) fn own_setting(path: &str, value: &str) {
    assert_own(path);
    std::fs::write(path, value).unwrap_or_else(|error| panic!("{path}: {error}"));
}

fn again(test: &str, namespaces: &[&str]) -> bool {
    if std::env::var(INSIDE).is_ok_and(|inside| inside == test) {
        return true;
    }
    let me = std::env::current_exe().expect("this program");
    let mut command = if namespaces.is_empty() {
        Command::new(me)
    } else {
        let probe = Command::new("unshare").args(namespaces).arg("true").output();
        if !probe.is_ok_and(|probe| probe.status.success()) {
            skipped(test, "this host gives no namespaces of one's own");
            return false;
        }
        let mut command = Command::new("unshare");
        command.args(namespaces).arg(me);
        command
    };
    let output = command
        .args([test, "--exact", "--nocapture"])
        .env(INSIDE, test)
        .env(OUTSIDE, mount_namespace())
        .output();
    let output = output.expect("the second life of a test runs");
    assert!(output.status.success(), "{}\n{}", stdout(&output), stderr(&output));
    assert!(stdout(&output).contains("1 passed"), "no test is called {test}:\n{}", stdout(&output));
    let told = stderr(&output);
    if let Some(line) = told.lines().find(|line| line.starts_with("SKIPPED")) {
        skipped(test, line);
    }
    false
}

/// A mount that goes with this value.
#[must_use = "dropping it takes the mount away"]
pub(crate) struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        // Whoever still uses it keeps it until then.
        let _gone_already = unmount(&self.0, UnmountFlags::DETACH);
    }
}

/// A disk of so many bytes at a directory.
#[track_caller]
pub(crate) fn small_disk(at: &Path, bytes: usize) -> Mounted {
    assert_own("a mount");
    let options = CString::new(format!("size={bytes},mode=0700")).expect("plain text");
    mount("tmpfs", at, "tmpfs", MountFlags::empty(), options.as_c_str()).expect("a disk of one's own");
    Mounted(at.to_owned())
}

/// A file system at a directory that answers nothing, while this value is there; `None` where there cannot be one.
#[must_use = "dropping it takes the mount away"]
pub(crate) fn hanging(at: &Path) -> Option<(Mounted, File)> {
    assert_own("a mount");
    let fuse = File::options().read(true).write(true).open("/dev/fuse").ok()?;
    let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", fuse.as_raw_fd());
    let options = CString::new(options).expect("plain text");
    mount("hangs", at, "fuse", MountFlags::empty(), options.as_c_str()).ok()?;
    Some((Mounted(at.to_owned()), fuse))
}

/// Shows `what` in the place of `at`.
#[track_caller]
pub(crate) fn bind(what: &Path, at: &Path) -> Mounted {
    assert_own("a mount");
    mount_bind(what, at).expect("a mount of one's own");
    Mounted(at.to_owned())
}

/// Makes a file or directory read-only.
#[track_caller]
pub(crate) fn read_only(at: &Path) -> Mounted {
    let mounted = bind(at, at);
    mount_remount(at, MountFlags::BIND | MountFlags::RDONLY, c"").expect("a mount of one's own");
    mounted
}

/// A test that skips itself says so loudly: print macros are kept quiet by the test harness.
pub(crate) fn skipped(test: &str, why: &str) {
    let _nobody = std::io::stderr().write_all(format!("\nSKIPPED {test}: {why}\n").as_bytes());
}
