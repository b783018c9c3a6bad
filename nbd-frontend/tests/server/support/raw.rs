//! A client that shows each chunk of a reply, sends any bytes, and never helps the server.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;

use usnap_nbd::proto::client::{
    ClientHandshake, ClientNegotiated, ClientOptions, ClientProgress, ReplyKind,
};
use usnap_nbd::proto::{Cookie, Errno, Request, RequestKind};

/// A connection after its handshake.
pub(crate) struct RawClient {
    pub(crate) stream: UnixStream,
    pub(crate) negotiated: ClientNegotiated,
    in_flight: HashMap<Cookie, Request>,
    inbox: Vec<u8>,
}

/// A chunk of a reply, or a simple reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) cookie: u64,
    pub(crate) done: bool,
    pub(crate) kind: ReplyKind,
    pub(crate) payload: Vec<u8>,
}

impl Chunk {
    pub(crate) fn errno(&self) -> Option<Errno> {
        match self.kind {
            ReplyKind::Error { errno, .. } => Some(errno),
            _ => None,
        }
    }

    pub(crate) fn is_success(&self) -> bool {
        self.done && self.errno().is_none()
    }
}

impl RawClient {
    pub(crate) fn connect(mut stream: UnixStream, options: ClientOptions) -> Self {
        let mut handshake = ClientHandshake::new(options);
        let (mut inbox, mut outbox) = (Vec::new(), Vec::new());
        loop {
            let (used, progress) = handshake.receive(&inbox, &mut outbox);
            inbox.drain(..used);
            stream.write_all(&outbox).unwrap();
            outbox.clear();
            match progress {
                ClientProgress::NeedMore => assert!(fill(&mut stream, &mut inbox), "closed"),
                ClientProgress::Failed(failure) => panic!("handshake failed: {failure}"),
                ClientProgress::Ready(negotiated) => {
                    return Self {
                        stream,
                        negotiated,
                        in_flight: HashMap::new(),
                        inbox,
                    };
                }
            }
        }
    }

    /// The bytes of a request, which from then on is in flight.
    pub(crate) fn encode(&mut self, cookie: u64, offset: u64, kind: RequestKind) -> Vec<u8> {
        let request = Request {
            cookie: Cookie(cookie),
            offset,
            kind,
        };
        let mut header = [0; 32];
        let len = self
            .negotiated
            .encode_request(&mut header, &request)
            .unwrap();
        self.in_flight.insert(request.cookie, request);
        header[..len].to_vec()
    }

    pub(crate) fn send(&mut self, cookie: u64, offset: u64, kind: RequestKind) {
        let bytes = self.encode(cookie, offset, kind);
        self.send_bytes(&bytes);
    }

    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// The next chunk; `None` if the server closed between two.
    pub(crate) fn chunk(&mut self) -> Option<Chunk> {
        loop {
            let find = |cookie| self.in_flight.get(&cookie).copied();
            let decoded = self.negotiated.decode_reply(&self.inbox, find).unwrap();
            if let Some((chunk, used)) = decoded {
                let len = used + chunk.payload_len as usize;
                while self.inbox.len() < len {
                    if !fill(&mut self.stream, &mut self.inbox) {
                        return None;
                    }
                }
                let payload = self.inbox[used..len].to_vec();
                self.inbox.drain(..len);
                if chunk.done {
                    self.in_flight.remove(&chunk.request.cookie);
                }
                let cookie = chunk.request.cookie.0;
                return Some(Chunk {
                    cookie,
                    done: chunk.done,
                    kind: chunk.kind,
                    payload,
                });
            }
            if !fill(&mut self.stream, &mut self.inbox) {
                assert!(
                    self.inbox.is_empty(),
                    "the server closed in the middle of a header"
                );
                return None;
            }
        }
    }

    /// The next chunk, which must come.
    pub(crate) fn expect_chunk(&mut self) -> Chunk {
        self.chunk().expect("the server closed")
    }

    /// All chunks up to the one that ends a reply.
    pub(crate) fn reply(&mut self) -> Vec<Chunk> {
        let mut chunks = vec![self.expect_chunk()];
        while chunks.last().is_some_and(|chunk| !chunk.done) {
            chunks.push(self.expect_chunk());
        }
        chunks
    }

    /// Asserts that nothing more comes.
    pub(crate) fn expect_closed(&mut self) {
        assert_eq!(self.chunk(), None);
    }
}

/// Receives more; false at the end.
fn fill(stream: &mut UnixStream, inbox: &mut Vec<u8>) -> bool {
    let mut buf = [0; 65536];
    match stream.read(&mut buf) {
        Ok(0) => false,
        // What a server did not read when it closed counts as an end, too.
        Err(error) if error.kind() == ErrorKind::ConnectionReset => false,
        Ok(count) => {
            inbox.extend_from_slice(&buf[..count]);
            true
        }
        Err(error) => panic!("cannot receive: {error}"),
    }
}
