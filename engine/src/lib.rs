//! A copy-on-write engine over the dm-snapshot on-disk format.
