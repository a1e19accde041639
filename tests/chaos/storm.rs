//! What is done to the daemon: killed, ended, held, upgraded, downgraded, at moments that the seed chooses.
//!
//! An upgrade replaces the installed program by a later build, whose journal has a schema version more: a build that is
//! truly another program (this one), with one more migration, which copies every event, deletes them all and puts them
//! back. A downgrade puts the earlier build back, which must refuse the journal and leave it as it is, byte for byte.

use std::fs;
use std::io;
use std::process::Child;
use std::thread::sleep;
use std::time::Duration;

use agentctl::sys::{ProcessRef, clock};
use fastrand::Rng;

use crate::ledger::{Broken, Ledger};
use crate::rig::Rig;

const KILL: u8 = 9;
const TERM: u8 = 15;
const CONT: u8 = 18;
const STOP: u8 = 19;

/// Nothing but a hang takes so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// What was done.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) starts: u32,
    pub(crate) kills: u32,
    /// Of these: before the daemon answered its first request.
    pub(crate) kills_at_start: u32,
    pub(crate) terms: u32,
    pub(crate) pauses: u32,
    pub(crate) replaced: u32,
    pub(crate) upgrades: u32,
    /// Kills of a daemon that has just been upgraded.
    pub(crate) cut_off: u32,
    /// Of these: while it copied the older journal.
    pub(crate) cut_off_copies: u32,
    pub(crate) downgrades: u32,
}

pub(crate) struct Storm<'a> {
    rig: &'a Rig,
    ledger: &'a Ledger,
    dice: Rng,
    child: Child,
    /// Of the installed program.
    schema: u32,
    /// The journal has it.
    migrated: bool,
    pub(crate) tally: Tally,
}

/// The migration that leads from version `n - 1` to `n`. Whatever the columns are; if it were not all or nothing, a
/// kill in the middle would lose every event.
pub(crate) fn migration(n: u32) -> String {
    format!(
        "CREATE TABLE copy_{n} AS SELECT * FROM event;
         DELETE FROM event;
         INSERT INTO event SELECT * FROM copy_{n} ORDER BY seq;
         DROP TABLE copy_{n};
         CREATE TABLE later_{n} (n INTEGER PRIMARY KEY) STRICT;
         CREATE INDEX record_of_{n} ON record (session, n);"
    )
}

impl<'a> Storm<'a> {
    /// Installs this build and starts its daemon.
    pub(crate) fn begin(rig: &'a Rig, ledger: &'a Ledger, dice: Rng) -> io::Result<Self> {
        rig.install(1)?;
        let child = rig.spawn(1)?;
        let tally = Tally { starts: 1, ..Tally::default() };
        let mut storm = Self { rig, ledger, dice, child, schema: 1, migrated: false, tally };
        storm.answers()?;
        Ok(storm)
    }

    pub(crate) fn schema(&self) -> u32 {
        self.schema
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Does one thing to the daemon.
    pub(crate) fn strike(&mut self) -> io::Result<()> {
        sleep(Duration::from_millis(self.dice.u64(20..700)));
        if let Some(status) = self.child.try_wait()? {
            self.ledger.broken(Broken::Other, format!("the daemon ended by itself: {status}"));
            self.start()?;
        }
        match self.dice.u8(..20) {
            0..9 => {
                self.kill()?;
                self.start_under_fire()
            }
            9..12 => {
                self.end()?;
                self.start_under_fire()
            }
            12..15 => self.pause(),
            15 => {
                // The same version, built again; the running daemon keeps its shim.
                self.tally.replaced += 1;
                self.rig.install(self.schema)
            }
            16..19 => self.upgrade(),
            _ => self.downgrade(),
        }
    }

    /// Waits until the daemon answers.
    pub(crate) fn answers(&mut self) -> io::Result<()> {
        let begun = clock::now().mono;
        while self.rig.health().is_none() {
            if let Some(status) = self.child.try_wait()? {
                return Err(io::Error::other(format!("the daemon did not start: {status}")));
            }
            if clock::now().mono.since(begun) > PATIENCE {
                return Err(io::Error::other("the daemon does not answer"));
            }
            sleep(Duration::from_millis(5));
        }
        self.migrated = true;
        Ok(())
    }

    /// TERM, and another start.
    pub(crate) fn restart(&mut self) -> io::Result<()> {
        self.end()?;
        self.start()?;
        self.answers()
    }

    /// The start after a kill.
    pub(crate) fn restart_after_kill(&mut self) -> io::Result<()> {
        self.start()?;
        self.answers()
    }

    /// The last end.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        self.end()
    }

    /// KILL.
    pub(crate) fn kill(&mut self) -> io::Result<()> {
        self.tally.kills += 1;
        self.signal(KILL)?;
        self.child.wait().map(drop)
    }

