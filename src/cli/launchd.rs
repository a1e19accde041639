//! The user's own daemon under launchd: the property list for where the program really is, and its way in and out.
//!
//! The list is made of the one that is shipped (packaging/launchd), so there is one text of it. Refuses to touch a list
//! that is not ours, told by its mark. All of it is compiled and tested everywhere, and used on macOS (units.rs).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::sys::tool;

use super::Failure;
use super::client::set;
use super::units::Scope;

const SHIPPED: &str = include_str!("../../packaging/launchd/agentctl.plist");
/// Instead of the comment at the head of the shipped one.
const MARK: &str = "<!-- Written by: agentctl daemon install -->";
const LABEL: &str = "agentctl";
/// launchctl may take so long, and say so much.
const LAUNCHCTL_MAX: Duration = Duration::from_secs(60);
const LAUNCHCTL_BYTES_MAX: usize = 64 << 10;

/// Whose daemon it is, and where its program is.
#[derive(Clone, Debug)]
pub(crate) struct Agent {
    pub(crate) home: PathBuf,
    pub(crate) uid: u32,
    pub(crate) program: PathBuf,
}

impl Agent {
    /// Of the user who asks, with this program.
    pub(crate) fn find(scope: &Scope) -> Result<Self, Failure> {
        let refused = |why: &str| Failure::new(1, why);
        if matches!(scope, Scope::System(_)) {
            return Err(refused("launchd runs the daemon of the user who installs it; leave out --system"));
        }
        if set("AGENTCTL_HOME").is_some() {
            let why = "AGENTCTL_HOME is set, and the LaunchAgent serves ~/.agentctl; unset it, or run: agentctl daemon start";
            return Err(refused(why));
        }
        let home = set("HOME").ok_or_else(|| refused("HOME is not set"))?.into();
        let uid = rustix::process::getuid().as_raw();
        Ok(Self { home, uid, program: std::env::current_exe()? })
    }

    fn path(&self) -> PathBuf {
        self.home.join(format!("Library/LaunchAgents/{LABEL}.plist"))
    }

    /// The property list (launchd.plist(5)).
    fn plist(&self) -> Result<String, Failure> {
        let (head, rest) = SHIPPED.split_once("<!--").expect("it begins with a comment");
        let (_, rest) = rest.split_once("-->").expect("which ends");
        let list = rest.replace("@PROGRAM@", &text(&self.program)?).replace("@HOME@", &text(&self.home)?);
        Ok(format!("{head}{MARK}{list}"))
    }

    /// Writes the list; with `now` also has it loaded, which starts the daemon. `launchctl` is run with these words. The
    /// lines to show.
    pub(crate) fn install(
        &self,
        now: bool,
        mut launchctl: impl FnMut(&[String]) -> Result<(), String>,
    ) -> Result<Vec<String>, Failure> {
        let path = self.path();
        if path.exists() && !is_ours(&path) {
            let why = format!("{} is not of agentctl daemon install; move it away first", path.display());
            return Err(Failure::new(1, why));
        }
        let list = self.plist()?;
        let failed = |error: std::io::Error| Failure::new(1, format!("write {}: {error}", path.display()));
        let above = path.parent().unwrap_or(&self.home);
        // Where its log goes is there on every system of this kind.
        fs::create_dir_all(above).and_then(|()| fs::write(&path, list)).map_err(failed)?;
        let mut said = vec![format!("Wrote {}", path.display())];
        if now {
            // A job of that name that is loaded is one of an earlier list.
            let _was_none = launchctl(&self.bootout());
            let words = ["bootstrap".to_owned(), format!("gui/{}", self.uid), path.display().to_string()];
            launchctl(&words).map_err(|why| Failure::new(1, why))?;
            said.push(format!("Started {LABEL}"));
        } else {
            said.push(
                "It is started at the next login; at once with: agentctl daemon install --now".to_owned(),
            );
        }
        Ok(said)
    }

    fn bootout(&self) -> [String; 2] {
        ["bootout".to_owned(), format!("gui/{}/{LABEL}", self.uid)]
    }

