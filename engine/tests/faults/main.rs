//! Failing devices.
//! - `nth`: in a seeded history of two hundred operations each call to the device fails once, in each
//!   way: the error goes to the one request that met it, the store latches exactly where it must,
//!   and nothing that was promised is lost, also if the power goes in the end;
//! - `nested`: the same with requests that begin while others wait for the device;
//! - `space`: a filesystem that runs full, and gets space again.
//!
//! `USNAP_FAULT_SEED` chooses the history.
// Tells clippy that the helpers here are tests too.
#![cfg(test)]

mod nested;
mod nth;
mod run;
mod space;

#[path = "../support/case.rs"]
mod case;
#[path = "../support/operation.rs"]
mod operation;
#[path = "../support/plain_loader.rs"]
mod plain_loader;
#[path = "../support/random.rs"]
mod random;
#[path = "../support/recorder.rs"]
mod recorder;
#[path = "../support/stores.rs"]
mod stores;
#[path = "../support/values.rs"]
mod values;
#[path = "../support/workers.rs"]
mod workers;
