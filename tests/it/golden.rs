//! Records as the journal keeps them: what was written once must be readable for ever.
//!
//! `tests/fixtures/journal/v1/records.jsonl` holds one line of each kind. A change of a line is a change of the
//! format and needs a new version; `AGENTCTL_BLESS=1` writes lines for new kinds.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use agentctl::core::agent::{Budget, Spent, Stored, Tokens};
use agentctl::core::dir_fuses::{CancelCause, FuseId, FuseRecord, FuseSpec, OnExpire};
use agentctl::core::directory::DirId;
use agentctl::core::fuse::{EndTime, Outcome, Prong, Reason, StopCause};
use agentctl::core::hooks::{HookKind, HookOf, Hooks};
use agentctl::core::locks::{Claim, IfTaken, ManualLock};
use agentctl::core::record::{
    DeliveryEnd, DeliveryId, EventKind, Health, Pause, PauseReason, Record, RequestKey,
};
use agentctl::core::resources::ResourceLimits;
use agentctl::core::session::{
    Deadline, EvidenceEntry, HiddenText, LeftoverCount, Notify, Origin, Spec, Verdict,
};
use agentctl::core::vocab::{
    GroupUsage, HostId, Leftovers, Mono, Now, PidHandle, ProcessId, RunId, SessionId, Usage, WaitStatus, Wall,
};
use agentctl::core::worktree::Worktree;

const GOLDEN: &str = "tests/fixtures/journal/v1/records.jsonl";

fn session() -> SessionId {
    "0b0f7a52-6f6e-4a3c-9d53-1f1c7a1f1c11".parse().expect("an id")
}

fn now() -> Now {
    Now { wall: Wall(1_773_289_314_644_000), mono: Mono(123_456_789_000) }
}

fn spec() -> Spec {
    Spec {
        adapter: "opencode".into(),
        command: vec![],
        cwd: "/home/dev/project".into(),
        model: Some("fake/fake-1".into()),
        prompt: Some("make the tests pass".into()),
        name: Some("tests".into()),
        group: None,
        spec: None,
        labels: BTreeMap::from([("team".into(), "a".into())]),
        meta: BTreeMap::from([("openclaw_callback_agent_id".into(), "7".into())]),
        timeout: Some(Duration::from_secs(10_800)),
        grace: Duration::from_secs(10),
        leftovers: Leftovers::Kill,
        wants_report: true,
        private: false,
        safe: false,
        acp: false,
        native_id: None,
        hooks: Hooks::default(),
        hook_of: None,
        fuse_of: None,
        budget: Budget { max_tokens: Some(1_000_000), max_cost: Some(2.5) },
        linger: None,
        stuck: None,
        notify: vec![
            Notify { endpoint: "ci".into(), url: None },
            Notify { endpoint: "https://x#00".into(), url: Some(HiddenText("https://x/y".into())) },
        ],
        limits: ResourceLimits::default(),
        worktree: None,
        thinking: None,
        claim: Claim::default(),
    }
}

