//! Any bytes as a diff, and a real one with its parts changed and its checksums made right again.
//! What is read lies where it may, what is applied is what was read, and what is refused as a file
//! changes nothing.

use std::fs::File;
use std::io::{Cursor, Write};
use std::ops::ControlFlow;
use std::path::Path;

use usnap_engine::diff::{Content, DiffReader, MAX_DATA_BYTES};
use usnap_engine::patch::{DiffInput, PatchOptions, patch};

use crate::input::Input;

const HEADER_LEN: usize = 56;
const DEVICE_LEN: usize = 40_000;

/// CRC-32, bit by bit: the engine's is not to judge itself.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = !0_u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

/// A number near something that matters.
fn number(input: &mut Input<'_>, near: u64) -> u64 {
    match input.u8() {
        0 => input.u64(),
        1 => near.wrapping_add(u64::from(input.u8())),
        2 => near.wrapping_sub(u64::from(input.u8())),
        3 => u64::MAX - u64::from(input.u8()),
        _ => near,
    }
}

/// A stream whose checksums are right, with fields as they come; and whether it is right in all.
fn made_up(input: &mut Input<'_>, base: &[u8]) -> Vec<u8> {
    let size = number(input, base.len() as u64);
    let samples = input.u8() % 4;
    let mut stream = Vec::new();
    stream.extend(*b"usnapdif");
    stream.extend(1_u32.to_le_bytes());
    stream.extend((u32::from(input.u8()) % 4).to_le_bytes());
    stream.extend(size.to_le_bytes());
    stream.extend(u32::from(samples).to_le_bytes());
    stream.resize(HEADER_LEN, 0);
    for _ in 0..samples {
        // At the end, which no record below changes unless it means to.
        let offset = number(input, base.len() as u64 - 100);
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        let end = at.saturating_add(50);
        let content = base.get(at..end).unwrap_or_default();
        stream.extend(offset.to_le_bytes());
        stream.extend(50_u32.to_le_bytes());
        stream.extend(crc32(content).to_le_bytes());
    }
    let mut chain = crc32(&stream);
    stream.extend(chain.to_le_bytes());
    let mut head = |stream: &mut Vec<u8>, kind: u32, data_crc32: u32, offset: u64, len: u64| {
        let mut head = Vec::new();
        head.extend(chain.to_le_bytes());
        head.extend(kind.to_le_bytes());
        head.extend(data_crc32.to_le_bytes());
        head.extend(offset.to_le_bytes());
        head.extend(len.to_le_bytes());
        head.extend([0; 4]);
        chain = crc32(&head);
        stream.extend(&head[4..]);
        stream.extend(chain.to_le_bytes());
    };
    let (mut at, mut records, mut bytes) = (0_u64, 0_u64, 0_u64);
    while !input.is_empty() {
        let kind = input.u8();
        let near = at.wrapping_add(u64::from(input.u16()) % 3000);
        let offset = number(input, near);
        if kind.is_multiple_of(2) {
            let data = vec![kind; usize::from(input.u16()) % 2000];
            let len = number(input, data.len() as u64);
            head(&mut stream, 1, crc32(&data), offset, len);
            stream.extend(&data);
            bytes = bytes.wrapping_add(len);
            at = offset.wrapping_add(len);
        } else {
            let near = u64::from(input.u16()) % 5000;
            let len = number(input, near);
            let kind = if kind == 255 { 7 } else { 2 };
            head(&mut stream, kind, 0, offset, len);
            bytes = bytes.wrapping_add(len);
            at = offset.wrapping_add(len);
        }
        records += 1;
    }
    head(&mut stream, 3, 0, records, bytes);
    stream
}

/// What the stream makes of the base; `None` where it is refused.
fn read(stream: &[u8], base: &[u8]) -> Option<Vec<u8>> {
    let mut reader = DiffReader::new(Cursor::new(stream)).ok()?;
    let size = reader.header().size_bytes;
    for sample in &reader.header().samples {
        assert!(sample.offset + u64::from(sample.len) <= size);
    }
    let mut content = base.to_vec();
    let mut reached = 0;
    while let Some(record) = reader.next_record().ok()? {
        let len = match record.content {
            Content::Data(data) => data.len() as u64,
            Content::Zeros(len) => len,
        };
        let end = record.offset.checked_add(len).expect("inside the device");
        assert!(len > 0 && record.offset >= reached && end <= size);
        reached = end;
        let start = usize::try_from(record.offset).unwrap_or(usize::MAX);
        let place = start..start.saturating_add(usize::try_from(len).unwrap_or(usize::MAX));
        // Of a device that is larger than ours only what we have.
        match (record.content, content.get_mut(place)) {
            (Content::Data(data), place) => {
                assert!(data.len() as u64 <= MAX_DATA_BYTES);
                if let Some(place) = place {
                    place.copy_from_slice(data);
                }
            }
            (Content::Zeros(_), Some(place)) => place.fill(0),
            (Content::Zeros(_), None) => {}
        }
    }
    assert!(reader.next_record().expect("it ended").is_none());
    reader.expect_end().ok()?;
    Some(content)
}

fn apply(input: DiffInput, device: &Path) -> usnap_engine::Result<()> {
    let mut go_on = |_| ControlFlow::Continue(());
    patch(input, device, PatchOptions::default(), &mut go_on).map(drop)
}

/// Reads the bytes as a diff, and patches a device with it.
///
/// # Panics
/// Where a record lies outside the device, where what was patched is not what was read, or where what
/// was refused has changed the device.
pub fn diff_stream(data: &[u8]) -> &'static str {
    let mut input = Input::new(data);
    let base: Vec<u8> = (0..DEVICE_LEN).map(|i| (i / 50) as u8 | 1).collect();
    let stream = if input.u8().is_multiple_of(4) {
        input.rest().to_vec()
    } else {
        made_up(&mut input, &base)
    };
    let content = read(&stream, &base);

    let mut device = tempfile::NamedTempFile::new().expect("a file");
    device.write_all(&base).expect("room");
    let mut diff = tempfile::NamedTempFile::new().expect("a file");
    diff.write_all(&stream).expect("room");
    let as_file = DiffInput::File(File::open(diff.path()).expect("the file"));
    let patched = apply(as_file, device.path());
    let now = std::fs::read(device.path()).expect("the device");
    assert!(now.len() == base.len(), "another size");
    let Err(error) = patched else {
        assert!(
            content.is_some_and(|content| content == now),
            "patched otherwise"
        );
        // Once more, as a stream.
        let again = DiffInput::Stream(Box::new(Cursor::new(stream)));
        apply(again, device.path()).ok();
        let same = std::fs::read(device.path()).expect("the device");
        assert!(same == now, "twice is not once");
        return "patched";
    };
    assert!(now == base, "refused, and changed: {error:?}");
    if content.is_some() {
        return "of another device";
    }
    "refused"
}
