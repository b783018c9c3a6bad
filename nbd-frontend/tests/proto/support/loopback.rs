//! A stream whose other end is a [`MemServer`], in one thread: what is written is served at once,
//! what is read are the replies, in pieces as small as the test wants.

use std::io::{self, Read, Write};

use usnap_nbd::proto::Features;

use super::Shelf;
use super::server::MemServer;

#[derive(Debug)]
pub(crate) struct Loopback {
    pub(crate) server: MemServer,
    /// Sent by the server and not yet received.
    to_client: Vec<u8>,
    /// Everything the client has sent.
    pub(crate) sent: Vec<u8>,
    /// The most bytes one read returns and one write takes.
    piece: usize,
}

impl Loopback {
    pub(crate) fn new(shelf: Shelf, features: Features, piece: usize) -> Self {
        let (server, to_client) = MemServer::new(shelf, features);
        Self {
            server,
            to_client,
            sent: Vec::new(),
            piece,
        }
    }
}

impl Read for Loopback {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = buf.len().min(self.piece).min(self.to_client.len());
        buf[..len].copy_from_slice(&self.to_client[..len]);
        self.to_client.drain(..len);
        Ok(len)
    }
}

impl Write for Loopback {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let piece = &buf[..buf.len().min(self.piece)];
        self.sent.extend(piece);
        self.server.receive(piece, &mut self.to_client);
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
