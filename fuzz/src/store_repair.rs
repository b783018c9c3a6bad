//! Repairing any bytes: what is mended is clean and keeps its data, what is refused is unchanged.

use usnap_engine::check::{Finding, FindingKind, check_device};
use usnap_engine::device::MemDevice;
use usnap_engine::repair::{Plan, RepairOptions};
use usnap_format::ChunkSize;

use crate::history::plain_loader::load;
use crate::input::Input;
use crate::store_open::{IMAGE_LEN_MAX, made_up};

fn options(input: &mut Input<'_>) -> RepairOptions {
    let bits = input.u8();
    let told = (bits & 4 != 0).then(|| 1 << (input.u8() % 8));
    RepairOptions {
        revalidate: bits & 1 != 0,
        drop_damaged: bits & 2 != 0,
        chunk_size: told.and_then(|sectors| ChunkSize::from_sectors(sectors).ok()),
        is_fixed_size: bits & 8 != 0,
        ..RepairOptions::default()
    }
}

/// Repairs the bytes as a COW device.
///
/// # Panics
/// Where a plan changes anything, damage is planned away without a step, what is mended is not
/// clean or lost data, or what is refused is changed.
pub fn store_repair(data: &[u8]) -> &'static str {
    let mut input = Input::new(data);
    let options = options(&mut input);
    let mut image = if input.u8().is_multiple_of(4) {
        input.bytes(2);
        input.rest().to_vec()
    } else {
        input.bytes(2);
        made_up(&mut input)
    };
    image.truncate(IMAGE_LEN_MAX);
    let device = MemDevice::from_bytes(&image);
    let checked = check_device(&device);
    let plan = match Plan::make(&device, &options) {
        Ok(plan) => plan,
        Err(error) => {
            assert!(error.to_string().starts_with("cannot "), "{error:?}");
            return "no store";
        }
    };
    assert!(device.to_bytes() == image, "planned, and changed");
    if plan.is_empty() {
        assert!(checked.is_ok_and(|report| report.is_clean()), "no plan");
        return "sound";
    }
    if let Err(error) = plan.carry_out(&device) {
        assert!(!plan.refusals.is_empty(), "{error:?}");
        assert!(device.to_bytes() == image, "refused, and changed");
        return "refused";
    }
    let report = check_device(&device).expect("it was just mended");
    let in_doubt = |finding: &Finding| finding.kind == FindingKind::HeaderDamaged;
    if report.findings.iter().any(in_doubt) {
        // An empty store whose header, as it turns out now, lies over one of smaller chunks.
        assert!(report.exceptions > 0 && report.finding_count == 1);
    } else {
        assert!(report.is_clean(), "{:?}", report.findings);
        let again = Plan::make(&device, &RepairOptions::default()).expect("it is clean");
        assert!(again.is_empty(), "{:?}", again.steps);
    }
    let after = device.to_bytes();
    let store = load(&after).expect("it is clean");
    let stride = store.chunk_len / 16 + 1;
    for (chunk, bytes) in image.chunks_exact(store.chunk_len).enumerate() {
        let same = &after[chunk * store.chunk_len..][..store.chunk_len] == bytes;
        assert!(same || chunk == 0 || chunk % stride == 1, "chunk {chunk}");
    }
    "mended"
}
