//! The kinds of findings: their names, which are a contract, what each is, and the way out of it.

use std::fmt;

/// What kind of damage a finding is, or what kind of note.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FindingKind {
    /// The area that takes the next entry has no blocks of its own.
    AreaHole,
    /// The area behind a full one does not lie inside the device.
    AreaMissing,
    /// The device answers a read of the area with an error.
    AreaUnreadable,
    /// An entry has bits set that the kernel uses as a run length.
    EntryHighBits,
    /// An entry points behind the end of the COW device.
    EntryOutOfRange,
    /// An entry points at the header or at an area.
    EntryPointsAtMetadata,
    /// The header is not one, but the areas behind it are.
    HeaderDamaged,
    /// The identity record is damaged.
    Identity,
    /// The store was invalidated (`valid` = 0).
    Invalidated,
    /// A server was killed, and its journal is not to be found.
    JournalAbsent,
    /// A server was killed, and its journal has what is not committed.
    JournalWaiting,
    /// Bytes behind the terminator are not zero: an interrupted commit's, or junk. A kernel may
    /// bring them alive; a writable open here clears them.
    JunkBehindTerminator,
    /// Two entries share a new chunk.
    NewChunkTwice,
    /// Two entries are for one old chunk.
    OldChunkTwice,
    /// Whoever knows of the store writes to its origin too, and did not come to an end.
    OriginChanging,
    /// The origin is not the one that the store was made for.
    OriginDiffers,
    /// An entry is for a chunk that the origin does not have.
    OutsideOrigin,
    /// A kernel that fills a device of this size invalidates the store.
    PoisonedSize,
}

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The store is damaged.
    Damage,
    /// Worth knowing, and no damage.
    Note,
}

impl FindingKind {
    /// All of them, by name.
    pub const ALL: [Self; 18] = [
        Self::AreaHole,
        Self::AreaMissing,
        Self::AreaUnreadable,
        Self::EntryHighBits,
        Self::EntryOutOfRange,
        Self::EntryPointsAtMetadata,
        Self::HeaderDamaged,
        Self::Identity,
        Self::Invalidated,
        Self::JournalAbsent,
        Self::JournalWaiting,
        Self::JunkBehindTerminator,
        Self::NewChunkTwice,
        Self::OldChunkTwice,
        Self::OriginChanging,
        Self::OriginDiffers,
        Self::OutsideOrigin,
        Self::PoisonedSize,
    ];

    /// The name in JSON and in documents.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::AreaHole => "area_hole",
            Self::AreaMissing => "area_missing",
            Self::AreaUnreadable => "area_unreadable",
            Self::EntryHighBits => "entry_high_bits",
            Self::EntryOutOfRange => "entry_out_of_range",
            Self::EntryPointsAtMetadata => "entry_points_at_metadata",
            Self::HeaderDamaged => "header_damaged",
            Self::Identity => "identity",
            Self::Invalidated => "invalidated",
            Self::JournalAbsent => "journal_absent",
            Self::JournalWaiting => "journal_waiting",
            Self::JunkBehindTerminator => "junk_behind_terminator",
            Self::NewChunkTwice => "new_chunk_twice",
            Self::OldChunkTwice => "old_chunk_twice",
            Self::OriginChanging => "origin_changing",
            Self::OriginDiffers => "origin_differs",
            Self::OutsideOrigin => "outside_origin",
            Self::PoisonedSize => "poisoned_size",
        }
    }

    /// Whether it is damage or only a note.
    #[must_use]
    pub fn severity(self) -> Severity {
        match self {
            Self::AreaHole
            | Self::JournalAbsent
            | Self::JournalWaiting
            | Self::OriginChanging
            | Self::PoisonedSize => Severity::Note,
            _ => Severity::Damage,
        }
    }

    /// The way out, in a few words.
    #[must_use]
    pub fn remedy(self) -> &'static str {
        match self {
            Self::AreaHole => "none needed: serving allocates it",
            Self::AreaMissing => {
                "repair makes the file longer by that area; a block device: extend it"
            }
            Self::AreaUnreadable => "copy what can be read (ddrescue) and repair the copy",
            Self::EntryHighBits | Self::EntryPointsAtMetadata => {
                "repair cuts it off in a torn last sector; elsewhere with --drop-damaged"
            }
            Self::EntryOutOfRange => "restore the file's full size; else repair --drop-damaged",
            Self::HeaderDamaged => "repair writes its 16 bytes anew; in doubt with --chunk-size",
            Self::Identity => "repair zeroes it, or writes it anew with --origin",
            Self::Invalidated => "repair --revalidate, knowing what that means",
            Self::JournalAbsent => {
                "put the journal beside the COW file; else --journal=discard, without what was \
                 not flushed"
            }
            Self::JournalWaiting => "serve or repair adds it; in doubt with --journal",
            Self::JunkBehindTerminator => {
                "repair zeroes it, in doubt with --drop-damaged; so does serving"
            }
            Self::NewChunkTwice => {
                "repair cuts the second off in a torn last sector; elsewhere with --drop-damaged"
            }
            Self::OldChunkTwice => {
                "as new_chunk_twice; a second that repeats the first goes unasked"
            }
            Self::OriginChanging => {
                "go on with what was interrupted: merge it to the end, or serve the origin with all \
                 its snapshots"
            }
            Self::OriginDiffers | Self::OutsideOrigin => "find the right origin",
            Self::PoisonedSize => "make it longer by one chunk before a kernel uses it",
        }
    }
}

impl fmt::Display for FindingKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::FindingKind;

    #[test]
    fn names_are_the_variants_in_snake_case_and_in_order() {
        for kind in FindingKind::ALL {
            let mut name = String::new();
            for c in format!("{kind:?}").chars() {
                if c.is_ascii_uppercase() && !name.is_empty() {
                    name.push('_');
                }
                name.push(c.to_ascii_lowercase());
            }
            assert_eq!(kind.to_string(), name);
        }
        let names = FindingKind::ALL.map(FindingKind::name);
        assert!(names.is_sorted(), "{names:?}");
    }

    /// The table in DESIGN.md, "Repair", is this enum.
    #[test]
    fn the_documents_table_is_this_enum() {
        let document = include_str!("../../DESIGN.md");
        let repair = document
            .split("\n## ")
            .find(|section| section.starts_with("Repair\n"));
        let rows = repair.unwrap_or_default().lines().filter_map(|line| {
            let (name, rest) = line.strip_prefix("| `")?.split_once("` | ")?;
            let (_what, remedy) = rest.strip_suffix(" |")?.split_once(" | ")?;
            let is_kind = name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
            is_kind.then_some((name, remedy))
        });
        let table = FindingKind::ALL.map(|kind| (kind.name(), kind.remedy()));
        assert_eq!(rows.collect::<Vec<_>>(), table);
    }
}
