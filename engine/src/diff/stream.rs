//! The stream's bytes: reading what anybody may have sent, and writing. `DIFF.md` has the format.

use std::io::{self, Read, Write};

use usnap_format::OriginIdentity;

use super::Sample;
use crate::error::{Error, ErrorKind, Result};
use crate::num::to_usize;

/// The most data that a record has.
pub const MAX_DATA_BYTES: u64 = 1 << 20;

const MAGIC: [u8; 8] = *b"usnapdif";
const VERSION: u32 = 1;
const FLAG_EXACT: u32 = 1 << 0;
const FLAG_TO_LAYERS: u32 = 1 << 1;
const HEADER_LEN: usize = 56;
const SAMPLE_LEN: usize = 16;
const MAX_SAMPLES: u32 = 1024;
const MAX_SAMPLE_BYTES: u32 = 1 << 16;
const RECORD_LEN: usize = 32;
const KIND_DATA: u32 = 1;
const KIND_ZEROS: u32 = 2;
const KIND_END: u32 = 3;

/// What a stream says first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiffHeader {
    /// Size of the device in bytes, before and after.
    pub size_bytes: u64,
    /// Chunks and sectors that are equal were left out.
    pub is_exact: bool,
    /// It is relative to the layers, not to the origin.
    pub is_to_layers: bool,
    /// What it is relative to: size, scheme 1 sample and time of the origin's file, or of what the
    /// layers show. For information: the samples are compared.
    pub base: OriginIdentity,
    /// Places that the diff does not change.
    pub samples: Vec<Sample>,
}

/// What a record puts in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content<'a> {
    /// These bytes, not none.
    Data(&'a [u8]),
    /// So many zeros, > 0.
    Zeros(u64),
}

/// A record; what it writes lies inside the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Where, in bytes.
    pub offset: u64,
    /// What.
    pub content: Content<'a>,
}

/// Fields, one after the other.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn array<const N: usize>(&mut self) -> [u8; N] {
        let (field, rest) = self.0.split_first_chunk().unwrap_or((&[0; N], &[]));
        self.0 = rest;
        *field
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }
}

/// Reads a stream, and checks each part before it is handed out. Takes no more memory than a record's
/// data, whatever the stream says.
pub struct DiffReader<R> {
    input: R,
    header: DiffHeader,
    /// The checksum so far: of the header, then of each record's head, each with the one before.
    chain: u32,
    position: u64,
    next_offset: u64,
    records: u64,
    bytes: u64,
    is_ended: bool,
    buf: Vec<u8>,
}

