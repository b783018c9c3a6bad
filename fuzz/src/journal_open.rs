//! A killed server's journal that something happened to. Whatever it was, an open brings no bytes
//! alive that were not written to that chunk, loses nothing that was committed, and a refused open
//! changes nothing.

use std::sync::Arc;

use usnap_engine::device::{BlockDevice, MemDevice};
use usnap_engine::{ErrorKind, HeapMemory, JournalMemory, JournalMode, Snapshot, SnapshotOptions};

use crate::history::plain_loader::{compose, load};
use crate::input::Input;

const CHUNK_LEN: usize = 512;
const CHUNKS: usize = 48;
const COW_CHUNKS: usize = 90;
/// Words of a journal before its slots, words of a slot, slots of a segment.
const SLOTS_AT: usize = 40;
const SLOT_WORDS: usize = 3;
const SLOTS: usize = 12;
const WORDS: usize = SLOTS_AT + 2 * SLOTS * SLOT_WORDS;

/// A chunk that was written for the `version`th time; version 0 is the origin's.
fn chunk(number: usize, version: u8) -> Vec<u8> {
    let mut bytes = vec![version; CHUNK_LEN];
    bytes[0] = u8::try_from(number).expect("few chunks");
    bytes
}

fn words_of(memory: &dyn JournalMemory) -> Vec<u64> {
    (0..memory.len_words()).map(|n| memory.load(n)).collect()
}

struct Killed {
    origin: Arc<MemDevice>,
    cow: Vec<u8>,
    /// The journal as it was after each step.
    journals: Vec<Vec<u64>>,
    versions: [u8; CHUNKS],
}

/// Serves a store for some steps.
fn serve(input: &mut Input<'_>) -> Killed {
    let origin: Vec<u8> = (0..CHUNKS).flat_map(|n| chunk(n, 0)).collect();
    let mut image = vec![0; COW_CHUNKS * CHUNK_LEN];
    image[..8].copy_from_slice(b"SnAp\x01\0\0\0");
    image[8] = 1;
    image[12] = 1;
    let origin = Arc::new(MemDevice::from_bytes(&origin));
    let cow = Arc::new(MemDevice::from_bytes(&image));
    let memory = Arc::new(HeapMemory::zeros(WORDS));
    let options = SnapshotOptions::default();
    let snapshot = Snapshot::on_devices_with_journal(
        origin.clone(),
        cow.clone(),
        &options,
        memory.clone() as Arc<dyn JournalMemory>,
    )
    .expect("a new store");
    let mut versions = [0; CHUNKS];
    let mut journals = vec![memory.words()];
    for _ in 0..input.u8() % 40 {
        match input.u8() {
            0..32 => snapshot.flush().expect("memory"),
            first => {
                let first = usize::from(first) % CHUNKS;
                let count = 1 + usize::from(input.u8() % 4);
                let range = first..CHUNKS.min(first + count);
                let mut data = Vec::new();
                for n in range {
                    versions[n] += 1;
                    data.extend(chunk(n, versions[n]));
                }
                let offset = (first * CHUNK_LEN) as u64;
                snapshot.write_at(&data, offset).expect("there is room");
            }
        }
        journals.push(memory.words());
    }
    Killed {
        origin,
        cow: cow.to_bytes(),
        journals,
        versions,
    }
}