fn verdict() -> Verdict {
    Verdict {
        outcome: Outcome::Failed,
        reason: Reason::ExitCode(42),
        status: Some(WaitStatus::exited(42)),
        ended: Some(EndTime { at: now(), exact: true }),
        decided: now(),
        evidence: vec![entry()],
        usage: Some(Usage { cpu_us: 1_000, max_rss_bytes: 4_096, group: None }),
        message: Some("the model said no".into()),
        tokens: Some(Tokens { r#in: 1, out: 2, cache_read: 3, cache_write: 4 }),
        cost_usd: Some(0.25),
    }
}

fn oom_verdict() -> Verdict {
    let group = GroupUsage { cpu_us: Some(2_000), memory_peak_bytes: Some(8_192), oom_kills: Some(1) };
    Verdict {
        reason: Reason::OomKilled,
        status: Some(WaitStatus::killed(9)),
        usage: Some(Usage { cpu_us: 1_000, max_rss_bytes: 4_096, group: Some(group) }),
        ..verdict()
    }
}

fn entry() -> EvidenceEntry {
    EvidenceEntry { prong: Prong::ExitFile, at: now().wall, detail: "wait status 0x2a00".into() }
}

fn records() -> Vec<Record> {
    let run = RunId { session: session(), run: 1 };
    let (at, wall) = (now(), now().wall);
    let deadline = Some(Deadline { mono: Mono(5), wall: Wall(6) });
    let host = HostId { machine: "m".into(), boot: "b".into(), pid_ns: 4_026_531_836 };
    let handle = Some(PidHandle { kind: 254, bytes: 77 });
    let id = DeliveryId { seq: 3, endpoint: "default".into() };
    let request = Some(RequestKey { key: "k".into(), digest: "d".into() });
    vec![
        Record::Created {
            session: session(),
            at,
            host: host.clone(),
            origin: Origin::Launched,
            spec: Box::new(spec()),
            deadline,
            request: request.clone(),
            run: 1,
            spent: Spent::default(),
            warnings: Vec::new(),
            queued: false,
        },
        Record::Started { run, leader: ProcessId { pid: 7, handle, start_ticks: 8 }, at },
        Record::Created {
            session: session(),
            at,
            host: host.clone(),
            origin: Origin::Adopted,
            spec: Box::new(Spec { leftovers: Leftovers::Keep, native_id: Some("ses_1".into()), ..spec() }),
            deadline: None,
            request: None,
            run: 1,
            spent: Spent::default(),
            warnings: Vec::new(),
            queued: false,
        },
        Record::DeadlineSet { run, deadline: None },
        Record::StopRequested { run, cause: StopCause::Deadline, at },
        Record::StatusLearned { run, status: WaitStatus::killed(9), via: Prong::PidfdInfo, at },
        Record::NativeId { session: session(), id: "ses_1".into() },
        Record::Ended { run, verdict: Box::new(verdict()) },
        Record::LateEvidence { run, entry: entry() },
        Record::TreeSettled { run, leftovers: LeftoverCount::Unknown, usage: None, at },
        Record::TreeSettled { run, leftovers: LeftoverCount::Known(0), usage: None, at },
        Record::Event {
            seq: 3,
            kind: EventKind::Stopped,
            run: Some(run),
            at: wall,
            fires_at: None,
            endpoint: None,
            fuse: None,
            lock: None,
        },
        Record::Event {
            seq: 4,
            kind: EventKind::EndpointPaused,
            run: None,
            at: wall,
            fires_at: Some(wall),
            endpoint: Some("ci".into()),
            fuse: None,
            lock: None,
        },
        Record::DeliveryQueued { id: id.clone(), run: Some(run), kind: EventKind::Error, at: wall },
        Record::Attempted {
            id: id.clone(),
            at: wall,
            took_ms: 12,
            status: Some(500),
            error: Some("HTTP 500".into()),
        },
        Record::AttemptFailed {
            id: id.clone(),
            attempt: 1,
            at: wall,
            retry_in_ms: 5_000,
            held: true,
            error: "500".into(),
        },
        Record::DeliveryOver { id: id.clone(), at: wall, how: DeliveryEnd::Superseded },
        Record::DeliveryRevived { id, run: None, kind: EventKind::DeliveryDead, at: wall },
        Record::EndpointHealth {
            endpoint: "ci".into(),
            health: Health {
                failing_since: Some(wall),
                paused: Some(Pause { at: wall, why: PauseReason::Failing }),
            },
        },
        Record::Pruned { session: session() },
        Record::Rebuilt { session: session(), at: wall, note: "why".into() },
        Record::Imported { at: wall, file: "state.json".into(), taken: 2, left_out: 1 },
        Record::Resumed {
            run: RunId { session: session(), run: 2 },
            at,
            host,
            prompt: Some("now the lints".into()),
            timeout: Some(Duration::from_secs(60)),
            deadline,
            request,
            stored: Stored::default(),
            claim: Claim::default(),
            warnings: Vec::new(),
            queued: false,
        },
        Record::Event {
            seq: 4,
            kind: EventKind::Resumed,
            run: Some(run),
            at: wall,
            fires_at: None,
            endpoint: None,
            fuse: None,
            lock: None,
        },
        Record::HookEnded { run, hook: HookKind::OnComplete, verdict: Box::new(verdict()) },
        Record::Created {
            session: HookOf { run, kind: HookKind::OnCreate }.id(),
            at,
            host: HostId { machine: "m".into(), boot: "b".into(), pid_ns: 1 },
            origin: Origin::Launched,
            spec: Box::new(Spec {
                hooks: Hooks { on_create: Some("a".into()), on_complete: Some("b".into()) },
                hook_of: Some(HookOf { run, kind: HookKind::OnCreate }),
                ..spec()
            }),
            deadline: None,
            request: None,
            run: 1,
            spent: Spent::default(),
            warnings: Vec::new(),
            queued: false,
        },
        Record::Ended { run, verdict: Box::new(oom_verdict()) },
        created(Spec {
            limits: ResourceLimits {
                memory_max_bytes: Some(4 << 30),
                cpu_quota_percent: Some(200),
                tasks_max: Some(500),
            },
            ..spec()
        }),
        created(Spec {
            linger: Some(Duration::from_secs(30)),
            stuck: Some(Duration::from_secs(600)),
            ..spec()
        }),
        Record::StopRequested { run, cause: StopCause::Lingered, at },
        Record::Ended {
            run,
            verdict: Box::new(Verdict { outcome: Outcome::Cancelled, reason: Reason::Lingered, ..verdict() }),
        },
        told(5, EventKind::Lingering),
        told(6, EventKind::Stuck),
        created(Spec { acp: true, ..spec() }),
        Record::Resumed {
            run: RunId { session: session(), run: 2 },
            at,
            host: HostId { machine: "m".into(), boot: "b".into(), pid_ns: 1 },
            prompt: None,
            timeout: None,
            deadline: None,
            request: None,
            stored: Stored {
                tokens: Some(Tokens { r#in: 1, out: 2, cache_read: 3, cache_write: 4 }),
                cost_usd: Some(0.5),
            },
            claim: Claim::default(),
            warnings: Vec::new(),
            queued: false,
        },
        created(Spec { claim: Claim { dir: Some(dir()), if_taken: IfTaken::Force }, ..spec() }),
        Record::Resumed {
            run: RunId { session: session(), run: 3 },
            at,
            host: HostId { machine: "m".into(), boot: "b".into(), pid_ns: 1 },
            prompt: None,
            timeout: None,
            deadline: None,
            request: None,
            stored: Stored::default(),
            claim: Claim { dir: Some(dir()), if_taken: IfTaken::Force },
            warnings: vec!["the directory is inside of another that is taken".into()],
            queued: false,
        },
        queued(),
        Record::Dequeued {
            run,
            at,
            host: HostId { machine: "m".into(), boot: "b".into(), pid_ns: 1 },
            deadline,
        },
        Record::Locked { lock: lock() },
        Record::Locked { lock: ManualLock { id: None, reason: None, ..lock() } },
        Record::Unlocked { directory: "/home/dev/project".into(), at: wall },
        Record::Event {
            seq: 7,
            kind: EventKind::LockAcquired,
            run: None,
            at: wall,
            fires_at: None,
            endpoint: None,
            fuse: None,
            lock: Some(Box::new(lock())),
        },
    ]
    .into_iter()
    .chain(of_fuses())
    .chain([of_a_worktree()])
    .collect()
}

fn of_a_worktree() -> Record {
    let (repo, branch) = ("/home/dev/project".into(), "try/g-a1b2c3/cc".into());
    let worktree = Some(Worktree { repo, branch, base: Some("main".into()) });
    let (group, thinking) = (Some("g-a1b2c3".into()), Some("high".into()));
    created(Spec { worktree: worktree.map(Box::new), group, thinking, ..spec() })
}

fn of_fuses() -> [Record; 8] {
    let (id, at) = (FuseId(session().0), now().wall);
    let fuse = FuseSpec {
        id,
        directory: "/home/dev/try".into(),
        ttl: Duration::from_secs(600),
        label: Some("try 1".into()),
        setter: Some("0b0f7a52".into()),
        on_expire: OnExpire {
            script: Some("rm -rf .".into()),
            webhook: Some(Notify {
                endpoint: "https://x#00".into(),
                url: Some(HiddenText("https://x/y".into())),
            }),
            event: Some("cleanup".into()),
        },
    };
    let plain = FuseSpec { label: None, setter: None, on_expire: OnExpire::default(), ..fuse.clone() };
    let set = |fuse| Record::Fuse(FuseRecord::Set { fuse: Box::new(fuse), at, expires: Wall(at.0 + 1) });
    let cancelled = |why| Record::Fuse(FuseRecord::Cancelled { fuse: id, at, why });
    [
        set(fuse),
        set(plain),
        Record::Fuse(FuseRecord::Extended { fuse: id, at, ttl: Duration::from_secs(60), expires: at }),
        Record::Fuse(FuseRecord::Fired { fuse: id, at }),
        cancelled(CancelCause::Used { session: session() }),
        Record::Fuse(FuseRecord::Forgotten { fuse: id }),
        Record::Event {
            seq: 7,
            kind: EventKind::FuseExpired,
            run: None,
            at,
            fires_at: None,
            endpoint: None,
            fuse: Some(id),
            lock: None,
        },
        created(Spec { fuse_of: Some(id), ..spec() }),
    ]
}

/// A launch that waits for its turn.
fn queued() -> Record {
    let claim = Claim { dir: None, if_taken: IfTaken::Queue };
    let mut record = created(Spec { claim, ..spec() });
    if let Record::Created { queued, .. } = &mut record {
        *queued = true;
    }
    record
}

fn dir() -> DirId {
    DirId { dev: 66_306, ino: 1_234_567, boot: "b".into() }
}

fn lock() -> ManualLock {
    ManualLock {
        directory: "/home/dev/project".into(),
        id: Some(dir()),
        by: "alice".into(),
        reason: Some("the release".into()),
        at: now().wall,
    }
}

/// The record of a launch that asked for something of its own.
fn created(spec: Spec) -> Record {
    Record::Created {
        session: session(),
        at: now(),
        host: HostId { machine: "m".into(), boot: "b".into(), pid_ns: 1 },
        origin: Origin::Launched,
        spec: Box::new(spec),
        deadline: None,
        request: None,
        run: 1,
        spent: Spent::default(),
        warnings: Vec::new(),
        queued: false,
    }
}

fn told(seq: u64, kind: EventKind) -> Record {
    let run = Some(RunId { session: session(), run: 1 });
    Record::Event { seq, kind, run, at: now().wall, fires_at: None, endpoint: None, fuse: None, lock: None }
}

#[test]
fn every_kind_of_record_is_written_as_ever_and_still_understood() {
    let written: Vec<String> =
        records().iter().map(|record| serde_json::to_string(record).expect("a record")).collect();
    if std::env::var_os("AGENTCTL_BLESS").is_some() {
        std::fs::create_dir_all(Path::new(GOLDEN).parent().expect("a directory")).expect("a directory");
        std::fs::write(GOLDEN, written.join("\n") + "\n").expect("the golden file");
    }
    let golden = std::fs::read_to_string(GOLDEN).expect("the golden file");
    let lines: Vec<&str> = golden.lines().collect();
    assert_eq!(written, lines);
    for (line, record) in lines.iter().zip(records()) {
        let read: Record = serde_json::from_str(line).expect("a line of the golden file");
        assert_eq!(read, record);
    }
}

#[test]
fn a_record_with_keys_of_a_newer_version_is_understood() {
    let line = r#"{"t":"native_id","session":"0b0f7a52-6f6e-4a3c-9d53-1f1c7a1f1c11","id":"ses_1","newer":1}"#;
    let read: Record = serde_json::from_str(line).expect("an old reader takes new data");
    assert_eq!(read, Record::NativeId { session: session(), id: "ses_1".into() });
}
