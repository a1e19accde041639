//! Every bound of the program in one place, named with its unit.

use std::time::Duration;

/// Body of one API request. A prompt of several megabytes and an environment fit; a flood does not.
pub const BODY_BYTES_MAX: usize = 32 << 20;
/// Bodies being read at once, together.
pub const BODIES_BYTES_MAX: usize = 128 << 20;
/// A body of up to this size is read whatever others take.
pub const BODY_BYTES_FREE: usize = 64 << 10;
/// Head of one API request.
pub const HEAD_BYTES_MAX: usize = 64 << 10;
/// Open API connections; the next one waits in the backlog, so that accept never meets EMFILE.
pub const CONNECTIONS_MAX: usize = 1_024;
/// Stops that one command has under way, each on a connection: the daemon has others for others, and a usual limit of open
/// files (1,024) is not met.
pub const STOPS_AT_ONCE_MAX: usize = 256;
/// A connection has so long to send a whole request head.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// And so long to send its body.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// A daemon of the earlier agentctl has so long to say that it is one.
pub const OLD_DAEMON_TIMEOUT: Duration = Duration::from_secs(2);
/// An answer that takes longer is worth the question whether it is one that was asked.
pub const OLD_DAEMON_PATIENCE: Duration = Duration::from_secs(1);
/// What is read of its answer.
pub const OLD_DAEMON_ANSWER_BYTES_MAX: u64 = 64 << 10;
/// Sessions of the earlier agentctl that are taken over: the newest.
pub const IMPORT_SESSIONS_MAX: usize = 10_000;
/// Its largest file that is read.
pub const IMPORT_BYTES_MAX: u64 = 64 << 20;
/// Its largest file about one session that is read.
pub const IMPORT_FILE_BYTES_MAX: u64 = 64 << 10;
/// Lines in which it is said what was taken over.
pub const IMPORT_LINES_MAX: usize = 20;
/// Requests waiting for the core.
pub const REQUESTS_MAX: usize = 2_048;
/// Launches whose shim is being started at once.
pub const LAUNCHES_AT_ONCE_MAX: usize = 16;
/// A shim has so long to start the leader before the launch is reported as begun but unconfirmed.
pub const SHIM_READY_TIMEOUT: Duration = Duration::from_secs(30);
/// Descriptors that the daemon needs for itself: journal, ring, sockets of clients and receivers.
pub const FILES_FOR_ITSELF: u64 = 1_024 + 128;
/// Descriptors that a session holds: pidfds of leader and shim, and one of the watch for its reaping when it ends.
pub const FILES_PER_SESSION: u64 = 3;
/// Processes of a session at the least: shim and leader.
pub const PIDS_PER_SESSION: u64 = 2;
/// Process numbers that everything else on the host may need.
pub const PIDS_OF_THE_HOST: u64 = 1_000;
/// Sessions supervised at once.
pub const SESSIONS_MAX: usize = 10_000;
/// The shortest time without a sign of life that may be asked for: so often is it looked for at most.
pub const STUCK_MIN: Duration = Duration::from_secs(1);
/// Characters of the prompt that records keep.
pub const PROMPT_CHARS_MAX: usize = 200;
/// Longest name, group, label key or label value.
pub const LABEL_CHARS_MAX: usize = 200;
/// Labels of one session.
pub const LABELS_MAX: usize = 64;
/// Longest text of a hook.
pub const HOOK_BYTES_MAX: usize = 64 << 10;
/// The longest time of a directory fuse.
pub const FUSE_TTL_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 3_600);
/// Longest idempotency key.
pub const KEY_CHARS_MAX: usize = 200;
/// Events kept in memory for readers that follow; older ones are read from the journal.
pub const EVENTS_IN_MEMORY_MAX: usize = 1_024;
/// Events read from the journal at once for one reader.
pub const EVENTS_PAGE: usize = 500;
/// Events on their way to one reader, beside what its socket holds.
pub const EVENTS_UNREAD_MAX: usize = 8;
/// A reader of events that takes nothing for so long is told so; after as long again its connection is closed.
pub const EVENTS_READER_PATIENCE: Duration = Duration::from_secs(10);
/// End of a log that the outcome rule reads.
pub const REPORT_TAIL_BYTES_MAX: u64 = 1 << 20;
/// And so much where that holds none: the last line of some agents repeats the whole conversation.
pub const REPORT_TAIL_BYTES_LAST: u64 = 32 << 20;
/// What is kept of each log of a run, unless configured; counted from its end.
pub const LOG_BYTES_USUAL: u64 = 1_000_000_000;
/// The least that may be configured: three quarters of it are kept in any case, and the outcome rule finds all that it may
/// read there.
pub const LOG_BYTES_LEAST: u64 = 64_000_000;
/// Where a log that has lost its head begins with the rest of a line, the next line is looked for so far.
pub const LOG_LINE_BYTES_MAX: usize = 1 << 20;
/// End of a log that `peek` reads.
pub const PEEK_TAIL_BYTES_MAX: u64 = 4 << 20;
/// End of what an agent told people, for its last line.
pub const STDERR_TAIL_BYTES_MAX: u64 = 16 << 10;
/// End of an agent's log that a reader who follows sees first, as text.
pub const LOG_TEXT_TAIL_BYTES: u64 = 256 << 10;
/// One read of a log.
pub const LOG_CHUNK_BYTES: usize = 256 << 10;
/// A log that is being written and read is looked at so often, at most.
pub const FOLLOW_EVERY: Duration = Duration::from_secs(1);
/// What is written while it is followed is read in such pieces, one for each of these times: 160 MB/s.
pub const FOLLOW_BYTES: u64 = 16_000_000;
pub const FOLLOW_PAUSE: Duration = Duration::from_millis(100);
/// A look for agents that were started outside is answered after so long, with what was found by then.
pub const FOUND_TIMEOUT: Duration = Duration::from_millis(500);
/// And ends by itself so much sooner.
pub const FOUND_TIMEOUT_OF_LOOK: Duration = Duration::from_millis(400);
/// Agents that one look shows.
pub const FOUND_MAX: usize = 500;
/// A conversation's file of up to this size is read whole; of a larger one, both ends.
pub const STORE_FILE_BYTES_MAX: u64 = 8 << 20;
/// So much of each end.
pub const STORE_END_BYTES: u64 = 256 << 10;
/// And so much in one look, of all files together.
pub const STORE_BYTES_MAX: u64 = 32 << 20;
/// Longest file about a living process.
pub const STORE_NOTE_BYTES_MAX: u64 = 64 << 10;
/// Names that one look reads in the directories of stores.
pub const STORE_NAMES_MAX: usize = 20_000;
/// Conversations of one directory that could be a process's; of more, none is guessed.
pub const STORE_CANDIDATES_MAX: usize = 16;
/// A question about one conversation is given up after so long.
pub const STORE_QUESTION_TIMEOUT: Duration = Duration::from_secs(1);
/// And no more of them are asked at once: each has a thread, which a store that hangs keeps.
pub const STORE_QUESTIONS_MAX: usize = 8;
/// Messages that are kept of an adopted run, all together.
pub const SAID_BYTES_MAX: usize = 1 << 20;
/// A busy database is waited for so long.
pub const STORE_BUSY_TIMEOUT: Duration = Duration::from_millis(50);
/// Things that could not be looked at, named in one answer.
pub const WARNINGS_MAX: usize = 8;
/// Longest warning.
pub const WARNING_CHARS_MAX: usize = 400;
/// What could not be said to an agent (a full disk) is tried again after so long.
pub const SAY_AGAIN_AFTER: Duration = Duration::from_secs(5);
/// Connecting to a webhook receiver.
pub const WEBHOOK_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A whole attempt at a delivery, unless configured.
pub const WEBHOOK_TIMEOUT: Duration = Duration::from_secs(15);
/// The longest that an attempt may be configured to take.
pub const WEBHOOK_TIMEOUT_MAX: Duration = Duration::from_secs(600);
/// Endpoints of the configuration.
pub const WEBHOOKS_MAX: usize = 200;
/// Secrets of one endpoint that sign at once.
pub const SECRETS_MAX: usize = 8;
/// The most attempts that may be configured; beyond the schedule they come once a day.
pub const ATTEMPTS_MAX: u32 = 100;
/// An answer is read so far, for its connection to be used again; beyond it the connection is closed.
pub const ANSWER_BYTES_MAX: usize = 64 << 10;
/// And so long, once its status is known.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// So much of a refusal is kept for people.
pub const ANSWER_CHARS_KEPT: usize = 200;
/// Deliveries that one answer lists.
pub const DELIVERIES_PAGE: usize = 10_000;
/// Receivers that one launch may name.
pub const NOTIFY_MAX: usize = 8;
/// Attempts under way at once at URLs that launches named, all together.
pub const AD_HOC_ATTEMPTS_MAX: usize = 64;
/// Memory for pages of the journal, for each of its two connections, KiB. SQLite itself takes 2,000.
pub const JOURNAL_CACHE_KIB: i64 = 512;
/// Records committed together.
pub const COMMIT_BATCH_MAX: usize = 1_000;
/// Records that are worth no commit of their own wait so long for others.
pub const COMMIT_LATER_AFTER: Duration = Duration::from_secs(1);
/// A start waits so long until what it found is in the journal; with 10,000 sessions it takes 0.4 s in all.
pub const FIRST_COMMIT_TIMEOUT: Duration = Duration::from_secs(3);
/// A failing journal is tried again so often.
pub const JOURNAL_RETRY_EVERY: Duration = Duration::from_secs(1);
/// Length of SQLite's write-ahead log: a thousand pages of 4 KiB with their headers, after which it starts over.
pub const JOURNAL_LOG_BYTES: u64 = 32 + 1_000 * (4_096 + 24);
/// Less free space than this is worth a warning.
pub const DISK_FREE_LOW_BYTES: u64 = 64 << 20;
/// A delivery that is owed for so long is worth a warning: three attempts have failed.
pub const DELIVERY_LATE_AFTER: Duration = Duration::from_secs(10 * 60);
/// The check of the journal at start takes so long at most; 100 MB take 0.1 s from memory and 2 s from a slow disk.
pub const JOURNAL_CHECK_TIMEOUT: Duration = Duration::from_secs(3);
/// Space kept back for verdicts on a full disk.
pub const JOURNAL_RESERVE_BYTES: u64 = 4 << 20;
/// Longest path of a Unix socket, with its closing NUL (sun_path, unix(7)).
pub const SOCKET_PATH_BYTES_MAX: usize = 108;
/// The CLI waits so long for a daemon to answer.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// The CLI waits so long for a daemon that it started.
pub const DAEMON_START_TIMEOUT: Duration = Duration::from_secs(10);
/// `run`, `wait` and `logs -f` look for a restarted daemon so long.
pub const RECONNECT_TIMEOUT: Duration = Duration::from_secs(60);
/// A service manager that failed to make a scope is not asked again so long.
pub const SCOPE_RETRY_AFTER: Duration = Duration::from_secs(60);
/// Worktrees being made at once, of different repositories.
pub const WORKTREES_AT_ONCE_MAX: usize = 4;
/// Checking out a worktree may take so long.
pub const WORKTREE_TIMEOUT: Duration = Duration::from_secs(600);
/// Any other git, fetching among them.
pub const GIT_TIMEOUT: Duration = Duration::from_secs(120);
/// What one git may say.
pub const GIT_BYTES_MAX: usize = 16 << 20;
/// systemctl and id: our unit has 15 s to stop and 60 s to start.
pub const SYSTEMCTL_TIMEOUT: Duration = Duration::from_secs(120);
/// What they may say.
pub const SYSTEMCTL_BYTES_MAX: usize = 1 << 20;
/// Tidying up waits for a calm moment; where verdicts never cease, so many looks for one are enough.
pub const CALM_LOOKS_MAX: u32 = 100;
/// So much of it is done together, so that the loop is not long busy with what comes of it.
pub const TIDY_AT_ONCE_MAX: usize = 64;
/// What gh may say of one issue, which GitHub keeps to 65,536 characters.
pub const ISSUE_BYTES_MAX: usize = 1 << 20;
/// An agent that does not tell its version in this time is not asked further.
pub const VERSION_TIMEOUT: Duration = Duration::from_secs(5);
/// What it may say of it.
pub const VERSION_BYTES_MAX: usize = 64 << 10;
/// A listing that is longer is printed without blanks. OrgLoop's connector reads 1 MiB, and takes more for no sessions:
/// that is room for 1,000 of them, with prompts.
pub const PRETTY_LIST_MAX: usize = 512 << 10;
/// A command reads so much of an answer at a time: what fits is memory that it uses again.
pub const READ_BUFFER_BYTES: usize = 64 << 10;
/// A listing is rendered and sent in pieces of so much, between which other requests and ends have their turn.
pub const LIST_CHUNK_BYTES: usize = 128 << 10;
/// Longest path that the kernel takes (PATH_MAX less its closing NUL).
pub const PATH_BYTES_MAX: usize = 4_095;
/// A directory or a file of a user's is waited for so long before whoever named it is told.
pub const LOOK_TIMEOUT: Duration = Duration::from_secs(5);
/// And so many of them at once: each has a thread, which a file system that hangs keeps.
pub const LOOKS_AT_ONCE_MAX: usize = 32;
/// A thread that has looked waits so long for the next look.
pub const LOOK_THREAD_IDLE: Duration = Duration::from_secs(10);
/// Sessions of one group launch.
pub const GROUP_SLOTS_MAX: usize = 100;
/// A matrix file.
pub const MATRIX_BYTES_MAX: u64 = 1 << 20;
