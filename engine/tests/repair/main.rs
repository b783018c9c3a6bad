//! Repair: stores that a real kernel made (format-spec/vectors) are damaged byte by byte. What would
//! be done is shown and changes nothing; what is done mends that and leaves every other chunk's
//! content; a power cut in the middle, wherever it comes, leaves something to repair to the same.
// Tells clippy that the helpers here are tests too.
#![cfg(test)]

mod bench;
mod cuts;
mod header;
mod kinds;
mod random;
mod refused;

#[path = "../support/plain_loader.rs"]
mod plain_loader;
#[path = "../support/random.rs"]
mod random_numbers;
#[path = "../support/stores.rs"]
mod stores;
#[expect(dead_code, reason = "not everything that a vector says matters here")]
#[path = "../../../format-spec/tests/support/vector.rs"]
mod vector;
