//! TCP sockets as links need them. Covers opening with a deadline, options, and reads and writes that never block or are interrupted; not what
//! is sent.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::sockopt;
use rustix::net::{AddressFamily, RecvFlags, SendAncillaryBuffer, SendFlags, SocketFlags, SocketType};

/// A peer whose machine died is noticed after 10 + 3 x 5 s. Shorter would blame short stalls of the network; longer keeps a dead owner's pages.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_PROBES: u32 = 3;
/// The same for bytes under way that nobody acknowledges, which keepalive does not cover.
const UNACKNOWLEDGED_MS: u32 = 25_000;

pub fn tune(socket: &OwnedFd) -> Result<(), Errno> {
    sockopt::set_tcp_nodelay(socket, true)?;
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(socket, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(socket, KEEPALIVE_PROBES)?;
    sockopt::set_tcp_user_timeout(socket, UNACKNOWLEDGED_MS)
}

/// None: not connected by the deadline. The socket stays non-blocking.
pub fn connect(address: &SocketAddr, deadline: Instant) -> Result<Option<OwnedFd>, Errno> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    let socket = ramster_sys::quiet::move_high(socket);
    tune(&socket)?;
    match rustix::net::connect(&socket, address) {
        Ok(()) => return Ok(Some(socket)),
        // EINTR of a connect means, like EINPROGRESS, that it goes on by itself.
        Err(Errno::INPROGRESS | Errno::INTR) => {}
        Err(errno) => return Err(errno),
    }
    if !wait_for(&socket, PollFlags::OUT, deadline)? {
        return Ok(None);
    }
    sockopt::socket_error(&socket)??;
    Ok(Some(socket))
}

/// False: the deadline passed first.
pub fn wait_for(socket: &impl AsFd, events: PollFlags, deadline: Instant) -> Result<bool, Errno> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        match poll(&mut [PollFd::new(socket, events)], Some(&timeout)) {
            Ok(count) => return Ok(count > 0),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Blocks unless `flags` have `DONTWAIT`, see `set_patience`. None: nothing there now. Some(0): the other side closed.
pub fn receive(socket: &impl AsFd, space: &mut [u8], flags: RecvFlags) -> Result<Option<usize>, Errno> {
    come(rustix::net::recv(socket, space, flags).map(|(_, count_bytes)| count_bytes))
}

/// The same into space that nothing was written to.
pub fn receive_into<'a>(
    socket: &impl AsFd,
    space: &'a mut [MaybeUninit<u8>],
    flags: RecvFlags,
) -> Result<Option<&'a mut [u8]>, Errno> {
    come(rustix::net::recv(socket, space, flags).map(|((received, _), _)| received))
}

/// After a signal, as when there is nothing yet, whoever waits looks again.
fn come<T>(result: Result<T, Errno>) -> Result<Option<T>, Errno> {
    match result {
        Ok(received) => Ok(Some(received)),
        Err(Errno::AGAIN | Errno::INTR) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// From now on a read without `DONTWAIT` waits that long: one call, where a poll and a read would be two. `set_ms` is the timeout that the socket has,
/// so that it is set only when it changes.
pub fn set_patience(socket: &impl AsFd, timeout_ms: u64, set_ms: &mut Option<u64>) -> Result<(), Errno> {
    if *set_ms != Some(timeout_ms) {
        // 0 would mean for ever; a microsecond is as short as it gets.
        let timeout = Duration::from_millis(timeout_ms).max(Duration::from_micros(1));
        sockopt::set_socket_timeout(socket, sockopt::Timeout::Recv, Some(timeout))?;
        *set_ms = Some(timeout_ms);
    }
    Ok(())
}

/// From now on only calls that say so do not block.
pub fn set_blocking(socket: &impl AsFd) -> Result<(), Errno> {
    let flags = rustix::fs::fcntl_getfl(socket)?;
    rustix::fs::fcntl_setfl(socket, flags.difference(rustix::fs::OFlags::NONBLOCK))
}

/// Bytes the kernel took; 0 when it takes none now.
pub fn send(socket: &impl AsFd, bytes: &[u8]) -> Result<usize, Errno> {
    loop {
        match rustix::net::send(socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Err(Errno::AGAIN) => return Ok(0),
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}

/// The same for several pieces, in their order.
pub fn send_all_of(socket: &impl AsFd, pieces: &[IoSlice<'_>]) -> Result<usize, Errno> {
    loop {
        let mut nothing_besides = SendAncillaryBuffer::default();
        match rustix::net::sendmsg(socket, pieces, &mut nothing_besides, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Err(Errno::AGAIN) => return Ok(0),
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}
