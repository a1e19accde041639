//! The socket and the signals: who may connect, how much, and when the daemon ends.
//!
//! Owns the listener, the check of the peer's uid and the limits on connections and time. Refuses to know
//! what requests mean (http.rs).

use std::cell::RefCell;
use std::convert::Infallible;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::net::RecvFlags;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Semaphore;
use tokio::task::spawn_local;
use tokio::time::timeout;

use crate::core::vocab::millis;
use crate::limits;
use crate::sys::service::{ServiceManager, inherited_listener};
use crate::wire::old_tool::{self, Told};

use super::stream::BreakOff;
use super::{Daemon, DaemonError, http, reload};

thread_local! {
    /// The socket file that this daemon made, with its inode, to be removed when it ends.
    static MADE: RefCell<Option<(PathBuf, u64)>> = const { RefCell::new(None) };
}

/// Makes the socket. One that answers is never taken away from whoever owns it.
pub(super) fn listen(daemon: &Rc<Daemon>) -> Result<UnixListener, DaemonError> {
    let path = daemon.home.socket();
    let failed = |what| {
        let path = path.clone();
        move |source| DaemonError::Io { what, path, source }
    };
    if let Some(inherited) = inherited_listener().map_err(failed("take over the socket for"))? {
        // Its file belongs to the service manager, which goes on listening when we end.
        inherited.set_nonblocking(true).map_err(failed("listen at"))?;
        return UnixListener::from_std(inherited).map_err(failed("listen at"));
    }
    match fs::symlink_metadata(&path) {
        Ok(found) if !found.file_type().is_socket() => {
            let source = io::Error::other("it is no socket; move it away");
            return Err(failed("listen at")(source));
        }
        Ok(_) if BlockingStream::connect(&path).is_ok() => {
            let source = io::Error::from(io::ErrorKind::AddrInUse);
            return Err(failed("another daemon answers at")(source));
        }
        // Left by a daemon that was killed; the home's lock says that it is gone.
        Ok(_) => fs::remove_file(&path).map_err(failed("remove the old socket"))?,
        Err(_) => {}
    }
    let listener = UnixListener::bind(&path).map_err(failed("listen at"))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map_err(failed("protect"))?;
    let inode = fs::symlink_metadata(&path).map_err(failed("look at"))?.ino();
    MADE.set(Some((path, inode)));
    Ok(listener)
}

/// Accepts connections, as many at once as may be open.
pub(super) fn accept(daemon: &Rc<Daemon>, listener: UnixListener) {
    let daemon = Rc::clone(daemon);
    let places = Arc::new(Semaphore::new(limits::CONNECTIONS_MAX));
    spawn_local(async move {
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let daemon = Rc::clone(&daemon);
                    spawn_local(async move {
                        connection(daemon, stream).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    // Out of descriptors, most likely: the next end of a connection gives one back.
                    tracing::warn!("accept a connection: {error}");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
    });
}

async fn connection(daemon: Rc<Daemon>, mut stream: UnixStream) {
    match stream.peer_cred() {
        Ok(peer) if may_connect(peer.uid()) => {}
        Ok(peer) => {
            tracing::warn!(uid = peer.uid(), "another user's connection is refused");
            return;
        }
        Err(error) => {
            tracing::warn!("a connection whose peer is unknown is refused: {error}");
            return;
        }
    }
    match timeout(limits::HEAD_TIMEOUT, first_byte(&stream)).await {
        Ok(Ok(Some(b'{'))) => {
            // One that sends no end of its line is answered by what it has sent.
            let line = timeout(limits::HEAD_TIMEOUT, first_line(&mut stream)).await;
            let answer = old_tool::answer(&line.unwrap_or_default(), told_to_old_client(&daemon));
            let _old_client_left = stream.write_all(answer.as_bytes()).await;
            return;
        }
        Ok(Ok(Some(_))) => {}
        // Silent, gone, or unreadable.
        Ok(Ok(None) | Err(_)) | Err(_) => return,
    }
    let break_off = BreakOff::default();
    let broken_off = Arc::clone(&break_off.0);
    let service = service_fn(move |mut request: Request<Incoming>| {
        let daemon = Rc::clone(&daemon);
        request.extensions_mut().insert(break_off.clone());
        async move { Ok::<_, Infallible>(http::handle(daemon, request).await) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits::HEAD_TIMEOUT)
        .max_buf_size(limits::HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let served = tokio::select! {
        served = serving => served,
        () = broken_off.notified() => return,
    };
    if let Err(error) = served {
        tracing::debug!("a connection ended: {error}");
    }
}

/// The first line of a client of the earlier tool, or its beginning.
async fn first_line(stream: &mut UnixStream) -> Vec<u8> {
    let mut line = Vec::new();
    let mut reader = tokio::io::BufReader::new(stream).take(limits::HEAD_BYTES_MAX as u64);
    // What a client that breaks off has sent is answered too; nobody reads it.
    let _broke_off = reader.read_until(b'\n', &mut line).await;
    line
}

fn told_to_old_client(daemon: &Daemon) -> Told {
    let core = daemon.core.borrow();
    let up = crate::sys::clock::now().mono.since(daemon.started.mono);
    Told {
        pid: std::process::id(),
        uptime_ms: millis(up),
        sessions: core.live(),
        locks: core.manual_locks().len() + core.holders().len(),
        fuses: core.dir_fuses().count(),
    }
}

/// Same user and root only; the socket's mode says the same.
fn may_connect(uid: u32) -> bool {
    uid == 0 || uid == rustix::process::geteuid().as_raw()
}

async fn first_byte(stream: &UnixStream) -> io::Result<Option<u8>> {
    loop {
        stream.readable().await?;
        let mut byte = [0_u8; 1];
        let peeked = stream.try_io(tokio::io::Interest::READABLE, || {
            Ok(rustix::net::recv(stream, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT)?.0)
        });
        match peeked {
            Ok(0) => return Ok(None),
            Ok(_) => return Ok(Some(byte[0])),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// The signals that a daemon listens to. What comes while it starts is kept for [`until_signalled`]; uncaught, it would be
/// the end, and HUP as well.
pub(super) struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
}

impl Signals {
    /// Catches them from now on.
    pub(super) fn catch() -> io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
        })
    }
}

/// Resolves when the daemon is to end: TERM, INT, or a request.
pub(super) async fn until_signalled(
    daemon: &Rc<Daemon>,
    signals: io::Result<Signals>,
    manager: Option<&ServiceManager>,
) {
    let Signals { mut term, mut int, mut hup } = match signals {
        Ok(signals) => signals,
        Err(error) => {
            tracing::error!("signals cannot be caught; the daemon ends by request only: {error}");
            return daemon.stop.notified().await;
        }
    };
    loop {
        tokio::select! {
            _ = term.recv() => return,
            _ = int.recv() => return,
            // Also what a terminal says that closes, which does not end a supervisor.
            _ = hup.recv() => reload::on_hangup(daemon, manager),
            () = daemon.stop.notified() => return,
        }
    }
}

/// Removes the socket, so that clients see at once that nobody listens.
pub(super) fn close(_daemon: &Daemon) {
    let Some((path, inode)) = MADE.take() else { return };
    // A service manager may have put its own socket there meanwhile.
    if fs::symlink_metadata(&path).is_ok_and(|found| found.ino() == inode) {
        let _gone_already = fs::remove_file(path);
    }
}
