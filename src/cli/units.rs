//! Units of the service manager, from the command's side: written for where the program really is, enabled, started.
//!
//! Owns the unit files that `daemon install` wrote, told by their first line; refuses to touch any other. Everything is
//! asked of `systemctl`, whose own words are passed on when it refuses.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::limits;
use crate::sys::tool;

use super::Failure;
use super::client::set;
use super::launchd::{Agent, launchctl};

/// The first line of a unit that we wrote, and may remove.
const MARK: &str = "# Written by: agentctl daemon install\n";

/// As they are shipped, for /usr/bin/agentctl.
const USER_UNITS: [(&str, &str); 2] = [
    ("agentctl.socket", include_str!("../../systemd/user/agentctl.socket")),
    ("agentctl.service", include_str!("../../systemd/user/agentctl.service")),
];
const SYSTEM_UNITS: [(&str, &str); 2] = [
    ("agentctl@.socket", include_str!("../../systemd/system/agentctl@.socket")),
    ("agentctl@.service", include_str!("../../systemd/system/agentctl@.service")),
];
const SHIPPED_PROGRAM: &str = "ExecStart=/usr/bin/agentctl ";

/// Whose units they are.
#[derive(Clone, Debug)]
pub(crate) enum Scope {
    /// Those of the user who asks, in the user's own manager.
    User,
    /// An instance of the template, for this user of a server.
    System(String),
}

impl Scope {
    fn directory(&self) -> Result<PathBuf, Failure> {
        match self {
            Self::System(_) => Ok("/etc/systemd/system".into()),
            Self::User => {
                let path = |name| set(name).map(PathBuf::from);
                let config = path("XDG_CONFIG_HOME").or_else(|| Some(path("HOME")?.join(".config")));
                let config =
                    config.ok_or_else(|| Failure::new(1, "neither XDG_CONFIG_HOME nor HOME is set"))?;
                Ok(config.join("systemd/user"))
            }
        }
    }

    fn files(&self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::User => &USER_UNITS,
            Self::System(_) => &SYSTEM_UNITS,
        }
    }

    /// The units to enable: socket first.
    pub(crate) fn units(&self) -> [String; 2] {
        match self {
            Self::User => ["agentctl.socket".into(), "agentctl.service".into()],
            Self::System(user) => [format!("agentctl@{user}.socket"), format!("agentctl@{user}.service")],
        }
    }

    /// `systemctl` with these words; its stdout, or what it complained of.
    fn systemctl<W: AsRef<OsStr>>(&self, words: &[W]) -> Result<String, String> {
        let mut command = Command::new("systemctl");
        if matches!(self, Self::User) {
            command.arg("--user");
        }
        let failed = |why: &str| {
            let words: Vec<_> = words.iter().map(|word| word.as_ref().to_string_lossy()).collect();
            format!("systemctl {}: {why}", words.join(" "))
        };
        let ran = tool::run(command.args(words), limits::SYSTEMCTL_TIMEOUT, limits::SYSTEMCTL_BYTES_MAX);
        let ran = ran.map_err(|error| failed(&error.to_string()))?;
        if ran.success {
            Ok(String::from_utf8_lossy(&ran.stdout).trim().to_owned())
        } else {
            Err(failed(String::from_utf8_lossy(&ran.stderr).trim()))
        }
    }

    /// The units are there, and one would not start: what the manager keeps of that, and the usual reason.
    fn not_started(&self, unit: &str, why: &str) -> Failure {
        let (whose, check) = match self {
            Self::User => ("--user ", ", and: agentctl config check".to_owned()),
            Self::System(user) => {
                ("", format!(", and, as {user}: agentctl config check /var/lib/agentctl/{user}/config.json"))
            }
        };
        // More of it is where that points.
        let why = why.lines().next().unwrap_or_default();
        let show = format!("systemctl {whose}status {unit}");
        Failure::new(1, format!("{unit} is installed and does not start: {why}; see: {show}{check}"))
    }

    fn refused(&self, why: String) -> Failure {
        let hint = match self {
            Self::User => "; the units are for a user with a manager of their own (loginctl enable-linger)",
            Self::System(_) => "; run it as root on a host that systemd has booted",
        };
        Failure::new(1, format!("{why}{hint}"))
    }
}