impl<R: Read> DiffReader<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// `Foreign`, `NotSupported` (a later version), `Corrupt`, `Io`.
    pub fn new(input: R) -> Result<Self> {
        let mut reader = Self {
            input,
            header: DiffHeader::default(),
            chain: 0,
            position: 0,
            next_offset: 0,
            records: 0,
            bytes: 0,
            is_ended: false,
            buf: Vec::new(),
        };
        reader.read_header()?;
        Ok(reader)
    }

    /// The header.
    pub fn header(&self) -> &DiffHeader {
        &self.header
    }

    /// How many bytes of the stream were read.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Up to where, in bytes of the device, the records were handed out.
    pub fn reached(&self) -> u64 {
        self.next_offset
    }

    fn read_header(&mut self) -> Result<()> {
        let mut bytes = vec![0; HEADER_LEN];
        self.fill_magic(&mut bytes)?;
        let mut fields = Fields(&bytes);
        if fields.array() != MAGIC {
            let context = "it is no diff of usnap";
            return Err(Error::new(ErrorKind::Foreign, context)
                .with_hint("`usnap diff --with-data FILE` makes one"));
        }
        let version = fields.u32();
        if version != VERSION {
            let context = format!("it has version {version}, and only {VERSION} is known");
            return Err(Error::new(ErrorKind::NotSupported, context));
        }
        let flags = fields.u32();
        let size_bytes = fields.u64();
        let sample_count = fields.u32();
        let _reserved = fields.u32();
        let base = OriginIdentity {
            size_bytes,
            sample_scheme: fields.u32(),
            sample_crc32: fields.u32(),
            mtime_s: i64::from_le_bytes(fields.array()),
            mtime_ns: fields.u32(),
        };
        if sample_count > MAX_SAMPLES {
            return Err(damaged(0, "it has too many samples"));
        }
        let fixed = bytes.len();
        bytes.resize(fixed + to_usize(u64::from(sample_count)) * SAMPLE_LEN, 0);
        self.fill(bytes.get_mut(fixed..).unwrap_or_default())?;
        let mut crc32 = [0; 4];
        self.fill(&mut crc32)?;
        let found = crc32fast::hash(&bytes);
        if u32::from_le_bytes(crc32) != found {
            return Err(damaged(0, "the header's checksum is wrong"));
        }
        if flags & !(FLAG_EXACT | FLAG_TO_LAYERS) != 0 {
            let context = format!("it has flags that are not known ({flags:#x})");
            return Err(Error::new(ErrorKind::NotSupported, context));
        }
        let mut fields = Fields(bytes.get(fixed..).unwrap_or_default());
        for _ in 0..sample_count {
            let sample = Sample {
                offset: fields.u64(),
                len: fields.u32(),
                crc32: fields.u32(),
            };
            let end = sample.offset.checked_add(u64::from(sample.len));
            if sample.len > MAX_SAMPLE_BYTES || end.is_none_or(|end| end > size_bytes) {
                return Err(damaged(0, "a sample lies outside the device"));
            }
            self.header.samples.push(sample);
        }
        self.header = DiffHeader {
            size_bytes,
            is_exact: flags & FLAG_EXACT != 0,
            is_to_layers: flags & FLAG_TO_LAYERS != 0,
            base,
            samples: std::mem::take(&mut self.header.samples),
        };
        self.chain = found;
        Ok(())
    }

    /// The next record; `None` behind the last, where the end record was read and found right.
    ///
    /// # Errors
    /// `Corrupt` with the place, also where the stream ends early; `Io`.
    pub fn next_record(&mut self) -> Result<Option<Record<'_>>> {
        if self.is_ended {
            return Ok(None);
        }
        let at = self.position;
        let mut head = [0; RECORD_LEN];
        self.fill(&mut head)?;
        let mut fields = Fields(&head);
        let (kind, data_crc32) = (fields.u32(), fields.u32());
        let (offset, len) = (fields.u64(), fields.u64());
        let (reserved, head_crc32) = (fields.u32(), fields.u32());
        if head_crc32 != chained(self.chain, &head) {
            return Err(damaged(at, "a record's checksum is wrong"));
        }
        self.chain = head_crc32;
        if reserved != 0 {
            return Err(damaged(at, "a record has something in its reserved field"));
        }
        if kind == KIND_END {
            if (offset, len) != (self.records, self.bytes) {
                return Err(damaged(at, "records are missing before its end"));
            }
            self.is_ended = true;
            return Ok(None);
        }
        let end = offset.checked_add(len);
        let is_inside = end.is_some_and(|end| end <= self.header.size_bytes);
        if len == 0 || !is_inside || offset < self.next_offset {
            return Err(damaged(at, "a record does not lie where it may"));
        }
        let content = match kind {
            KIND_ZEROS => Content::Zeros(len),
            KIND_DATA if len <= MAX_DATA_BYTES => {
                let mut buf = std::mem::take(&mut self.buf);
                buf.resize(to_usize(len), 0);
                self.fill(&mut buf)?;
                self.buf = buf;
                if crc32fast::hash(&self.buf) != data_crc32 {
                    return Err(damaged(at, "the checksum of a record's data is wrong"));
                }
                Content::Data(&self.buf)
            }
            KIND_DATA => return Err(damaged(at, "a record has too much data")),
            _ => return Err(damaged(at, "a record is of a kind that is not known")),
        };
        self.records += 1;
        self.bytes += len;
        self.next_offset = offset + len;
        Ok(Some(Record { offset, content }))
    }

    /// Expects that nothing follows the end record.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub fn expect_end(&mut self) -> Result<()> {
        match self.input.read(&mut [0]) {
            Ok(0) => Ok(()),
            Ok(_) => Err(damaged(self.position, "something follows its end")),
            Err(e) => Err(Error::io("cannot read it", e)),
        }
    }

    /// As `fill`; what ends before a magic could be whole is no diff.
    fn fill_magic(&mut self, bytes: &mut [u8]) -> Result<()> {
        let (magic, rest) = bytes.split_at_mut(MAGIC.len());
        match self.fill(magic) {
            Ok(()) if magic == MAGIC => self.fill(rest),
            Err(error) if error.kind() != ErrorKind::Corrupt => Err(error),
            // Told by the caller.
            _ => Ok(()),
        }
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<()> {
        self.input.read_exact(bytes).map_err(|e| {
            if e.kind() == io::ErrorKind::UnexpectedEof {
                return damaged(self.position, "it is cut off");
            }
            Error::io("cannot read it", e)
        })?;
        self.position += bytes.len() as u64;
        Ok(())
    }
}

