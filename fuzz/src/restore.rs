//! Any text as a dump: refused with the place, or a store that dumps as what it is.

use usnap_engine::device::MemDevice;
use usnap_engine::dump::{DumpForm, ReadOptions, StoreHeader, Visitor, read};
use usnap_engine::restore::restore_device;
use usnap_engine::{Error, Result};
use usnap_format::{AreaIndex, Exception, NewChunk};

use crate::dump::dump_of;
use crate::input::Input;

/// Larger stores are read, and not made.
const SIZE_MAX: u64 = 1 << 22;

/// Notes the size that a dump tells.
#[derive(Default)]
struct Size(u64);

impl Visitor for Size {
    fn header(&mut self, header: &StoreHeader) -> Result<()> {
        self.0 = header.cow_size_bytes;
        Ok(())
    }

    fn area(&mut self, _area: AreaIndex, _location: NewChunk) -> Result<()> {
        Ok(())
    }

    fn exception(&mut self, _area: AreaIndex, _index: u64, exception: Exception) -> Result<()> {
        assert!(exception.new_chunk != NewChunk(0), "that ends an area");
        Ok(())
    }

    fn missing_area(&mut self, _: AreaIndex, _: NewChunk, _: Error) -> Result<()> {
        Ok(())
    }
}

/// Restores what the bytes say behind the first, whose lowest bit asks for areas to be filled anew.
///
/// # Panics
/// Where a dump that is taken does not become a store, or one that does not dump as itself.
pub fn restore(data: &[u8]) -> &'static str {
    let mut input = Input::new(data);
    let repack = input.flag();
    let dump = input.rest();
    let mut size = Size::default();
    if let Err(error) = read(dump, ReadOptions { repack }, &mut size) {
        let said = error.to_string();
        assert!(said.starts_with("cannot read the dump: line "), "{said}");
        return "refused";
    }
    let Size(size_bytes) = size;
    if size_bytes <= SIZE_MAX {
        let device = MemDevice::new(size_bytes);
        let mut source = |visitor: &mut dyn Visitor| read(dump, ReadOptions { repack }, visitor);
        restore_device(&device, &mut source).expect("it was read before");
        let image = device.to_bytes();
        for form in [DumpForm::Text, DumpForm::Json] {
            let dump = dump_of(&device, form).expect("it was just made");
            let mut source =
                |visitor: &mut dyn Visitor| read(&dump[..], ReadOptions::default(), visitor);
            restore_device(&device, &mut source).expect("it is a dump of ours");
            assert!(device.to_bytes() == image, "not the same");
        }
    }
    if repack { "filled anew" } else { "restored" }
}