/// Writes and enables the units; with `now` also starts them. The lines to show.
pub(crate) fn install(scope: &Scope, now: bool) -> Result<Vec<String>, Failure> {
    if cfg!(target_os = "macos") {
        return Agent::find(scope)?.install(now, launchctl);
    }
    if let Scope::System(user) = scope {
        check_user(user)?;
        check_is_known(user)?;
    } else if std::env::var_os("AGENTCTL_HOME").is_some_and(|home| !home.is_empty()) {
        let why = "AGENTCTL_HOME is set, and the user unit serves ~/.agentctl; unset it, or run: agentctl daemon start";
        return Err(Failure::new(1, why));
    }
    let program = std::env::current_exe()?;
    let directory = scope.directory()?;
    let mut said = Vec::new();
    fs::create_dir_all(&directory).map_err(|error| at(&directory, "make", &error))?;
    for (name, shipped) in scope.files() {
        let path = directory.join(name);
        if path.exists() && !is_ours(&path) {
            let why = format!("{} is not of agentctl daemon install; move it away first", path.display());
            return Err(Failure::new(1, why));
        }
        let unit = format!("{MARK}{}", for_program(shipped, &program)?);
        fs::write(&path, unit).map_err(|error| at(&path, "write", &error))?;
        said.push(format!("Wrote {}", path.display()));
    }
    scope.systemctl(&["daemon-reload"]).map_err(|why| scope.refused(why))?;
    let units = scope.units();
    let words: Vec<_> = ["enable", "--quiet"].into_iter().chain(units.iter().map(String::as_str)).collect();
    scope.systemctl(&words).map_err(|why| scope.refused(why))?;
    said.push(format!("Enabled {}", units.join(" and ")));
    if now {
        for unit in &units {
            // Both are answered when they are up: the service once requests are answered.
            scope.systemctl(&["start", unit]).map_err(|why| scope.not_started(unit, &why))?;
            let state = scope.systemctl(&["show", "--value", "-p", "ActiveState", unit]);
            match state.map_err(|why| scope.refused(why))?.as_str() {
                "active" => said.push(format!("{unit} is active")),
                state => return Err(scope.not_started(unit, &format!("it is {state}"))),
            }
        }
    }
    said.extend(lingering(scope));
    Ok(said)
}

/// Disables, stops and removes what [`install`] wrote. Sessions live on.
pub(crate) fn uninstall(scope: &Scope) -> Result<Vec<String>, Failure> {
    if cfg!(target_os = "macos") {
        return Agent::find(scope)?.uninstall(launchctl);
    }
    let directory = scope.directory()?;
    let ours: Vec<_> =
        scope.files().iter().map(|(name, _)| directory.join(name)).filter(|path| is_ours(path)).collect();
    if ours.is_empty() {
        return Err(Failure::new(
            1,
            format!("nothing of agentctl daemon install is in {}", directory.display()),
        ));
    }
    let units = scope.units();
    let words = |first: &[&'static str]| -> Vec<String> {
        first.iter().map(|word| (*word).to_owned()).chain(units.iter().cloned()).collect()
    };
    scope.systemctl(&words(&["disable", "--quiet", "--now"])).map_err(|why| scope.refused(why))?;
    // One that failed would be remembered as that.
    let _never_failed = scope.systemctl(&words(&["reset-failed"]));
    let mut said = vec![format!("Disabled {}; sessions live on", units.join(" and "))];
    // Other users' instances need the template.
    let others = matches!(scope, Scope::System(_)) && instances_left(scope)?;
    for path in ours.iter().filter(|_| !others) {
        fs::remove_file(path).map_err(|error| at(path, "remove", &error))?;
        said.push(format!("Removed {}", path.display()));
    }
    scope.systemctl(&["daemon-reload"]).map_err(|why| scope.refused(why))?;
    Ok(said)
}

