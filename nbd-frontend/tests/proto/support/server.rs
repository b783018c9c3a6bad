//! A server on vectors: what a program has to do around the protocol, in a hundred lines.

use usnap_nbd::proto::{
    Context, Decoded, Errno, Features, Handshake, HandshakeLimits, MAX_ERROR_REPLY,
    MAX_REPLY_HEADER, Negotiated, Progress, ReplyStyle, Request, RequestKind,
};

use super::Shelf;

/// Serves the shelf to one client. Even 4 KiB blocks that are zeroes count as holes.
#[derive(Debug)]
pub(crate) struct MemServer {
    shelf: Shelf,
    handshake: Handshake,
    negotiated: Option<Negotiated>,
    inbox: Vec<u8>,
    /// Bytes of a refused payload to throw away, and the reply that comes after.
    drain: Option<(u64, Vec<u8>)>,
    pub(crate) disk: Vec<u8>,
    /// Why the connection is to be closed.
    pub(crate) closed: Option<String>,
    pub(crate) max_inbox_bytes: usize,
}

impl MemServer {
    pub(crate) fn new(shelf: Shelf, features: Features) -> (Self, Vec<u8>) {
        let handshake = Handshake::new(HandshakeLimits::default(), features);
        let mut greeting = Vec::new();
        handshake.greeting(&mut greeting);
        let server = Self {
            shelf,
            handshake,
            negotiated: None,
            inbox: Vec::new(),
            drain: None,
            disk: Vec::new(),
            closed: None,
            max_inbox_bytes: 0,
        };
        (server, greeting)
    }

    /// Takes bytes of the client; appends what to send.
    pub(crate) fn receive(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        self.inbox.extend(bytes);
        while self.closed.is_none() {
            let used = match self.negotiated.take() {
                None => self.shake_hands(out),
                Some(negotiated) => {
                    let used = self.transmit(&negotiated, out);
                    self.negotiated = Some(negotiated);
                    used
                }
            };
            self.inbox.drain(..used);
            if used == 0 {
                break;
            }
        }
        self.max_inbox_bytes = self.max_inbox_bytes.max(self.inbox.len());
    }

    fn shake_hands(&mut self, out: &mut Vec<u8>) -> usize {
        let (used, progress) = self.handshake.receive(&self.shelf, &self.inbox, out);
        match progress {
            Progress::NeedMore => {}
            Progress::Closed(reason) => self.closed = Some(reason.to_string()),
            Progress::Transmission(negotiated) => {
                let size = usize::try_from(negotiated.export.size_bytes).unwrap();
                self.disk.resize(size, 0);
                self.negotiated = Some(negotiated);
            }
        }
        used
    }

    fn transmit(&mut self, negotiated: &Negotiated, out: &mut Vec<u8>) -> usize {
        if let Some((left, reply)) = self.drain.take() {
            let here = u64::try_from(self.inbox.len()).unwrap().min(left);
            if here == left {
                out.extend(reply);
            } else {
                self.drain = Some((left - here, reply));
            }
            return usize::try_from(here).unwrap();
        }
        let header_len = negotiated.header_len();
        let Some(header) = self.inbox.get(..header_len) else {
            return 0;
        };
        match negotiated.decode_request(header) {
            Err(fatal) => {
                self.closed = Some(fatal.to_string());
                0
            }
            Ok(Decoded::Refused(it)) => {
                let mut buf = [0; MAX_ERROR_REPLY];
                let replies = negotiated.replies();
                let len = replies.error(&mut buf, it.cookie, it.offset, it.errno, it.message);
                self.drain = (it.payload_len > 0).then(|| (it.payload_len, buf[..len].to_vec()));
                if self.drain.is_none() {
                    out.extend(&buf[..len]);
                }
                header_len
            }
            Ok(Decoded::Request(request)) => {
                let len = header_len + usize::try_from(request.payload_len()).unwrap();
                let Some(message) = self.inbox.get(..len) else {
                    return 0;
                };
                let payload = message[header_len..].to_vec();
                self.execute(negotiated, &request, &payload, out);
                len
            }
        }
    }