#[cold]
fn damaged(at: u64, what: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("{what} (byte {at})"))
        .with_hint("make the diff anew, or send it again")
}

/// The checksum in a record's head: of the one before, and of the head up to it.
fn chained(before: u32, head: &[u8; RECORD_LEN]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&before.to_le_bytes());
    hasher.update(head.get(..RECORD_LEN - 4).unwrap_or_default());
    hasher.finalize()
}

/// Writes a stream.
pub(super) struct DiffWriter<W> {
    out: W,
    chain: u32,
    records: u64,
    bytes: u64,
}

impl<W: Write> DiffWriter<W> {
    pub(super) fn new(mut out: W, header: &DiffHeader) -> io::Result<Self> {
        let mut bytes = Vec::with_capacity(HEADER_LEN + header.samples.len() * SAMPLE_LEN);
        let mut flags = 0;
        if header.is_exact {
            flags |= FLAG_EXACT;
        }
        if header.is_to_layers {
            flags |= FLAG_TO_LAYERS;
        }
        let sample_count = u32::try_from(header.samples.len()).unwrap_or(u32::MAX);
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(u32::to_le_bytes(flags));
        bytes.extend(header.size_bytes.to_le_bytes());
        bytes.extend(sample_count.to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend(header.base.sample_scheme.to_le_bytes());
        bytes.extend(header.base.sample_crc32.to_le_bytes());
        bytes.extend(header.base.mtime_s.to_le_bytes());
        bytes.extend(header.base.mtime_ns.to_le_bytes());
        bytes.extend([0; 4]);
        for sample in &header.samples {
            bytes.extend(sample.offset.to_le_bytes());
            bytes.extend(sample.len.to_le_bytes());
            bytes.extend(sample.crc32.to_le_bytes());
        }
        let chain = crc32fast::hash(&bytes);
        out.write_all(&bytes)?;
        out.write_all(&chain.to_le_bytes())?;
        Ok(Self {
            out,
            chain,
            records: 0,
            bytes: 0,
        })
    }

    /// `data` has `MAX_DATA_BYTES` at the most.
    pub(super) fn data(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        let crc32 = crc32fast::hash(data);
        self.head(KIND_DATA, crc32, offset, data.len() as u64)?;
        self.out.write_all(data)?;
        self.count(data.len() as u64);
        Ok(())
    }

    pub(super) fn zeros(&mut self, offset: u64, len: u64) -> io::Result<()> {
        self.head(KIND_ZEROS, 0, offset, len)?;
        self.count(len);
        Ok(())
    }

    pub(super) fn end(mut self) -> io::Result<()> {
        self.head(KIND_END, 0, self.records, self.bytes)?;
        self.out.flush()
    }

    fn count(&mut self, len: u64) {
        self.records += 1;
        self.bytes += len;
    }

    fn head(&mut self, kind: u32, data_crc32: u32, offset: u64, len: u64) -> io::Result<()> {
        let mut head = [0; RECORD_LEN];
        let fields = kind
            .to_le_bytes()
            .into_iter()
            .chain(data_crc32.to_le_bytes())
            .chain(offset.to_le_bytes())
            .chain(len.to_le_bytes());
        head.iter_mut()
            .zip(fields)
            .for_each(|(to, from)| *to = from);
        self.chain = chained(self.chain, &head);
        if let Some(place) = head.last_chunk_mut() {
            *place = self.chain.to_le_bytes();
        }
        self.out.write_all(&head)
    }
}
