//! What every receiver on loopback stands on: a socket that keeps its port, and locks that outlive a panic.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::net::{self, AddressFamily, SocketFlags, SocketType, sockopt};

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A socket that keeps its port also while it does not listen: it must have been bound by number for that.
pub(crate) fn bind() -> io::Result<TcpListener> {
    let socket = |port| {
        let socket = net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        sockopt::set_socket_reuseaddr(&socket, true)?;
        net::bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))?;
        io::Result::Ok(TcpListener::from(socket))
    };
    let chosen = socket(0)?;
    socket(chosen.local_addr()?.port())
}