/// Of others: running, or to be started with the host.
fn instances_left(scope: &Scope) -> Result<bool, Failure> {
    let running =
        ["list-units", "--state=active,activating,reloading", "--plain", "--no-legend", "agentctl@*"];
    if scope.systemctl(&running).map_err(|why| scope.refused(why))?.contains("agentctl@") {
        return Ok(true);
    }
    // No list of systemctl has instances that are enabled and never ran.
    let directory = scope.directory()?;
    let names = |path: &Path| -> io::Result<Vec<String>> {
        fs::read_dir(path)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    };
    let unread = |path: &Path| {
        let path = path.to_owned();
        move |error: io::Error| at(&path, "read", &error)
    };
    for name in names(&directory).map_err(unread(&directory))? {
        let wants = directory.join(&name);
        if name.ends_with(".wants")
            && names(&wants).map_err(unread(&wants))?.iter().any(|unit| unit.starts_with("agentctl@"))
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Starts the user's daemon through the manager when a unit of it is enabled there; its process number. `None`: there
/// is no such unit, or no manager that could be asked.
pub(crate) fn start_enabled() -> Option<Result<u32, String>> {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from)?;
    if !runtime.join("systemd/private").exists() {
        return None;
    }
    let scope = Scope::User;
    let [socket, service] = scope.units();
    let enabled =
        scope.systemctl(&["is-enabled", &socket]).or_else(|_| scope.systemctl(&["is-enabled", &service]));
    enabled.ok()?;
    let started = scope.systemctl(&["start", &socket, &service]);
    let started = started.map_err(|why| scope.not_started(&service, &why).message);
    let pid = started.and_then(|_| scope.systemctl(&["show", "--value", "-p", "MainPID", &service]));
    Some(pid.and_then(|pid| pid.parse().map_err(|_| format!("systemctl shows no process of {service}"))))
}

/// Whether this process is the main one of the user's unit.
pub(crate) fn runs(pid: u64) -> bool {
    let manager = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    if !manager.is_some_and(|runtime| runtime.join("systemd/private").exists()) {
        return false;
    }
    let [_, service] = Scope::User.units();
    Scope::User
        .systemctl(&["show", "--value", "-p", "MainPID", &service])
        .is_ok_and(|main| main == pid.to_string())
}

/// Has the manager stop the user's unit. The socket stays, and the next command starts it again.
pub(crate) fn stop() -> Result<(), Failure> {
    let [_, service] = Scope::User.units();
    Scope::User.systemctl(&["stop", &service]).map(drop).map_err(|why| Failure::new(1, why))
}

/// Has the manager start the user's unit anew, by the unit file that is there now.
pub(crate) fn restart() -> Result<(), Failure> {
    let [_, service] = Scope::User.units();
    let reloaded = Scope::User.systemctl(&["daemon-reload"]);
    let restarted = reloaded.and_then(|_| Scope::User.systemctl(&["restart", &service]));
    restarted.map(drop).map_err(|why| Failure::new(1, why))
}

/// The name becomes part of a unit's name and of paths.
fn check_user(user: &str) -> Result<(), Failure> {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if user.is_empty() || user.starts_with(['-', '.']) || !user.chars().all(fine) {
        return Err(Failure::new(2, format!("\"{user}\" is no user name")));
    }
    Ok(())
}

/// The manager would enable a unit for nobody, and fail at each start of it.
fn check_is_known(user: &str) -> Result<(), Failure> {
    let asked = tool::run(
        Command::new("id").args(["-u", "--", user]),
        limits::SYSTEMCTL_TIMEOUT,
        limits::SYSTEMCTL_BYTES_MAX,
    );
    match asked {
        Ok(ran) if ran.success => Ok(()),
        Ok(_) => Err(Failure::new(1, format!("there is no user {user}; nothing was installed"))),
        Err(error) => Err(Failure::new(1, format!("ask id for the user {user}: {error}"))),
    }
}

/// The unit with our own path in place of the packaged one, quoted as systemd.syntax(7) and systemd.unit(5) ask.
fn for_program(unit: &str, program: &Path) -> Result<String, Failure> {
    let path = program.to_str().filter(|path| !path.contains(['\n', '"', '\\']));
    let path =
        path.ok_or_else(|| Failure::new(1, format!("{} cannot be named in a unit", program.display())))?;
    let quoted = format!("ExecStart=\"{}\" ", path.replace('%', "%%").replace('$', "$$"));
    Ok(unit.replace(SHIPPED_PROGRAM, &quoted))
}

fn is_ours(path: &Path) -> bool {
    fs::read_to_string(path).is_ok_and(|text| text.starts_with(MARK))
}

/// Without lingering, the user's manager ends with the last logout, and everything with it.
fn lingering(scope: &Scope) -> Option<String> {
    let user = std::env::var("USER").ok().filter(|user| check_user(user).is_ok())?;
    let lingers = Path::new("/var/lib/systemd/linger").join(&user).exists();
    (matches!(scope, Scope::User) && !lingers)
        .then(|| format!("The daemon and its sessions end when you log out. To keep them: sudo loginctl enable-linger {user}"))
}

fn at(path: &Path, what: &str, error: &io::Error) -> Failure {
    let hint = if error.kind() == io::ErrorKind::PermissionDenied { "; run it as root" } else { "" };
    Failure::new(1, format!("{what} {}: {error}{hint}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_name_the_program_where_it_is() {
        for (_, shipped) in
            USER_UNITS.iter().chain(&SYSTEM_UNITS).filter(|(name, _)| name.ends_with(".service"))
        {
            let unit = for_program(shipped, Path::new("/opt/my tools/50%/agentctl")).unwrap();
            assert!(unit.contains("ExecStart=\"/opt/my tools/50%%/agentctl\" daemon run\n"), "{unit}");
        }
    }

    #[test]
    fn names_that_are_paths_or_options_are_no_users() {
        for name in ["", "-x", "../x", "a/b", "a b", "a%i"] {
            assert!(check_user(name).is_err(), "{name}");
        }
        assert!(check_user("alice-2.dev").is_ok());
    }
}
