//! COW devices made byte by byte, areas, entries and data, as no kernel would leave them.

/// What is to be made.
pub(crate) struct Craft {
    magic: [u8; 4],
    valid: u32,
    version: u32,
    /// In sectors, where things are.
    chunk: u32,
    /// In sectors, what the header says.
    said_chunk: u32,
    entries: Vec<(u64, u64)>,
    placed: Vec<(usize, u64, u64)>,
    data: Vec<(u64, u8)>,
    background: u8,
}

impl Craft {
    /// A store with chunks of so many sectors and no entry.
    pub(crate) fn new(chunk: u32) -> Self {
        Self {
            magic: *b"SnAp",
            valid: 1,
            version: 1,
            chunk,
            said_chunk: chunk,
            entries: Vec::new(),
            placed: Vec::new(),
            data: Vec::new(),
            background: 0,
        }
    }

    pub(crate) fn magic(mut self, magic: [u8; 4]) -> Self {
        self.magic = magic;
        self
    }

    pub(crate) fn valid(mut self, valid: u32) -> Self {
        self.valid = valid;
        self
    }

    pub(crate) fn version(mut self, version: u32) -> Self {
        self.version = version;
        self
    }

    /// The header names this chunk size, in sectors, whatever the layout is.
    pub(crate) fn says_chunk(mut self, sectors: u32) -> Self {
        self.said_chunk = sectors;
        self
    }

    /// These entries, old chunk and new chunk, behind those that are there.
    pub(crate) fn entries(mut self, entries: &[(u64, u64)]) -> Self {
        self.entries.extend(entries);
        self
    }

    /// Entries as `count` writes to the chunks from `first` on make them.
    pub(crate) fn in_order(mut self, first: u64, count: u64) -> Self {
        let per_area = u64::from(self.chunk) * 32;
        let placed = (0..count).map(|n| (first + n, 2 + n + n / per_area));
        self.entries.extend(placed);
        self
    }

    /// An entry in place `index` of area 0, wherever the terminator is.
    pub(crate) fn placed(mut self, index: usize, old: u64, new: u64) -> Self {
        self.placed.push((index, old, new));
        self
    }

    /// The chunk `number` of the device is full of `letter`.
    pub(crate) fn data(mut self, number: u64, letter: u8) -> Self {
        self.data.push((number, letter));
        self
    }

    /// All that is not said is this letter: data chunks, padding of the header.
    pub(crate) fn background(mut self, letter: u8) -> Self {
        self.background = letter;
        self
    }

    /// The device's first `chunks` chunks.
    pub(crate) fn bytes(&self, chunks: u64) -> Vec<u8> {
        let len = self.chunk as usize * 512;
        let per_area = len / 16;
        let mut bytes = vec![self.background; usize::try_from(chunks).unwrap_or_default() * len];
        for (at, field) in [(4, self.valid), (8, self.version), (12, self.said_chunk)] {
            bytes[at..at + 4].copy_from_slice(&field.to_le_bytes());
        }
        bytes[..4].copy_from_slice(&self.magic);
        for (number, letter) in &self.data {
            let at = usize::try_from(*number).unwrap_or_default() * len;
            bytes[at..at + len].fill(*letter);
        }
        for area in 0..=self.entries.len() / per_area {
            let at = (1 + area * (per_area + 1)) * len;
            if let Some(place) = bytes.get_mut(at..at + len) {
                place.fill(0);
            }
        }
        let ordered = self.entries.iter().enumerate();
        let ordered = ordered.map(|(index, (old, new))| (index, *old, *new));
        for (index, old, new) in ordered.chain(self.placed.iter().copied()) {
            let area = index / per_area;
            let at = (1 + area * (per_area + 1)) * len + index % per_area * 16;
            bytes[at..at + 8].copy_from_slice(&old.to_le_bytes());
            bytes[at + 8..at + 16].copy_from_slice(&new.to_le_bytes());
        }
        bytes
    }
}