/// Something happens to the journal; whether anything did.
fn spoil(input: &mut Input<'_>, killed: &Killed) -> (Vec<u64>, bool) {
    let now = killed.journals.last().cloned().unwrap_or_default();
    let mut words = now.clone();
    for _ in 0..input.u8() % 6 {
        let at = usize::from(input.u8()) % WORDS;
        match input.u8() % 5 {
            // A part of it is as it was before: what a lost page looks like.
            0 => {
                let then = usize::from(input.u8()) % killed.journals.len();
                let end = WORDS.min(at + usize::from(input.u8()));
                words[at..end].copy_from_slice(&killed.journals[then][at..end]);
            }
            1 => words[at] = input.u64(),
            2 => words[at] ^= 1 << (input.u8() % 64),
            3 => {
                let slot = |n: u8| SLOTS_AT + usize::from(n) % (2 * SLOTS) * SLOT_WORDS;
                let (one, other) = (slot(input.u8()), slot(input.u8()));
                for n in 0..SLOT_WORDS {
                    words.swap(one + n, other + n);
                }
            }
            _ => words[at] = 0,
        }
    }
    let is_spoilt = words != now;
    (words, is_spoilt)
}

fn read_all(snapshot: &Snapshot) -> Vec<u8> {
    let mut content = vec![0; CHUNKS * CHUNK_LEN];
    snapshot.read_at(&mut content, 0).expect("memory");
    content
}

/// Serves, kills, spoils and opens.
///
/// # Panics
/// Where foreign bytes come alive, something committed is lost, a journal as it was left does not
/// bring everything back, or a refused open changed something.
pub fn journal_open(data: &[u8]) -> &'static str {
    let mut input = Input::new(data);
    let killed = serve(&mut input);
    let mode = match input.u8() % 4 {
        0 => JournalMode::Replay,
        1 => JournalMode::Discard,
        _ => JournalMode::Auto,
    };
    let (words, is_spoilt) = spoil(&mut input, &killed);
    let memory = Arc::new(HeapMemory::from_words(words.iter().copied()));
    let cow = Arc::new(MemDevice::from_bytes(&killed.cow));
    let options = SnapshotOptions {
        journal: mode,
        ..SnapshotOptions::default()
    };
    let opened = Snapshot::on_devices_with_journal(
        killed.origin.clone(),
        cow.clone(),
        &options,
        memory.clone() as Arc<dyn JournalMemory>,
    );
    let snapshot = match opened {
        Ok(snapshot) => snapshot,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::JournalInDoubt, "{error:?}");
            assert!(is_spoilt && mode != JournalMode::Discard, "{error:?}");
            assert!(cow.to_bytes() == killed.cow, "refused, and changed");
            assert!(words_of(&*memory) == words, "refused, and changed");
            return "refused";
        }
    };
    let content = read_all(&snapshot);
    let committed = load(&killed.cow).expect("it was ours").exceptions;
    let mut is_whole = true;
    for (n, bytes) in content.chunks(CHUNK_LEN).enumerate() {
        let newest = bytes == chunk(n, killed.versions[n]);
        // A chunk is mapped, and then it is as new as can be; or it is the origin's.
        assert!(newest || bytes == chunk(n, 0), "chunk {n}: foreign bytes");
        let is_committed = committed.iter().any(|(old, _)| *old == n as u64);
        assert!(
            newest || !is_committed,
            "chunk {n} was committed, and is lost"
        );
        is_whole &= newest;
    }
    let must_be_whole = !is_spoilt && mode != JournalMode::Discard;
    assert!(is_whole || !must_be_whole, "acknowledged, and lost");

    // What is there stays, whoever looks, and there is room to write on.
    snapshot
        .write_at(&chunk(0, 255), 0)
        .expect("there is room for every chunk");
    snapshot.flush().expect("memory");
    let mut wanted = content;
    wanted[..CHUNK_LEN].copy_from_slice(&chunk(0, 255));
    assert!(read_all(&snapshot) == wanted, "changed by writing on");
    drop(snapshot);
    let origin: Vec<u8> = (0..CHUNKS).flat_map(|n| chunk(n, 0)).collect();
    assert!(
        compose(&origin, &cow.to_bytes()).is_ok_and(|found| found == wanted),
        "an independent reader sees something else"
    );
    match (is_whole, is_spoilt) {
        (true, false) => "replayed",
        (true, true) => "replayed all the same",
        (false, _) => "opened without all of it",
    }
}
