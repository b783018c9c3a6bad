//! Messages by hand, with literal numbers as in proto.md.

pub(crate) const OPT_MAGIC: u64 = 0x4948_4156_454f_5054;
pub(crate) const ACK: u32 = 1;
pub(crate) const ERR_UNSUP: u32 = 0x8000_0001;
pub(crate) const ERR_INVALID: u32 = 0x8000_0003;
pub(crate) const ERR_UNKNOWN: u32 = 0x8000_0006;
pub(crate) const ERR_SHUTDOWN: u32 = 0x8000_0007;
pub(crate) const ERR_TOO_BIG: u32 = 0x8000_0009;
pub(crate) const ERR_EXT_HEADER_REQD: u32 = 0x8000_000a;

/// Puts big-endian numbers together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bytes(pub(crate) Vec<u8>);

impl Bytes {
    pub(crate) fn u16(mut self, value: u16) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    pub(crate) fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    pub(crate) fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    pub(crate) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }
}

pub(crate) fn option(option: u32, data: &[u8]) -> Vec<u8> {
    let len = u32::try_from(data.len()).unwrap();
    Bytes::default()
        .u64(OPT_MAGIC)
        .u32(option)
        .u32(len)
        .bytes(data)
        .0
}

fn string(bytes: Bytes, text: &str) -> Bytes {
    bytes
        .u32(u32::try_from(text.len()).unwrap())
        .bytes(text.as_bytes())
}

/// The data of INFO and GO.
pub(crate) fn info(name: &str, requests: &[u16]) -> Vec<u8> {
    let count = u16::try_from(requests.len()).unwrap();
    requests
        .iter()
        .fold(string(Bytes::default(), name).u16(count), |bytes, &r| {
            bytes.u16(r)
        })
        .0
}

/// The data of LIST_META_CONTEXT and SET_META_CONTEXT.
pub(crate) fn meta(name: &str, queries: &[&str]) -> Vec<u8> {
    let count = u32::try_from(queries.len()).unwrap();
    queries
        .iter()
        .fold(string(Bytes::default(), name).u32(count), |bytes, q| {
            string(bytes, q)
        })
        .0
}

/// Takes apart replies to options: type and data of each, all of them to `option`.
pub(crate) fn option_replies(mut bytes: &[u8], option: u32) -> Vec<(u32, Vec<u8>)> {
    let mut replies = Vec::new();
    while !bytes.is_empty() {
        assert_eq!(u64_at(bytes, 0), 0x0003_e889_0455_65a9, "reply magic");
        assert_eq!(u32_at(bytes, 8), option, "option of the reply");
        let end = 20 + usize::try_from(u32_at(bytes, 16)).unwrap();
        replies.push((u32_at(bytes, 12), bytes[20..end].to_vec()));
        bytes = &bytes[end..];
    }
    replies
}

/// A compact request.
pub(crate) fn request(flags: u16, command: u16, cookie: u64, offset: u64, len: u32) -> Vec<u8> {
    let bytes = Bytes::default().u32(0x2560_9513).u16(flags).u16(command);
    bytes.u64(cookie).u64(offset).u32(len).0
}

/// An extended request.
pub(crate) fn extended(flags: u16, command: u16, cookie: u64, offset: u64, len: u64) -> Vec<u8> {
    let bytes = Bytes::default().u32(0x21e4_1c71).u16(flags).u16(command);
    bytes.u64(cookie).u64(offset).u64(len).0
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(bytes[at..at + 2].try_into().unwrap())
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// A reply in transmission, taken apart.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Reply {
    Simple {
        error: u32,
        cookie: u64,
    },
    Chunk {
        flags: u16,
        kind: u16,
        cookie: u64,
        offset: Option<u64>,
        payload: Vec<u8>,
    },
}

/// Takes apart replies of which none is a simple one with data.
pub(crate) fn replies(mut bytes: &[u8]) -> Vec<Reply> {
    let mut replies = Vec::new();
    while !bytes.is_empty() {
        let (reply, len) = match u32_at(bytes, 0) {
            0x6744_6698 => (
                Reply::Simple {
                    error: u32_at(bytes, 4),
                    cookie: u64_at(bytes, 8),
                },
                16,
            ),
            magic @ (0x668e_33ef | 0x6e8a_278c) => {
                let extended = magic == 0x6e8a_278c;
                let (header, len) = if extended {
                    (32, usize::try_from(u64_at(bytes, 24)).unwrap())
                } else {
                    (20, usize::try_from(u32_at(bytes, 16)).unwrap())
                };
                let chunk = Reply::Chunk {
                    flags: u16_at(bytes, 4),
                    kind: u16_at(bytes, 6),
                    cookie: u64_at(bytes, 8),
                    offset: extended.then(|| u64_at(bytes, 16)),
                    payload: bytes[header..header + len].to_vec(),
                };
                (chunk, header + len)
            }
            magic => panic!("no magic: {magic:#x}"),
        };
        replies.push(reply);
        bytes = &bytes[len..];
    }
    replies
}
