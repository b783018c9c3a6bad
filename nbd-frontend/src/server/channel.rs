//! The blocking byte channel of one connection: a socket, or the two pipes of an inetd-style
//! server. Another thread can make its reader see the end of input, or cut it. Several threads may
//! send; a lock keeps their replies apart.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::{Errno, ioctl_fionread, read, retry_on_intr, write};
use rustix::net::{RecvFlags, Shutdown, recv, shutdown, sockopt};

/// A connection's descriptors. Shared by its thread and by whoever shuts the server down.
#[derive(Debug)]
pub(super) struct Channel {
    input: OwnedFd,
    output: Option<OwnedFd>,
    /// What ends the wait of a reader that is no socket; a socket has `shutdown` for that.
    wake: Option<OwnedFd>,
    waiting: AtomicBool,
    input_ended: AtomicBool,
    /// Nothing can be sent any more: it was cut, sending failed, or a message was left unfinished.
    over: AtomicBool,
    /// Held while something is sent that must stay together.
    sending: Mutex<()>,
}

impl Channel {
    /// A connected stream socket, in blocking mode.
    pub(super) fn socket(socket: OwnedFd) -> Self {
        Self::from_parts(socket, None, None)
    }

    /// Two descriptors, as inetd hands them over: pipes, or twice the same socket.
    pub(super) fn pair(input: OwnedFd, output: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&input, false)?;
        rustix::io::ioctl_fionbio(&output, false)?;
        // The option exists for stream sockets only: whatever answers otherwise is no socket.
        let is_socket = sockopt::socket_type(&input).is_ok();
        let wake = if is_socket {
            None
        } else {
            Some(eventfd(0, EventfdFlags::CLOEXEC)?)
        };
        Ok(Self::from_parts(input, Some(output), wake))
    }

    fn from_parts(input: OwnedFd, output: Option<OwnedFd>, wake: Option<OwnedFd>) -> Self {
        Self {
            input,
            output,
            wake,
            waiting: AtomicBool::new(false),
            input_ended: AtomicBool::new(false),
            over: AtomicBool::new(false),
            sending: Mutex::new(()),
        }
    }

    /// Reads what is there, waiting until there is something; 0 at the end of input, which for a
    /// channel that was cut is at once.
    pub(super) fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        if self.is_over() {
            return Ok(0);
        }
        if let Some(wake) = &self.wake
            && !self.wait_for_input(wake)?
        {
            return Ok(0);
        }
        Ok(retry_on_intr(|| read(&self.input, &mut *buf))?)
    }

    /// Reads what is there or comes soon, without falling asleep; `None` if nothing did.
    pub(super) fn read_soon(&self, buf: &mut [u8], soon: Duration) -> io::Result<Option<usize>> {
        let begin = Instant::now();
        loop {
            match recv(&self.input, &mut *buf, RecvFlags::DONTWAIT) {
                Ok((count, _)) => return Ok(Some(count)),
                Err(Errno::AGAIN) => {}
                // A pipe; or an error that will be seen again.
                Err(_) => return Ok(None),
            }
            if begin.elapsed() > soon {
                return Ok(None);
            }
            // To whoever has something to do, the client for one.
            std::thread::yield_now();
        }
    }

    /// Writes all of `data`, which is one or more whole messages.
    pub(super) fn write_all(&self, data: &[u8]) -> io::Result<()> {
        self.output().write_all(data)
    }

    /// The way out, for messages that are written part by part: nobody else writes meanwhile.
    pub(super) fn output(&self) -> Output<'_> {
        Output {
            channel: self,
            // A panic while it was held left half a message at worst, and ends the connection.
            sending: self.sending.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// Whether nothing can be sent any more: then nothing more is to be done for the client.
    #[inline]
    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Whether nobody would receive an answer, as far as one can know without sending it. A peer
    /// that only ended its own sending is still there. Costs a system call.
    pub(super) fn is_abandoned(&self) -> bool {
        let mut fds = [PollFd::from_borrowed_fd(
            self.output_fd().as_fd(),
            PollFlags::empty(),
        )];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        self.is_over()
            || retry_on_intr(|| poll(&mut fds, Some(&now))).is_ok()
                && fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)
    }

    /// How many bytes can be read without waiting; 0 where nobody knows.
    pub(super) fn available_bytes(&self) -> u64 {
        ioctl_fionread(&self.input).unwrap_or(0)
    }

    /// Says whether the reader is between two requests, so that ending the input now breaks
    /// nothing. Ordered against the closing flag: whoever sets one reads the other afterwards.
    pub(super) fn set_waiting(&self, waiting: bool) {
        self.waiting.store(waiting, Ordering::SeqCst);
    }

    /// Whether the reader is between two requests.
    pub(super) fn is_waiting(&self) -> bool {
        self.waiting.load(Ordering::SeqCst)
    }

    /// Ends the input: what was received already can still be read, then comes the end.
    pub(super) fn end_input(&self) {
        if self.input_ended.swap(true, Ordering::Relaxed) {
            return;
        }
        match &self.wake {
            // Neither can fail in a way that matters: the peer may be gone, then so is the reader.
            Some(wake) => _ = write(wake, &1_u64.to_ne_bytes()),
            None => _ = shutdown(&self.input, Shutdown::Read),
        }
    }

    /// Cuts both directions. Who is writing to a full pipe goes on waiting for its reader.
    pub(super) fn cut(&self) {
        self.over.store(true, Ordering::Relaxed);
        self.end_input();
        if self.wake.is_none() {
            _ = shutdown(&self.input, Shutdown::Both);
        }
    }

    fn output_fd(&self) -> &OwnedFd {
        self.output.as_ref().unwrap_or(&self.input)
    }

    /// Waits for input; false if there is none and the input was ended.
    fn wait_for_input(&self, wake: &OwnedFd) -> io::Result<bool> {
        let mut fds = [
            PollFd::from_borrowed_fd(self.input.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(wake.as_fd(), PollFlags::IN),
        ];
        retry_on_intr(|| poll(&mut fds, None))?;
        // A hang-up without data counts as input too: reading tells the end.
        Ok(!fds[0].revents().is_empty())
    }
}

