//! A label: what a person calls a store.

use core::fmt;

use crate::FormatError;

/// Bytes that a label may have.
pub const LABEL_LEN: usize = 64;

/// A label of at most [`LABEL_LEN`] bytes of UTF-8, without control characters. Empty: none.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Label {
    /// UTF-8 without control characters, then zeros.
    bytes: [u8; LABEL_LEN],
}

impl Label {
    /// No label.
    pub const EMPTY: Self = Self {
        bytes: [0; LABEL_LEN],
    };

    /// The label `text`.
    ///
    /// # Errors
    /// [`FormatError::LabelTooLong`], [`FormatError::LabelControlCharacter`].
    pub fn new(text: &str) -> Result<Self, FormatError> {
        let mut bytes = [0; LABEL_LEN];
        let field = bytes
            .get_mut(..text.len())
            .ok_or(FormatError::LabelTooLong {
                len: text.len() as u64,
            })?;
        // A label is printed on terminals; and a NUL could not be told from the padding.
        if let Some(found) = text.chars().find(|character| character.is_control()) {
            return Err(FormatError::LabelControlCharacter { found });
        }
        field.copy_from_slice(text.as_bytes());
        Ok(Self { bytes })
    }

    /// Reads a label padded with zeros.
    pub(crate) fn decode(bytes: &[u8; LABEL_LEN]) -> Result<Self, FormatError> {
        let text = core::str::from_utf8(bytes).map_err(|_| FormatError::LabelNotUtf8)?;
        Self::new(text.trim_end_matches('\0'))
    }

    /// The label padded with zeros.
    pub(crate) const fn encode(self) -> [u8; LABEL_LEN] {
        self.bytes
    }

    /// The label's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Never anything but UTF-8, by construction.
        core::str::from_utf8(&self.bytes)
            .unwrap_or_default()
            .trim_end_matches('\0')
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.as_str().is_empty()
    }
}

impl Default for Label {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl fmt::Debug for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
