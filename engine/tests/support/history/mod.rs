//! Histories: what a client may do to a snapshot, played against the engine and against plain
//! vectors at once. Shared by the model test and the fuzz target, which differ in who invents the
//! histories.

mod backing;
mod expected;
mod operation;
#[path = "../plain_loader.rs"]
pub(crate) mod plain_loader;
mod play;

pub(crate) use operation::{Align, Operation, Shape, Span};
pub(crate) use play::{Where, play};
