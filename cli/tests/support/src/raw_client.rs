//! An NBD client of a hundred lines: fixed newstyle, `GO`, simple replies. Small enough to be
//! right by reading, and able to send what a polite client never would.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const GREETING: u64 = 0x4e42_444d_4147_4943;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
const OPT_GO: u32 = 7;
const REP_ACK: u32 = 1;
const REP_INFO: u32 = 3;

/// Command numbers.
pub mod command {
    /// Reads.
    pub const READ: u16 = 0;
    /// Writes; the payload follows.
    pub const WRITE: u16 = 1;
    /// Ends the session.
    pub const DISC: u16 = 2;
    /// Makes everything that was replied durable.
    pub const FLUSH: u16 = 3;
    /// Gives space back.
    pub const TRIM: u16 = 4;
    /// Writes zeros.
    pub const WRITE_ZEROES: u16 = 6;
}

/// A session in its transmission phase.
pub struct RawClient {
    stream: UnixStream,
    size_bytes: u64,
    next_cookie: u64,
}

/// A simple reply's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The request's cookie, as it came back.
    pub cookie: u64,
    /// 0, or the error number on the wire.
    pub error: u32,
}

impl RawClient {
    /// Connects to the default export behind `socket`.
    ///
    /// # Errors
    /// No connection, or the server broke the protocol.
    pub fn connect(socket: &Path) -> Result<Self> {
        Self::connect_to(socket, "")
    }

    /// Connects to the export called `name`.
    ///
    /// # Errors
    /// As [`RawClient::connect`], or there is none of that name.
    pub fn connect_to(socket: &Path, name: &str) -> Result<Self> {
        let mut stream = greet(socket)?;
        let mut option = Vec::new();
        option.extend(OPTION_MAGIC.to_be_bytes());
        option.extend(OPT_GO.to_be_bytes());
        option.extend(u32::try_from(name.len() + 6)?.to_be_bytes());
        option.extend(u32::try_from(name.len())?.to_be_bytes());
        option.extend(name.as_bytes());
        option.extend([0; 2]); // no information requests
        stream.write_all(&option).context("cannot send GO")?;
        let mut size_bytes = None;
        loop {
            let (kind, payload) = option_reply(&mut stream)?;
            match kind {
                REP_ACK => break,
                REP_INFO if payload.len() >= 12 && payload[..2] == [0, 0] => {
                    size_bytes = Some(u64::from_be_bytes(payload[2..10].try_into()?));
                }
                REP_INFO => {}
                _ => bail!("GO was answered with reply type {kind:#x}"),
            }
        }
        let size_bytes = size_bytes.context("GO was acknowledged without the export's size")?;
        Ok(Self {
            stream,
            size_bytes,
            next_cookie: 1,
        })
    }

    /// The export's size.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Sends a request and returns its cookie; `payload` follows it as it is.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn send(&mut self, command: u16, offset: u64, len: u32, payload: &[u8]) -> Result<u64> {
        let cookie = self.next_cookie;
        self.next_cookie += 1;
        let mut header = [0; 28];
        header[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
        header[6..8].copy_from_slice(&command.to_be_bytes());
        header[8..16].copy_from_slice(&cookie.to_be_bytes());
        header[16..24].copy_from_slice(&offset.to_be_bytes());
        header[24..].copy_from_slice(&len.to_be_bytes());
        self.stream
            .write_all(&header)
            .context("cannot send a request")?;
        self.stream
            .write_all(payload)
            .context("cannot send a payload")?;
        Ok(cookie)
    }

    /// Receives a reply's header.
    ///
    /// # Errors
    /// The connection is gone, or what came is no simple reply.
    pub fn receive(&mut self) -> Result<Reply> {
        let header: [u8; 16] = receive(&mut self.stream).context("cannot receive a reply")?;
        let magic = u32::from_be_bytes(header[..4].try_into()?);
        ensure!(
            magic == SIMPLE_REPLY_MAGIC,
            "a reply begins with {magic:#x}"
        );
        let error = u32::from_be_bytes(header[4..8].try_into()?);
        Ok(Reply {
            cookie: u64::from_be_bytes(header[8..].try_into()?),
            error,
        })
    }

    /// Sends a request without read data and returns the error number in its reply (0: done).
    ///
    /// # Errors
    /// The connection is gone, or the reply is not this request's.
    pub fn call(&mut self, command: u16, offset: u64, len: u32, payload: &[u8]) -> Result<u32> {
        let cookie = self.send(command, offset, len, payload)?;
        let reply = self.receive()?;
        ensure!(
            reply.cookie == cookie,
            "cookie {} was answered, not {cookie}",
            reply.cookie
        );
        Ok(reply.error)
    }