/// A channel's way out, held by one thread.
#[derive(Debug)]
pub(super) struct Output<'a> {
    channel: &'a Channel,
    sending: MutexGuard<'a, ()>,
}

impl Output<'_> {
    /// Writes all of `data`. An error cuts the channel: half a message may be out.
    ///
    /// # Errors
    /// `BrokenPipe` also after `give_up`, a cut or another error.
    pub(super) fn write_all(&mut self, data: &[u8]) -> io::Result<()> {
        if self.channel.is_over() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.write(data).inspect_err(|_| self.channel.cut())
    }

    /// Leaves a message unfinished: nothing can be sent after it, because the client would take it
    /// for something else.
    pub(super) fn give_up(self) {
        self.channel.over.store(true, Ordering::Relaxed);
        drop(self.sending);
    }

    fn write(&self, mut data: &[u8]) -> io::Result<()> {
        let fd = self.channel.output_fd();
        while !data.is_empty() {
            match write(fd, data) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => data = &data[count..],
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;

    fn stream_pair() -> (OwnedFd, OwnedFd) {
        socketpair(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap()
    }

    fn pipe_pair() -> (OwnedFd, OwnedFd) {
        rustix::pipe::pipe().unwrap()
    }

    fn read_all(channel: &Channel) -> Vec<u8> {
        let mut all = Vec::new();
        let mut buf = [0; 16];
        loop {
            match channel.read(&mut buf).unwrap() {
                0 => return all,
                count => all.extend_from_slice(&buf[..count]),
            }
        }
    }

    #[test]
    fn ending_the_input_of_a_socket_keeps_what_was_received() {
        let (ours, theirs) = stream_pair();
        let channel = Channel::socket(ours);
        write(&theirs, b"received").unwrap();
        channel.end_input();
        assert_eq!(read_all(&channel), b"received");
        channel.write_all(b"still open").unwrap();
    }

    #[test]
    fn ending_the_input_of_a_pipe_keeps_what_was_received() {
        let (input, theirs) = pipe_pair();
        let (_out, output) = pipe_pair();
        let channel = Channel::pair(input, output).unwrap();
        write(&theirs, b"received").unwrap();
        channel.end_input();
        assert_eq!(read_all(&channel), b"received");
    }

    #[test]
    fn a_closed_pipe_is_the_end_of_input() {
        let (input, theirs) = pipe_pair();
        let (_out, output) = pipe_pair();
        let channel = Channel::pair(input, output).unwrap();
        drop(theirs);
        assert_eq!(read_all(&channel), b"");
    }

    #[test]
    fn ending_the_input_wakes_a_reader_that_waits() {
        let (pipe_input, _keep) = pipe_pair();
        let (_out, output) = pipe_pair();
        let (ours, _theirs) = stream_pair();
        for channel in [
            Channel::pair(pipe_input, output).unwrap(),
            Channel::socket(ours),
        ] {
            std::thread::scope(|scope| {
                let reader = scope.spawn(|| read_all(&channel));
                std::thread::sleep(Duration::from_millis(20));
                channel.end_input();
                assert_eq!(reader.join().unwrap(), b"");
            });
        }
    }

    #[test]
    fn a_peer_that_is_gone_is_told_from_one_that_only_stopped_sending() {
        let (ours, theirs) = stream_pair();
        let channel = Channel::socket(ours);
        assert!(!channel.is_abandoned());
        shutdown(&theirs, Shutdown::Write).unwrap();
        assert!(!channel.is_abandoned());
        drop(theirs);
        assert!(channel.is_abandoned());

        let (input, theirs) = pipe_pair();
        let (reader, output) = pipe_pair();
        let channel = Channel::pair(input, output).unwrap();
        drop(theirs);
        assert!(!channel.is_abandoned());
        drop(reader);
        assert!(channel.is_abandoned());
    }

    #[test]
    fn nothing_is_read_or_written_once_it_was_cut_or_sending_failed() {
        let (input, theirs) = pipe_pair();
        let (reader, output) = pipe_pair();
        let channel = Channel::pair(input, output).unwrap();
        write(&theirs, b"received").unwrap();
        drop(reader);
        channel.write_all(b"to nobody").unwrap_err();
        assert!(channel.is_over());
        assert_eq!(read_all(&channel), b"");

        let (input, theirs) = pipe_pair();
        let (_reader, output) = pipe_pair();
        let channel = Channel::pair(input, output).unwrap();
        write(&theirs, b"received").unwrap();
        channel.cut();
        assert_eq!(read_all(&channel), b"");
        channel.write_all(b"too late").unwrap_err();
    }

    #[test]
    fn the_bytes_that_wait_are_known_for_sockets_and_pipes() {
        let (ours, theirs) = stream_pair();
        let channel = Channel::socket(ours);
        write(&theirs, &[0; 77]).unwrap();
        assert_eq!(channel.available_bytes(), 77);

        let (input, theirs) = pipe_pair();
        let (_out, output) = pipe_pair();
        let channel = Channel::pair(input, output).unwrap();
        write(&theirs, &[0; 78]).unwrap();
        assert_eq!(channel.available_bytes(), 78);
    }
}
