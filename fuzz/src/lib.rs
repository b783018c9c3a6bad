//! The bodies of the fuzz targets: plain functions over bytes, which panic where a property does
//! not hold. The wrappers in `fuzz_targets/` drive them without end; `tests/replay.rs` runs them
//! over a small corpus and a seeded generator, as ordinary tests.
//!
//! Each body says what it reached, so that a test can see that its inputs go everywhere.

mod canary;
mod diff_stream;
mod dump;
mod handshake;
#[path = "../../engine/tests/support/history/mod.rs"]
mod history;
mod input;
mod journal_open;
mod restore;
mod snapshot_ops;
mod store_export;
mod store_open;
mod store_repair;
mod transmission;

pub use canary::canary;
pub use diff_stream::diff_stream;
pub use dump::dump;
pub use handshake::nbd_handshake;
pub use journal_open::journal_open;
pub use restore::restore;
pub use snapshot_ops::snapshot_ops;
pub use store_export::store_export;
pub use store_open::store_open;
pub use store_repair::store_repair;
pub use transmission::nbd_transmission;
