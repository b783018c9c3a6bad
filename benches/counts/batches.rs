//! A client that sends a batch of requests at once and the next batch when all are answered, so
//! that the server always meets the same batches.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use usnap_nbd::proto::client::{
    ClientHandshake, ClientNegotiated, ClientOptions, ClientProgress, ReplyKind,
};
use usnap_nbd::proto::consts::EXTENDED_REQUEST_LEN;
use usnap_nbd::proto::{Cookie, Request, RequestKind};

use crate::job::Job;

/// Longer than any batch takes, however slow the server is made.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection in transmission.
pub(crate) struct BatchClient {
    stream: UnixStream,
    negotiated: ClientNegotiated,
    /// What was received and not yet looked at.
    inbox: Vec<u8>,
}

impl BatchClient {
    /// Connects to the default export; asks for structured replies, as libnbd's clients do.
    pub(crate) fn connect(socket: &Path) -> Result<Self> {
        let mut stream = UnixStream::connect(socket).context("cannot connect")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut handshake = ClientHandshake::new(ClientOptions {
            extended: false,
            ..ClientOptions::default()
        });
        let (mut inbox, mut outbox) = (Vec::new(), Vec::new());
        loop {
            let (used, progress) = handshake.receive(&inbox, &mut outbox);
            inbox.drain(..used);
            stream.write_all(&outbox)?;
            outbox.clear();
            match progress {
                ClientProgress::NeedMore => fill(&mut stream, &mut inbox)?,
                ClientProgress::Failed(failure) => bail!("the handshake failed: {failure}"),
                ClientProgress::Ready(negotiated) => {
                    return Ok(Self {
                        stream,
                        negotiated,
                        inbox,
                    });
                }
            }
        }
    }

    /// Does `job` at each of the offsets, and waits until all are answered.
    pub(crate) fn run(&mut self, job: Job, offsets: &[u64]) -> Result<()> {
        let kind = if job.is_read() {
            RequestKind::Read {
                len: job.len(),
                dont_fragment: false,
            }
        } else {
            RequestKind::Write {
                len: job.len(),
                fua: false,
            }
        };
        let request = |(number, &offset)| Request {
            cookie: Cookie(number),
            offset,
            kind,
        };
        let requests: Vec<Request> = (0..).zip(offsets).map(request).collect();
        let payload_len = requests.first().map_or(0, Request::payload_len);
        let payload = vec![0xAA; usize::try_from(payload_len)?];
        let mut batch = Vec::new();
        for request in &requests {
            let mut header = [0; EXTENDED_REQUEST_LEN];
            let len = self.negotiated.encode_request(&mut header, request);
            let len = len.map_err(|error| anyhow::anyhow!("{error}"))?;
            batch.extend_from_slice(&header[..len]);
            batch.extend_from_slice(&payload);
        }
        self.stream.write_all(&batch).context("cannot send")?;
        let mut left = requests.len();
        while left > 0 {
            left -= usize::from(self.receive(&requests)?);
        }
        Ok(())
    }

    /// Receives one reply chunk; whether it was the last of its request.
    fn receive(&mut self, requests: &[Request]) -> Result<bool> {
        let find = |cookie: Cookie| requests.get(usize::try_from(cookie.0).ok()?).copied();
        loop {
            let found = self.negotiated.decode_reply(&self.inbox, find);
            let Some((chunk, used)) = found.map_err(|error| anyhow::anyhow!("{error}"))? else {
                fill(&mut self.stream, &mut self.inbox)?;
                continue;
            };
            let whole = used + usize::try_from(chunk.payload_len)?;
            while self.inbox.len() < whole {
                fill(&mut self.stream, &mut self.inbox)?;
            }
            self.inbox.drain(..whole);
            ensure!(
                matches!(chunk.kind, ReplyKind::Done | ReplyKind::Data { .. }),
                "the server answered {:?}",
                chunk.kind
            );
            return Ok(chunk.done);
        }
    }

    pub(crate) fn disconnect(mut self) -> Result<()> {
        let goodbye = Request {
            cookie: Cookie(0),
            offset: 0,
            kind: RequestKind::Disconnect,
        };
        let mut header = [0; EXTENDED_REQUEST_LEN];
        let len = self.negotiated.encode_request(&mut header, &goodbye);
        let len = len.map_err(|error| anyhow::anyhow!("{error}"))?;
        self.stream.write_all(&header[..len])?;
        let rest = self.stream.read(&mut [0]).context("cannot end")?;
        ensure!(rest == 0, "the server sent something after the end");
        Ok(())
    }
}

/// Appends what is there.
fn fill(stream: &mut UnixStream, inbox: &mut Vec<u8>) -> Result<()> {
    let mut piece = vec![0; 1 << 20];
    let count = stream.read(&mut piece).context("cannot receive")?;
    ensure!(count > 0, "the server closed the connection");
    inbox.extend_from_slice(&piece[..count]);
    Ok(())
}
