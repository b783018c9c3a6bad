//! Connecting to a server, with a limit for all of it: a server that says nothing is an error.

use std::io::{self, Read, Write};
use std::net::ToSocketAddrs;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, recv, send,
    socket_with,
};
use usnap_nbd::proto::uri::Address;

/// How often a receiver that waits looks up.
pub(super) const LOOK_UP: Duration = Duration::from_millis(100);

/// A socket in the middle of a handshake.
pub(super) struct Timed {
    socket: OwnedFd,
    deadline: Instant,
    limit: Duration,
}

impl Timed {
    /// Connects; that and the handshake may take so long.
    ///
    /// # Errors
    /// Where nobody listens, or nobody answers in time.
    pub(super) fn connect(address: &Address, limit: Duration) -> io::Result<Self> {
        let deadline = Instant::now() + limit;
        let socket = match address {
            Address::Unix { socket } => connect_unix(socket)?,
            Address::Tcp { host, port } => connect_tcp(host, *port, deadline)?,
        };
        Ok(Self {
            socket,
            deadline,
            limit,
        })
    }

    /// The socket, for transmission: it blocks, and a receiver that waits looks up now and then.
    ///
    /// # Errors
    /// Where the system refuses.
    pub(super) fn into_blocking(self) -> io::Result<OwnedFd> {
        rustix::io::ioctl_fionbio(&self.socket, false)?;
        sockopt::set_socket_timeout(&self.socket, Timeout::Recv, Some(LOOK_UP))?;
        Ok(self.socket)
    }

    fn wait(&self, flags: PollFlags) -> io::Result<()> {
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let seconds = self.limit.as_secs_f64();
                let why = format!("no answer in {seconds} seconds");
                return Err(io::Error::new(io::ErrorKind::TimedOut, why));
            }
            if !wait_for(&self.socket, flags, left)?.is_empty() {
                return Ok(());
            }
        }
    }
}

impl Read for Timed {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.wait(PollFlags::IN)?;
        let (len, _) = recv(&self.socket, buf, RecvFlags::DONTWAIT)?;
        Ok(len)
    }
}

impl Write for Timed {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.wait(PollFlags::OUT)?;
        Ok(send(
            &self.socket,
            buf,
            SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
        )?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Waits until the socket is ready, or so long; what it is ready for.
pub(super) fn wait_for(
    socket: &OwnedFd,
    flags: PollFlags,
    limit: Duration,
) -> io::Result<PollFlags> {
    let mut fds = [PollFd::new(socket, flags)];
    let limit = Timespec::try_from(limit).map_err(io::Error::other)?;
    match poll(&mut fds, Some(&limit)) {
        Ok(_) => {}
        // A signal: whoever waits looks whether it was for him.
        Err(Errno::INTR) => return Ok(PollFlags::empty()),
        Err(error) => return Err(error.into()),
    }
    let [fd] = fds;
    Ok(fd.revents())
}

fn socket(family: AddressFamily) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(family, SocketType::STREAM, flags, None)?)
}

fn connect_unix(path: &[u8]) -> io::Result<OwnedFd> {
    let address = match path {
        [0, name @ ..] => SocketAddrUnix::new_abstract_name(name)?,
        path => SocketAddrUnix::new(path)?,
    };
    let socket = socket(AddressFamily::UNIX)?;
    retry_on_intr(|| rustix::net::connect(&socket, &address)).map_err(|error| match error {
        Errno::AGAIN => io::Error::new(io::ErrorKind::TimedOut, "the server accepts nobody"),
        error => error.into(),
    })?;
    Ok(socket)
}

fn connect_tcp(host: &str, port: u16, deadline: Instant) -> io::Result<OwnedFd> {
    let mut failure = io::Error::from(io::ErrorKind::NotFound);
    for address in (host, port).to_socket_addrs()? {
        let family = if address.is_ipv4() {
            AddressFamily::INET
        } else {
            AddressFamily::INET6
        };
        let socket = socket(family)?;
        let connected = match rustix::net::connect(&socket, &address) {
            Err(Errno::INPROGRESS | Errno::INTR) => finish_connect(&socket, deadline),
            result => result.map_err(io::Error::from),
        };
        match connected {
            Ok(()) => {
                // Requests are sent in batches already.
                sockopt::set_tcp_nodelay(&socket, true)?;
                return Ok(socket);
            }
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

fn finish_connect(socket: &OwnedFd, deadline: Instant) -> io::Result<()> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        if !wait_for(socket, PollFlags::OUT, left)?.is_empty() {
            return Ok(sockopt::socket_error(socket)??);
        }
    }
}
