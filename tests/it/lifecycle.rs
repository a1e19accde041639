//! One session from launch to verdict, through the real command line and a real daemon.

use crate::support::daemon::Daemon;

#[test]
fn run_prints_the_output_and_exits_with_the_code() {
    let daemon = Daemon::new();
    let output = daemon.run(["run", "--", "sh", "-c", "echo out; echo err >&2; exit 42"]);
    assert_eq!(output.status.code(), Some(42), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "out\n");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.starts_with("err\nagentctl: session "), "{stderr}");
    assert!(stderr.contains(" failed, exit code 42 after ") && stderr.contains("exit_file"), "{stderr}");
}
