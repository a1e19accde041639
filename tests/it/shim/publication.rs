//! The exit file against all odds.

use std::fs;
use std::fs::File;
use std::io::Write as _;

use agentctl::wire::session_dir::{FileError, ShimLock, create_private_dir};

use inotify::{EventMask, Inotify, WatchMask};

use super::{Session, until};

#[test]
fn what_lies_in_the_way_of_an_exit_file_is_moved_aside() {
    let session = Session::script("exit 7");
    let published = session.files.exit_path().display().to_string();
    fs::write(&published, "planted").expect("written");
    fs::write(format!("{published}.rejected"), "older").expect("written");
    let mut shim = session.start();
    let (exit, _) = shim.finish();
    let aside = |suffix: &str| fs::read_to_string(format!("{published}{suffix}")).expect("kept");
    assert_eq!((aside(".rejected"), aside(".rejected.2")), ("older".to_owned(), "planted".to_owned()));
    assert_eq!(exit.status.and_then(|status| status.code()), Some(7));
}

#[test]
fn an_exit_file_waits_for_its_directory() {
    let mut shim = Session::gated("read x <gate; exit 5").start();
    shim.leader_handle();
    fs::remove_dir(shim.path("exits")).expect("removed");
    shim.open("gate");
    let complete = until("the unpublished file", || shim.files().read_unpublished_exit().ok());
    assert_eq!(complete.status.and_then(|status| status.code()), Some(5));
    assert_eq!(shim.files().shim_lock().expect("asked"), ShimLock::Held);
    create_private_dir(&shim.path("exits")).expect("created again");
    let (exit, _) = shim.finish();
    assert_eq!(exit, complete);
    assert!(matches!(shim.files().read_unpublished_exit(), Err(FileError::Missing { .. })));
}

#[test]
fn nobody_waits_for_a_deleted_session() {
    let mut shim = Session::gated("echo ran; read x <gate").start();
    shim.heard("ran");
    let mut gate = File::options().read(true).write(true).open(shim.path("gate")).expect("the gate");
    // The shim may make a file in there at this moment.
    until("the session to be deleted", || fs::remove_dir_all(shim.path("sessions")).is_ok().then_some(()));
    gate.write_all(b"go\n").expect("an open gate");
    assert_eq!(shim.wait().code(), Some(0));
}

/// Whoever watches `exits/` would read it twice, the second time while its verdict is being written.
#[test]
fn an_exit_file_is_news_once() {
    let mut shim = Session::gated("read x <gate; exit 5").start();
    shim.leader_handle();
    let mut exits = Inotify::init().expect("inotify");
    exits.watches().add(shim.path("exits"), WatchMask::MOVED_TO | WatchMask::CLOSE_WRITE).expect("a watch");
    shim.open("gate");
    shim.finish();
    let mut buffer = [0; 1_024];
    let told: Vec<_> = exits.read_events(&mut buffer).expect("news").map(|event| event.mask).collect();
    assert_eq!(told, [EventMask::MOVED_TO]);
}
