//! Stores that the kernel made, damaged byte by byte or invalidated by the kernel itself, and then
//! repaired: the kernel activates each, serves what was in it, and fills it up without giving it up.

use std::path::PathBuf;

use anyhow::{Context, Result};
use usnap_test_support::lab::{sha256_of_bytes, text};
use usnap_test_support::pattern::random_file;
use usnap_test_support::{Guest, MIB, Need, Scratch, missing};

use crate::LAB;
use crate::vector::{self, Vector};

/// A store, what becomes of it, and how that is mended.
struct Case {
    name: &'static str,
    vector: &'static str,
    damage: fn(&mut Vec<u8>),
    options: &'static [&'static str],
    /// Which of the kernel's entries are gone.
    lost: &'static [usize],
    /// What the kernel says once all chunks are written or no more fit.
    filled: &'static str,
    /// Whether a chunk more fits.
    has_room: bool,
}

const CASES: [Case; 7] = [
    Case {
        name: "entries",
        vector: "chunk-4k",
        damage: |bytes| {
            // Entry 1 points at area 0; entry 8, behind the terminator, comes alive one day.
            put_entry(bytes, 4096, 1, 1, 1);
            put_entry(bytes, 4096, 8, 1, 3);
        },
        options: &["--drop-damaged"],
        lost: &[1],
        filled: "Overflow",
        has_room: true,
    },
    Case {
        name: "areas",
        vector: "four-areas",
        damage: |bytes| {
            bytes[..4].copy_from_slice(b"oops");
            for n in [0, 33, 65, 98] {
                put_entry(bytes, 512, n, 7, u64::MAX);
            }
        },
        options: &["--drop-damaged", "--chunk-size", "512"],
        lost: &[0, 33, 65, 98],
        filled: "Overflow",
        has_room: true,
    },
    Case {
        name: "torn",
        vector: "chunk-16k",
        damage: |bytes| {
            put_entry(
                bytes,
                16384,
                3,
                0x1234_5678_9abc_def0,
                0xfedc_ba98_7654_3210,
            )
        },
        options: &[],
        lost: &[],
        filled: "Overflow",
        has_room: true,
    },
    Case {
        name: "missing",
        vector: "full-area",
        damage: |bytes| bytes.truncate(34 * 512 + 100),
        options: &[],
        lost: &[],
        filled: "Overflow",
        has_room: false,
    },
    Case {
        name: "invalid",
        vector: "invalid",
        damage: |_| {},
        options: &["--revalidate"],
        lost: &[],
        filled: "Overflow",
        has_room: false,
    },
    Case {
        name: "poisoned",
        vector: "poisoned",
        damage: |_| {},
        options: &["--revalidate"],
        lost: &[],
        filled: "Overflow",
        has_room: true,
    },
    Case {
        name: "wiped",
        vector: "cut-origin",
        damage: |bytes| bytes[..16].fill(0),
        options: &["--chunk-size", "4K"],
        lost: &[],
        filled: "40/53 16",
        has_room: true,
    },
];

fn put_entry(bytes: &mut [u8], chunk_len: usize, n: usize, old_chunk: u64, new_chunk: u64) {
    let entries = chunk_len / 16;
    let at = (1 + n / entries * (entries + 1)) * chunk_len + n % entries * 16;
    bytes[at..at + 8].copy_from_slice(&old_chunk.to_le_bytes());
    bytes[at + 8..at + 16].copy_from_slice(&new_chunk.to_le_bytes());
}

/// What the snapshot holds, without the entries that are lost.
fn content(vector: &Vector, lost: &[usize]) -> Result<Vec<u8>> {
    let chunk_len = usize::try_from(vector.chunk_size_sectors)? * 512;
    let mut content = vector.origin.clone();
    let kept = vector.exceptions.iter().enumerate();
    for (_, (old_chunk, new_chunk)) in kept.filter(|(n, _)| !lost.contains(n)) {
        let (to, from) = (usize::try_from(*old_chunk)?, usize::try_from(*new_chunk)?);
        let (to, from) = (to * chunk_len, from * chunk_len);
        let len = chunk_len.min(content.len() - to);
        content[to..to + len].copy_from_slice(&vector.store[from..from + len]);
    }
    Ok(content)
}

/// The repaired store and its origin as files.
fn repaired(scratch: &Scratch, case: &Case) -> Result<(PathBuf, PathBuf, Vector)> {
    let vector = vector::read(case.vector);
    let (origin, cow) = (
        scratch.join(&format!("{}.img", case.name)),
        scratch.join(&format!("{}.cow", case.name)),
    );
    std::fs::write(&origin, &vector.origin)?;
    let mut bytes = vector.store.clone();
    (case.damage)(&mut bytes);
    std::fs::write(&cow, bytes)?;
    let repair = LAB.usnap(&["repair"]).args(case.options).arg(&cow);
    repair.ok().with_context(|| case.name)?;
    LAB.check_is_clean(&cow)?;
    Ok((origin, cow, vector))
}

#[test]
fn the_kernel_activates_and_fills_what_was_repaired() -> Result<()> {
    if missing(&[Need::GuestKernel])? {
        return Ok(());
    }
    let scratch = LAB.scratch("repaired")?;
    let more = scratch.join("more");
    random_file(&more, MIB, 4)?;
    let mut guest = Guest::new().variable("MORE", text(&more)?);
    let mut list = Vec::new();
    let mut stores = Vec::new();
    for (index, case) in CASES.iter().enumerate() {
        let (origin, cow, vector) = repaired(&scratch, case)?;
        let (origin_name, cow_name) = (format!("ORIGIN{index}"), format!("COW{index}"));
        guest = guest.disk(&origin_name, &origin).disk(&cow_name, &cow);
        let chunk_sectors = vector.chunk_size_sectors;
        list.push(format!(
            "{}:{origin_name}:{cow_name}:{chunk_sectors}",
            case.name
        ));
        stores.push((case, LAB.status_line(&cow)?, cow, vector));
    }
    let guest = guest.variable("STORES", &list.join(" "));
    let said = guest.run(&scratch, include_str!("repaired.sh"))?;
    assert_eq!(said.value("done")?, "yes", "{}", said.text());

    for (case, status_line, cow, vector) in &stores {
        let name = case.name;
        let wanted = sha256_of_bytes(&content(vector, case.lost)?)?;
        for mode in ["P", "PO"] {
            let digest = format!("{name}.{mode}.sha256");
            assert_eq!(said.value(&digest)?, wanted, "{digest}");
            let status = format!("{name}.{mode}.status");
            assert_eq!(said.value(&status)?, status_line, "{status}");
        }
        let filled = said.value(&format!("{name}.filled.status"))?;
        assert_eq!(filled, case.filled, "{name}, once the kernel had filled it");
        LAB.check_is_clean(cow)?;
        let grew = LAB.status_line(cow)? != *status_line;
        assert_eq!(grew, case.has_room, "{name}: {status_line}");
    }
    Ok(())
}
