//! A journal that a killed server left, in a plan: it comes first, since it is about the store as it
//! is.

use super::{Plan, Step, StepKind};
use crate::snapshot::{JournalMode, WaitingJournal, count};

const HINT: &str = "--journal=discard repairs without them; keep a copy of the COW file";

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
    if waiting.is_all_committed() {
        let message = "a server was killed; all that it wrote is committed: remove its journal";
        return add_first(plan, StepKind::DiscardJournal, waiting, message.to_owned());
    }
    let pending = count(waiting.pending());
    let has = if waiting.is_absent {
        "a server was killed, and its journal is not to be found".to_owned()
    } else {
        format!("a server was killed, and its journal has {pending} not committed")
    };
    if mode == JournalMode::Discard {
        let message = if waiting.is_absent {
            format!("{has}: go on without it; what it has is lost")
        } else {
            format!("{has}: discard it; what it has is lost")
        };
        return add_first(plan, StepKind::DiscardJournal, waiting, message);
    }
    if let Some(why) = waiting.hopeless.as_ref().filter(|_| waiting.is_absent) {
        let hint = "a COW file is moved together with its journal: put that beside it; \
                    --journal=discard repairs without it";
        return plan.refuse(format!("a server was killed, and {why}"), hint);
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
        from: format!("{} not committed", count(waiting.pending())),
        to: match kind {
            StepKind::ReplayJournal => "committed",
            _ if waiting.is_all_committed() => "removed",
            _ => "lost",
        }
        .to_owned(),
        message,
    };
    plan.steps.insert(0, step);
    plan.step_count += 1;
}
