//! The dm-snapshot persistent exception store format.
#![no_std]
#![forbid(unsafe_code)]