    /// Reads `bytes.len()` bytes.
    ///
    /// # Errors
    /// The connection is gone, or the server answered an error.
    pub fn read_at(&mut self, offset: u64, bytes: &mut [u8]) -> Result<()> {
        let error = self.read_or_error(offset, bytes)?;
        let len = bytes.len();
        ensure!(error == 0, "reading {len} bytes at {offset}: error {error}");
        Ok(())
    }

    /// Reads `bytes.len()` bytes and returns the error number in the reply; `bytes` are as they
    /// were where it is not 0.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn read_or_error(&mut self, offset: u64, bytes: &mut [u8]) -> Result<u32> {
        let error = self.call(command::READ, offset, u32::try_from(bytes.len())?, &[])?;
        if error == 0 {
            self.stream
                .read_exact(bytes)
                .context("cannot receive read data")?;
        }
        Ok(error)
    }

    /// Reads the whole export.
    ///
    /// # Errors
    /// The connection is gone, or the server answered an error.
    pub fn read_all(&mut self) -> Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(self.size_bytes)?];
        let mut offset = 0;
        for piece in bytes.chunks_mut(1 << 20) {
            self.read_at(offset, piece)?;
            offset += piece.len() as u64;
        }
        Ok(bytes)
    }

    /// Writes `bytes`.
    ///
    /// # Errors
    /// The connection is gone, or the server answered an error.
    pub fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let len = u32::try_from(bytes.len())?;
        let error = self.call(command::WRITE, offset, len, bytes)?;
        ensure!(error == 0, "writing {len} bytes at {offset}: error {error}");
        Ok(())
    }

    /// Makes everything written so far durable.
    ///
    /// # Errors
    /// The connection is gone, or the server answered an error.
    pub fn flush(&mut self) -> Result<()> {
        let error = self.call(command::FLUSH, 0, 0, &[])?;
        ensure!(error == 0, "flush: error {error}");
        Ok(())
    }

    /// Writes each (offset, bytes) with many requests in flight and fails if one fails.
    ///
    /// # Errors
    /// The connection is gone, or the server answered an error.
    pub fn write_all(&mut self, writes: &[(u64, &[u8])]) -> Result<()> {
        /// Little enough that neither side's socket buffer fills with replies nobody reads.
        const IN_FLIGHT: usize = 64;
        let mut answered = 0;
        for (index, (offset, bytes)) in writes.iter().enumerate() {
            self.send(command::WRITE, *offset, u32::try_from(bytes.len())?, bytes)?;
            if index + 1 - answered >= IN_FLIGHT {
                ensure!(self.receive()?.error == 0, "a write failed");
                answered += 1;
            }
        }
        for _ in answered..writes.len() {
            ensure!(self.receive()?.error == 0, "a write failed");
        }
        Ok(())
    }

    /// Ends the session politely and waits until the server has closed it.
    ///
    /// # Errors
    /// The server sends something instead.
    pub fn disconnect(mut self) -> Result<()> {
        self.send(command::DISC, 0, 0, &[])?;
        let mut rest = [0; 1];
        match self.stream.read(&mut rest) {
            Ok(0) => Ok(()),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
            Ok(_) => bail!("the server sent something after DISC"),
            Err(error) => Err(error).context("waiting for the server to close"),
        }
    }
}

/// Connects and exchanges greetings and flags; what follows is options.
///
/// # Errors
/// No connection, or the server is no fixed newstyle one.
pub fn greet(socket: &Path) -> Result<UnixStream> {
    let mut stream = UnixStream::connect(socket)
        .with_context(|| format!("cannot connect to {}", socket.display()))?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let hello: [u8; 18] = receive(&mut stream).context("cannot receive the greeting")?;
    ensure!(hello[..8] == GREETING.to_be_bytes(), "no NBD greeting");
    ensure!(
        hello[8..16] == OPTION_MAGIC.to_be_bytes(),
        "no newstyle greeting"
    );
    ensure!(hello[17] & 1 == 1, "no fixed newstyle");
    stream
        .write_all(&[0, 0, 0, 3])
        .context("cannot send the client's flags")?;
    Ok(stream)
}

fn option_reply(stream: &mut UnixStream) -> Result<(u32, Vec<u8>)> {
    let header: [u8; 20] = receive(stream).context("cannot receive an option reply")?;
    ensure!(
        header[..8] == OPTION_REPLY_MAGIC.to_be_bytes(),
        "no option reply"
    );
    let kind = u32::from_be_bytes(header[12..16].try_into()?);
    let len = usize::try_from(u32::from_be_bytes(header[16..].try_into()?))?;
    ensure!(len <= 1 << 20, "an option reply of {len} bytes");
    let mut payload = vec![0; len];
    stream
        .read_exact(&mut payload)
        .context("cannot receive an option reply's payload")?;
    Ok((kind, payload))
}

fn receive<const LEN: usize>(stream: &mut UnixStream) -> std::io::Result<[u8; LEN]> {
    let mut bytes = [0; LEN];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}
