//! Any store, dumped and restored: the same metadata, bit for bit, and the same dump again.

use usnap_engine::device::MemDevice;
use usnap_engine::dump::{DumpForm, DumpWriter, ReadOptions, Visitor, read, walk_device};
use usnap_engine::restore::restore_device;

use crate::input::Input;
use crate::store_open::{IMAGE_LEN_MAX, made_up};

/// Where an identity record lies. One with an open session is not restored over a store.
const RECORD: std::ops::Range<usize> = 16..256;

/// The dump of what is on `device`, where there is a store.
pub(crate) fn dump_of(device: &MemDevice, form: DumpForm) -> Option<Vec<u8>> {
    let mut dump = DumpWriter::new(Vec::new(), form);
    if let Err(error) = walk_device(device, &mut dump) {
        assert!(error.to_string().starts_with("cannot "), "{error:?}");
        return None;
    }
    Some(dump.end().expect("memory takes everything"))
}

/// The header chunk, and the areas up to the one with the terminator.
fn metadata(image: &[u8]) -> Vec<Vec<u8>> {
    let sectors = u32::from_le_bytes(image[12..16].try_into().expect("four bytes"));
    let chunk_len = 512 * sectors as usize;
    let mut header = image[..chunk_len].to_vec();
    if header[RECORD].starts_with(b"usnap-id") {
        header[RECORD].fill(0);
    }
    let mut chunks = vec![header];
    let mut at = chunk_len;
    while let Some(area) = image.get(at..at + chunk_len) {
        chunks.push(area.to_vec());
        if area.chunks(16).any(|entry| entry[8..] == [0; 8]) {
            break;
        }
        at += chunk_len * (chunk_len / 16 + 1);
    }
    chunks
}

/// Dumps the bytes as a COW device, and restores that.
///
/// # Panics
/// Where what is restored is not what was dumped.
pub fn dump(data: &[u8]) -> &'static str {
    let mut input = Input::new(data);
    let form = if input.flag() {
        DumpForm::Json
    } else {
        DumpForm::Text
    };
    let mut image = if input.u8().is_multiple_of(4) {
        input.rest().to_vec()
    } else {
        made_up(&mut input)
    };
    image.truncate(IMAGE_LEN_MAX);
    let Some(dump) = dump_of(&MemDevice::from_bytes(&image), form) else {
        return "no store";
    };
    let restored = MemDevice::new(image.len() as u64);
    let mut source = |visitor: &mut dyn Visitor| read(&dump[..], ReadOptions::default(), visitor);
    let report = restore_device(&restored, &mut source).expect("it is a dump of ours");
    let bytes = restored.to_bytes();
    assert!(metadata(&bytes) == metadata(&image), "not the same");
    if !image[RECORD].starts_with(b"usnap-id") {
        assert!(dump_of(&restored, form) == Some(dump), "not the same dump");
    }
    match report.notes.is_empty() {
        true => "sound",
        false => "with notes",
    }
}
