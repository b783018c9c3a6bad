//! The load generator of `usnap bench`: the same workload over NBD servers, over the engine without
//! the wire, and over files.
//!
//! - `workload.rs` names the workloads; `plan.rs` is one sample of one, `source.rs` draws its requests.
//! - `order.rs`, `pattern.rs` and `tracker.rs` say which block comes next, what is written to it, and
//!   what is known of it.
//! - `target.rs` is what was named, opened; `wire.rs` loads a connection, `device.rs` a device of
//!   ours; `cow.rs` asks what a COW behind it did.
//! - `rounds.rs` runs everything in turn; `report.rs` is the result, `table.rs` and `picture.rs` show
//!   it.

mod connect;
mod cow;
mod device;
mod histogram;
mod machine;
mod order;
mod pattern;
pub(crate) mod picture;
mod plan;
pub(crate) mod report;
pub(crate) mod rounds;
mod source;
pub(crate) mod table;
pub(crate) mod target;
mod tracker;
mod wire;
pub(crate) mod workload;
