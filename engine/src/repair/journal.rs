//! A journal that a killed server left, in a plan: it comes first, since it is about the store as it
//! is.

use super::{Plan, Step, StepKind};
use crate::device::BlockDevice;
use crate::num::SECTOR_LEN;
use crate::snapshot::{JournalMode, WaitingJournal};

const HINT: &str = "--journal=discard repairs without them; keep a copy of the COW file";

/// The sector that names the session; zeros where it can't be read, which others will say.
pub(super) fn first_sector(device: &dyn BlockDevice) -> [u8; SECTOR_LEN] {
    let mut sector = [0; SECTOR_LEN];
    if device.read_at(&mut sector, 0).is_err() {
        sector.fill(0);
    }
    sector
}

/// Puts what becomes of the journal before everything else, or in its way.
pub(super) fn add_to(plan: &mut Plan, waiting: &WaitingJournal, mode: JournalMode) {
    // The end of its session is part of that.
    let shown = plan.steps.len();
    plan.steps
        .retain(|step| step.kind != StepKind::ForgetSession);
    plan.step_count -= (shown - plan.steps.len()) as u64;
    let clears_junk = plan
        .steps
        .iter()
        .all(|step| step.kind == StepKind::ClearJunk);
    let is_sound = clears_junk && plan.refusals.is_empty();
    let pending = match waiting.missing.len() {
        1 => "1 exception that is".to_owned(),
        n => format!("{n} exceptions that are"),
    };
    let has = format!("a server was killed, and its journal has {pending} not committed");
    if mode == JournalMode::Discard {
        let message = format!("{has}: discard it; what it has is lost");
        return add_first(plan, StepKind::DiscardJournal, waiting, message);
    }
    if let Some(why) = &waiting.hopeless {
        return plan.refuse(format!("{has}; it is not to be replayed: {why}"), HINT);
    }
    if !waiting.doubts.is_empty() && mode != JournalMode::Replay {
        let doubts = waiting.doubts.join("; ");
        let hint = "if nothing else wrote to the COW device, --journal=replay adds them; \
                    --journal=discard repairs without them";
        return plan.refuse(format!("{has}; {doubts}"), hint);
    }
    if !is_sound {
        let why = "it cannot be replayed to a store with this damage";
        return plan.refuse(format!("{has}; {why}"), HINT);
    }
    let message = format!("{has}: commit them, and remove it");
    add_first(plan, StepKind::ReplayJournal, waiting, message);
}

fn add_first(plan: &mut Plan, kind: StepKind, waiting: &WaitingJournal, message: String) {
    let step = Step {
        kind,
        area: None,
        chunk: None,
        index: None,
        exception: None,
        from: format!("{} exceptions not committed", waiting.missing.len()),
        to: match kind {
            StepKind::ReplayJournal => "committed".to_owned(),
            _ => "lost".to_owned(),
        },
        message,
    };
    plan.steps.insert(0, step);
    plan.step_count += 1;
}