    fn start(&mut self) -> io::Result<()> {
        self.tally.starts += 1;
        self.child = self.rig.spawn(self.schema)?;
        Ok(())
    }

    /// Starts it, perhaps after a while, and perhaps kills it again before it is through.
    fn start_under_fire(&mut self) -> io::Result<()> {
        sleep(Duration::from_millis(if self.dice.bool() { 0 } else { self.dice.u64(..1_000) }));
        self.start()?;
        while self.dice.u8(..3) == 0 {
            sleep(Duration::from_millis(self.dice.u64(..120)));
            self.tally.kills_at_start += 1;
            self.kill()?;
            self.start()?;
        }
        self.answers()
    }

    /// TERM; it ends in time, and well.
    fn end(&mut self) -> io::Result<()> {
        self.tally.terms += 1;
        self.signal(TERM)?;
        let begun = clock::now().mono;
        loop {
            if let Some(status) = self.child.try_wait()? {
                if !status.success() {
                    self.ledger.broken(Broken::Other, format!("the daemon did not end well: {status}"));
                }
                return Ok(());
            }
            if clock::now().mono.since(begun) > PATIENCE {
                self.ledger.broken(Broken::Other, "the daemon does not end at TERM".into());
                return self.kill();
            }
            sleep(Duration::from_millis(2));
        }
    }

    /// STOP, a while, CONT.
    fn pause(&mut self) -> io::Result<()> {
        self.tally.pauses += 1;
        self.signal(STOP)?;
        sleep(Duration::from_millis(self.dice.u64(20..1_500)));
        self.signal(CONT)
    }

    fn upgrade(&mut self) -> io::Result<()> {
        self.tally.upgrades += 1;
        self.rig.install(self.schema + 1)?;
        if self.dice.bool() {
            self.kill()?
        } else {
            self.end()?
        }
        self.schema += 1;
        self.migrated = false;
        self.start()?;
        while self.dice.u8(..3) > 0 {
            if self.dice.bool() {
                self.migrates()?;
                sleep(Duration::from_micros(self.dice.u64(..3_000)));
            } else {
                sleep(Duration::from_millis(self.dice.u64(5..100)));
            }
            self.tally.cut_off += 1;
            self.tally.kills_at_start += 1;
            self.kill()?;
            self.tally.cut_off_copies += u32::from(self.has_copy("part")?);
            self.start()?;
        }
        self.answers()
    }

    /// Waits until a copy of the older journal is being made, or for a second: the migration was done before.
    fn migrates(&self) -> io::Result<()> {
        let begun = clock::now().mono;
        while clock::now().mono.since(begun) < Duration::from_secs(1) {
            if self.has_copy("part")? || self.has_copy("bak")? {
                break;
            }
        }
        Ok(())
    }

    /// Whether there is a copy of the journal as it was before the last upgrade, half (`part`) or whole (`bak`).
    fn has_copy(&self, end: &str) -> io::Result<bool> {
        let begin = format!("journal.v{}.", self.schema - 1);
        let names = fs::read_dir(self.rig.home())?.flatten().map(|entry| entry.file_name());
        let mut names = names.map(|name| name.to_string_lossy().into_owned());
        Ok(names.any(|name| name.starts_with(&begin) && name.ends_with(end)))
    }

    fn downgrade(&mut self) -> io::Result<()> {
        if self.schema == 1 || !self.migrated {
            return Ok(());
        }
        self.tally.downgrades += 1;
        self.rig.install(self.schema - 1)?;
        if self.dice.bool() {
            self.kill()?
        } else {
            self.end()?
        }
        let before = self.journal();
        let said = fs::metadata(self.rig.log())?.len();
        let status = self.rig.spawn(self.schema - 1)?.wait()?;
        let log = fs::read(self.rig.log())?;
        let words = String::from_utf8_lossy(&log[usize::try_from(said).unwrap_or_default()..]).into_owned();
        let refused = status.code() == Some(1) && words.contains("is of version");
        if !refused {
            self.ledger.broken(Broken::Other, format!("an older build did not refuse: {status}: {words}"));
        }
        if self.journal() != before {
            self.ledger.broken(Broken::Other, "an older build changed the journal that it refused".into());
        }
        self.rig.install(self.schema)?;
        self.start()?;
        self.answers()
    }

    /// The journal and its log, byte for byte. To look into a database without a log SQLite makes an empty one.
    fn journal(&self) -> [Vec<u8>; 2] {
        ["journal.db", "journal.db-wal"].map(|name| fs::read(self.rig.home().join(name)).unwrap_or_default())
    }

    fn signal(&self, number: u8) -> io::Result<()> {
        ProcessRef::of_child(self.child.id())?.signal(number).map(drop)
    }
}

impl Drop for Storm<'_> {
    fn drop(&mut self) {
        // Whoever panics leaves no daemon behind.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
