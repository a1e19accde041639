//! Tests that need mounts or limits of their own: run again in namespaces of their own, where nothing that they do
//! reaches the rest of the machine.

use std::ffi::CString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, mount_remount, unmount};

use super::play::{stderr, stdout};

/// Set in the second life of a test.
const INSIDE: &str = "AGENTCTL_TEST_INSIDE";

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

fn again(test: &str, namespaces: &[&str]) -> bool {
    if std::env::var(INSIDE).is_ok_and(|inside| inside == test) {
        return true;
    }
    if !Command::new("unshare")
        .args(namespaces)
        .arg("true")
        .output()
        .is_ok_and(|probe| probe.status.success())
    {
        skipped(test, "this host gives no namespaces of one's own");
        return false;
    }
    let me = std::env::current_exe().expect("this program");
    let mut command = Command::new("unshare");
    command.args(namespaces).arg(me).args([test, "--exact", "--nocapture"]).env(INSIDE, test);
    let output = command.output().expect("unshare runs");
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
    let options = CString::new(format!("size={bytes},mode=0700")).expect("plain text");
    mount("tmpfs", at, "tmpfs", MountFlags::empty(), options.as_c_str()).expect("a disk of one's own");
    Mounted(at.to_owned())
}

/// Shows `what` in the place of `at`.
#[track_caller]
pub(crate) fn bind(what: &Path, at: &Path) -> Mounted {
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
