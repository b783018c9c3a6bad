//! Every state that can be reached, breadth first, each one once.

use std::collections::{HashMap, VecDeque};
use std::hash::{Hash, Hasher};

use crate::disk::{Disk, FOREIGN, JournalFile, NEW_CHUNKS, NO_ENTRY, OLD_CHUNKS};
use crate::live::{Budget, Live};
use crate::opening::{Opening, after_a_kill, first_checkpoint};
use crate::rules::{Rules, Scenario};

/// What a reader may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Expected {
    /// The values that each old chunk may have, a bit each.
    pub(crate) allowed: [u8; OLD_CHUNKS],
    /// Those that were acknowledged.
    pub(crate) acknowledged: [u8; OLD_CHUNKS],
}

/// What there is besides a process.
pub(crate) type World = (Disk, Expected, Budget);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum State {
    Live(Live, World),
    Dead(World),
    Opening(Opening, World),
}

/// A process about to take a step.
#[derive(Clone, Copy)]
pub(crate) struct Step {
    pub(crate) live: Live,
    pub(crate) world: World,
}

/// What may come next.
#[derive(Default)]
pub(crate) struct Successors {
    states: Vec<(Action, State)>,
    violation: Option<&'static str>,
    pub(crate) opens: u64,
}

#[derive(Clone, Copy, Debug)]
struct Action {
    name: &'static str,
    thread: Option<usize>,
}

impl Successors {
    pub(crate) fn live(&mut self, name: &'static str, thread: usize, step: &Step) {
        let thread = Some(thread);
        let state = State::Live(step.live, step.world);
        self.states.push((Action { name, thread }, state));
    }

    pub(crate) fn push(&mut self, name: &'static str, state: State) {
        self.states.push((Action { name, thread: None }, state));
    }

    pub(crate) fn violation(&mut self, what: &'static str) {
        self.violation = Some(what);
    }
}

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Explored {
    pub(crate) states: u64,
    pub(crate) kills: u64,
    pub(crate) opens: u64,
    pub(crate) depth: u32,
    /// What went wrong first, and the steps that lead there.
    pub(crate) violation: Option<String>,
}

type Mark = (u64, u64);

/// States are told apart by 128 bits, mixed in two ways.
fn mark(state: &State) -> Mark {
    let mut mixer = Mixer(0x1234_5678, 0x9abc_def0);
    state.hash(&mut mixer);
    (mixer.finish(), mixer.1)
}

struct Mixer(u64, u64);

impl Hasher for Mixer {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..byte.len()].copy_from_slice(byte);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, byte: u8) {
        self.write_u64(u64::from(byte));
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
        self.1 = (self.1 ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.1 ^= self.1 >> 29;
    }

    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 32
    }
}

/// Explores until nothing new is found, or a violation.
pub(crate) fn explore(scenario: &Scenario, rules: &Rules) -> Explored {
    let mut explored = Explored::default();
    let mut came_by: HashMap<Mark, (Mark, Action)> = HashMap::new();
    let mut waiting = VecDeque::new();
    let start = start(scenario, rules);
    let nothing = Action {
        name: "begins",
        thread: None,
    };
    let root = mark(&start);
    came_by.insert(root, (root, nothing));
    waiting.push_back((start, 0));
    while let Some((state, depth)) = waiting.pop_front() {
        explored.states += 1;
        explored.depth = depth;
        let mut out = Successors::default();
        match state {
            State::Live(live, world) => {
                live.steps(scenario, rules, world, &mut out);
                kill(world, &mut out);
            }
            State::Opening(opening, world) => {
                opening.steps(scenario, rules, world, &mut out);
                kill(world, &mut out);
            }
            State::Dead(world) => after_a_kill(world, scenario, rules, &mut out),
        }
        explored.opens += out.opens;
        let from = mark(&state);
        if let Some(what) = out.violation {
            explored.violation = Some(format!("{what}: {}", story(&came_by, from)));
            return explored;
        }
        for (action, next) in out.states {
            let to = mark(&next);
            if came_by.contains_key(&to) {
                continue;
            }
            came_by.insert(to, (from, action));
            explored.kills += u64::from(matches!(next, State::Dead(_)));
            waiting.push_back((next, depth + 1));
        }
    }
    explored
}

/// What only a process knew is gone. Where nobody will open the store again, nobody will see.
fn kill(world: World, out: &mut Successors) {
    let (disk, mut expected, budget) = world;
    if budget.opens > 0 {
        expected.acknowledged = [0; OLD_CHUNKS];
        out.push("SIGKILL", State::Dead((disk, expected, budget)));
    }
}

fn story(came_by: &HashMap<Mark, (Mark, Action)>, mut at: Mark) -> String {
    let mut steps = Vec::new();
    while let Some((before, action)) = came_by.get(&at) {
        let who = match action.thread {
            Some(n) if n < 8 => format!("writer {n} "),
            Some(_) => "the commit ".to_owned(),
            None => String::new(),
        };
        steps.push(format!("{who}{}", action.name));
        if *before == at {
            break;
        }
        at = *before;
    }
    steps.reverse();
    steps.join(", ")
}

fn start(scenario: &Scenario, rules: &Rules) -> State {
    let mut disk = Disk {
        data: [FOREIGN; NEW_CHUNKS],
        entries: [NO_ENTRY; NEW_CHUNKS],
        session: 1,
        files: [JournalFile::EMPTY; 2],
        modified_by_others: false,
        has_lost: false,
    };
    disk.files[0].name = 1;
    disk.files[0].session = 1;
    first_checkpoint(rules, &mut disk, 0, 1);
    let expected = Expected {
        allowed: [1; OLD_CHUNKS],
        acknowledged: [1; OLD_CHUNKS],
    };
    let budget = Budget {
        failing_writes: scenario.failing_writes,
        commits_without_space: scenario.commits_without_space,
        opens: scenario.opens,
        foreign_writes: scenario.foreign_writes,
        foreign_entries: scenario.foreign_entries,
        lost_chunks: scenario.lost_chunks,
    };
    let live = Live::begin(scenario, &disk, 0, true);
    State::Live(live, (disk, expected, budget))
}