    fn execute(&mut self, it: &Negotiated, request: &Request, payload: &[u8], out: &mut Vec<u8>) {
        let start = usize::try_from(request.offset).unwrap();
        let len = usize::try_from(request.kind.effect_len()).unwrap();
        match request.kind {
            RequestKind::Disconnect => {
                self.closed = Some("client disconnected".to_owned());
                return;
            }
            RequestKind::Read { dont_fragment, .. } if len > 0 => {
                return self.read(it, request, dont_fragment, out);
            }
            RequestKind::BlockStatus { len, req_one } => {
                return self.block_status(it, request, len, req_one, out);
            }
            RequestKind::Write { .. } => self.disk[start..start + len].copy_from_slice(payload),
            RequestKind::WriteZeroes {
                fast_zero: true, ..
            } => {
                let mut buf = [0; MAX_ERROR_REPLY];
                let replies = it.replies();
                let message = "it would not be fast";
                let len = replies.error(
                    &mut buf,
                    request.cookie,
                    request.offset,
                    Errno::NotSup,
                    message,
                );
                out.extend(&buf[..len]);
                return;
            }
            RequestKind::WriteZeroes { .. } | RequestKind::Trim { .. } => {
                self.disk[start..start + len].fill(0);
            }
            RequestKind::Read { .. } | RequestKind::Flush | RequestKind::Cache { .. } => {}
        }
        let mut buf = [0; MAX_REPLY_HEADER];
        let len = it.replies().done(&mut buf, request.cookie, request.offset);
        out.extend(&buf[..len]);
    }

    /// Runs of 4 KiB blocks that are all zeroes or not, as (start, end, zero).
    fn runs(&self, start: usize, end: usize) -> Vec<(usize, usize, bool)> {
        let mut runs: Vec<(usize, usize, bool)> = Vec::new();
        let mut at = start;
        while at < end {
            let next = (at / 4096 * 4096 + 4096).min(end);
            let zero = self.disk[at..next].iter().all(|&byte| byte == 0);
            match runs.last_mut() {
                Some(last) if last.2 == zero => last.1 = next,
                _ => runs.push((at, next, zero)),
            }
            at = next;
        }
        runs
    }

    fn read(&self, it: &Negotiated, request: &Request, whole: bool, out: &mut Vec<u8>) {
        let start = usize::try_from(request.offset).unwrap();
        let end = start + usize::try_from(request.kind.effect_len()).unwrap();
        let replies = it.replies();
        let tag = (request.cookie, request.offset);
        let mut buf = [0; MAX_REPLY_HEADER];
        let runs = if whole || replies.style() == ReplyStyle::Simple {
            vec![(start, end, false)]
        } else {
            self.runs(start, end)
        };
        for &(from, to, zero) in &runs {
            let offset = u64::try_from(from).unwrap();
            let len = u32::try_from(to - from).unwrap();
            if zero {
                let used = replies.read_hole(&mut buf, tag, offset, len, to == end);
                out.extend(&buf[..used]);
            } else {
                let used = replies.read_data_header(&mut buf, tag, offset, len, to == end);
                out.extend(&buf[..used]);
                out.extend(&self.disk[from..to]);
            }
        }
    }

    fn block_status(
        &self,
        it: &Negotiated,
        request: &Request,
        len: u64,
        req_one: bool,
        out: &mut Vec<u8>,
    ) {
        let start = usize::try_from(request.offset).unwrap();
        let runs = self.runs(start, start + usize::try_from(len).unwrap());
        let mut reply =
            it.replies()
                .block_status(out, request.cookie, request.offset, len, req_one);
        let count = it.contexts.len();
        for (index, (id, context)) in it.contexts.iter().enumerate() {
            reply.begin(id);
            for &(from, to, zero) in &runs {
                let flags = match context {
                    Context::BaseAllocation => u64::from(zero) * 3,
                    Context::AllocationDepth => u64::from(!zero),
                };
                if !reply.push(u64::try_from(to - from).unwrap(), flags) {
                    break;
                }
            }
            reply.finish(index + 1 == count);
        }
    }
}
