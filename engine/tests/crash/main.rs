//! Power cuts. Histories of everything a client may do are played over a device that logs its
//! writes (`usnap_engine::sim`, which states the fault model), and every image that a cut may leave
//! is judged:
//! - read by an independent loader, each sector is one of its values since the last flush, what was
//!   flushed is there, and no chunk is anybody else's;
//! - we open it and read the same, and leave no junk behind the terminator;
//! - we write on, and a kernel (a plain model of one) writes on, for more than an area's worth; no
//!   stale entry comes alive; and the power is cut a second time while either of them does.
//!
//! `exhaustive` plays all short histories and looks at all images; `sampled` plays long ones by
//! chance; `canaries` break one rule each, and must be caught by the same judge.
//!
//! `USNAP_CRASH_IMAGES` says how many images `sampled` judges (100,000), `USNAP_CRASH_SEED` with which
//! history it begins.
// Tells clippy that the helpers here are tests too.
#![cfg(test)]

mod alphabet;
mod canaries;
mod exhaustive;
mod judge;
mod player;
mod sampled;
mod stream;

#[path = "../support/case.rs"]
mod case;
#[path = "../support/operation.rs"]
mod operation;
#[path = "../support/plain_kernel.rs"]
mod plain_kernel;
#[path = "../support/plain_loader.rs"]
mod plain_loader;
#[path = "../support/random.rs"]
mod random;
#[path = "../support/stores.rs"]
mod stores;
#[path = "../support/values.rs"]
mod values;
#[path = "../support/workers.rs"]
mod workers;