    /// Has the job stopped and forgotten, and removes what [`install`](Self::install) wrote. Sessions live on.
    pub(crate) fn uninstall(
        &self,
        launchctl: impl FnOnce(&[String]) -> Result<(), String>,
    ) -> Result<Vec<String>, Failure> {
        let path = self.path();
        if !is_ours(&path) {
            let why = format!("nothing of agentctl daemon install is at {}", path.display());
            return Err(Failure::new(1, why));
        }
        // One that was never loaded is none that could be stopped.
        let stopped = launchctl(&self.bootout());
        let removed = fs::remove_file(&path);
        removed.map_err(|error| Failure::new(1, format!("remove {}: {error}", path.display())))?;
        let stopped = match stopped {
            Ok(()) => format!("Stopped {LABEL}; sessions live on"),
            Err(why) => format!("Not stopped, if it was running at all: {why}"),
        };
        Ok(vec![stopped, format!("Removed {}", path.display())])
    }
}

/// Runs `launchctl` with these words; the error is what it complained of.
pub(crate) fn launchctl(words: &[String]) -> Result<(), String> {
    let ran = tool::run(Command::new("launchctl").args(words), LAUNCHCTL_MAX, LAUNCHCTL_BYTES_MAX);
    let ran = ran.map_err(|error| format!("launchctl: {error}"))?;
    let said = String::from_utf8_lossy(&ran.stderr);
    if ran.success { Ok(()) } else { Err(format!("launchctl {}: {}", words.join(" "), said.trim())) }
}

fn is_ours(path: &Path) -> bool {
    fs::read_to_string(path).is_ok_and(|text| text.contains(MARK))
}

/// A path as the text of an element.
fn text(path: &Path) -> Result<String, Failure> {
    let fits = |text: &&str| !text.contains(char::is_control);
    let plain = path.to_str().filter(fits);
    let plain = plain
        .ok_or_else(|| Failure::new(1, format!("{} cannot be named in a property list", path.display())))?;
    Ok(plain.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOLDEN: &str = include_str!("../../tests/fixtures/launchd/agentctl.plist");

    fn agent(home: &Path) -> Agent {
        Agent { home: home.into(), uid: 501, program: "/opt/R&D <tools>/agentctl".into() }
    }

    #[test]
    fn the_list_names_the_program_where_it_is() {
        assert_eq!(agent(Path::new("/Users/ann")).plist().expect("a list"), GOLDEN);
        assert!(!GOLDEN.contains('@'), "nothing is left to be filled in");
        let odd = Agent { program: "/a\nb".into(), ..agent(Path::new("/")) };
        assert!(odd.plist().is_err());
    }

    #[test]
    fn others_read_the_list_as_it_is_meant() {
        let read = "import plistlib, sys\nl = plistlib.load(open(sys.argv[1], 'rb'))\n\
            print(l['Label'], l['ProgramArguments'], l['KeepAlive'], l['AbandonProcessGroup'], oct(l['Umask']), l['StandardErrorPath'])";
        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/launchd/agentctl.plist");
        let asked = Command::new("python3").args(["-c", read, golden]).output();
        // Where there is no python, the golden file has been read by one before.
        let Ok(output) = asked else { return };
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            "agentctl ['/opt/R&D <tools>/agentctl', 'daemon', 'run'] True True 0o77 /Users/ann/Library/Logs/agentctl.log\n",
            "{output:?}"
        );
    }

    #[test]
    fn it_goes_in_and_out_and_touches_no_list_of_others() {
        let home = tempfile::tempdir().expect("a home");
        let agent = agent(home.path());
        let path = home.path().join("Library/LaunchAgents/agentctl.plist");
        let shown = path.display().to_string();
        agent.uninstall(|_| unreachable!("nothing is there")).expect_err("nothing is there");
        let said = agent.install(false, |_| unreachable!("later")).expect("a list");
        assert_eq!(said[0], format!("Wrote {shown}"));
        let mut asked = Vec::new();
        let words = |words: &[String]| {
            asked.push(words.join(" "));
            Ok(())
        };
        agent.install(true, words).expect("our own may be written again");
        assert_eq!(asked, ["bootout gui/501/agentctl".to_owned(), format!("bootstrap gui/501 {shown}")]);
        let said = agent.uninstall(|words| Err(words.join(" "))).expect("removed all the same");
        assert_eq!(said[0], "Not stopped, if it was running at all: bootout gui/501/agentctl");
        assert!(!path.exists());
        fs::write(&path, SHIPPED).expect("a list of the user's");
        agent.install(true, |_| unreachable!("refused before")).expect_err("not ours");
        agent.uninstall(|_| unreachable!("refused before")).expect_err("not ours");
        assert_eq!(fs::read_to_string(&path).expect("still there"), SHIPPED);
    }
}
