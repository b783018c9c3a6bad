//! The workloads, by name.

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Read,
    Write,
    /// Reads and writes, as many of each as the percentage says.
    Mix,
    Trim,
    Zero,
}

/// Which block comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Any, drawn again each time.
    Random,
    /// Each once, in random order.
    Once,
    /// Ascending, from the beginning again at the end.
    Around,
    /// Ascending, each once.
    Ascending,
    /// Every other one, ascending, each once.
    EveryOther,
}

/// What must have been written before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Before {
    /// Nothing: it takes the range as it is.
    Nothing,
    /// Nothing, in a part of the range that no other sample writes to.
    Untouched,
    /// Every other block, in a part of the range that no other sample writes to.
    Half,
    /// Every block.
    All,
}

/// A workload.
#[derive(Debug)]
pub(crate) struct Workload {
    /// What is typed.
    pub(crate) name: &'static str,
    /// What is shown.
    pub(crate) title: &'static str,
    pub(crate) about: &'static str,
    pub(crate) operation: Operation,
    pub(crate) order: Order,
    pub(crate) before: Before,
    /// Bytes of a request, unless something else is typed.
    pub(crate) block_bytes: u32,
    /// Requests in flight, unless something else is typed.
    pub(crate) depth: u32,
    /// A flush after so many writes, unless something else is typed.
    pub(crate) fsync: Option<u32>,
}

const SMALL: u32 = 4 << 10;
const LARGE: u32 = 256 << 10;

const fn workload(
    name: &'static str,
    title: &'static str,
    about: &'static str,
    what: (Operation, Order, Before),
    (block_bytes, depth): (u32, u32),
    fsync: Option<u32>,
) -> Workload {
    let (operation, order, before) = what;
    Workload {
        name,
        title,
        about,
        operation,
        order,
        before,
        block_bytes,
        depth,
        fsync,
    }
}

/// All of them, in the order in which `all` runs them: what needs an untouched range comes first.
pub(crate) const ALL: [Workload; 11] = [
    workload(
        "read",
        "read",
        "random reads",
        (Operation::Read, Order::Random, Before::Nothing),
        (SMALL, 32),
        None,
    ),
    workload(
        "seq-read",
        "sequential read",
        "reads in ascending order",
        (Operation::Read, Order::Around, Before::Nothing),
        (LARGE, 4),
        None,
    ),
    workload(
        "first-write",
        "first write",
        "writes each block once, in random order",
        (Operation::Write, Order::Once, Before::Untouched),
        (SMALL, 32),
        None,
    ),
    workload(
        "seq-write",
        "sequential first write",
        "writes each block once, in ascending order",
        (Operation::Write, Order::Ascending, Before::Untouched),
        (LARGE, 4),
        None,
    ),
    workload(
        "fsync-1",
        "first write, fsync 1",
        "first-write with a flush after each write",
        (Operation::Write, Order::Once, Before::Untouched),
        (SMALL, 32),
        Some(1),
    ),
    workload(
        "fsync-32",
        "first write, fsync 32",
        "first-write with a flush after every 32 writes",
        (Operation::Write, Order::Once, Before::Untouched),
        (SMALL, 32),
        Some(32),
    ),
    workload(
        "half-read",
        "half-written read",
        "random reads where every other block was written before",
        (Operation::Read, Order::Random, Before::Half),
        (SMALL, 32),
        None,
    ),
    workload(
        "overwrite",
        "overwrite",
        "random writes where everything was written before",
        (Operation::Write, Order::Random, Before::All),
        (SMALL, 32),
        None,
    ),
    workload(
        "mix",
        "mix",
        "random reads (70 %) and writes where everything was written before",
        (Operation::Mix, Order::Random, Before::All),
        (SMALL, 32),
        None,
    ),
    workload(
        "trim",
        "trim",
        "random trims",
        (Operation::Trim, Order::Random, Before::Nothing),
        (SMALL, 32),
        None,
    ),
    workload(
        "zero",
        "write zeroes",
        "random requests to make a block zero",
        (Operation::Zero, Order::Random, Before::Nothing),
        (SMALL, 32),
        None,
    ),
];

impl Workload {
    /// The workload of that name.
    pub(crate) fn find(name: &str) -> Option<&'static Self> {
        ALL.iter().find(|workload| workload.name == name)
    }

    /// Whether it changes what the device holds, in itself or in what must come before.
    pub(crate) fn writes(&self) -> bool {
        self.operation != Operation::Read || self.before == Before::Half
    }
}

/// A workload with all that was typed about it.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) workload: &'static Workload,
    pub(crate) block_bytes: u32,
    pub(crate) depth: u32,
    pub(crate) fsync: Option<u32>,
    pub(crate) read_percent: u32,
}

impl Job {
    /// As people call it: `4K read q32`.
    pub(crate) fn title(&self) -> String {
        let bytes = u64::from(self.block_bytes);
        let block = match bytes {
            bytes if bytes.is_multiple_of(1 << 20) => format!("{}M", bytes >> 20),
            bytes if bytes.is_multiple_of(1 << 10) => format!("{}K", bytes >> 10),
            bytes => format!("{bytes}B"),
        };
        let name = match self.workload.operation {
            Operation::Mix => format!("{}/{} mix", self.read_percent, 100 - self.read_percent),
            _ => self.workload.title.to_owned(),
        };
        let fsync = match self.fsync {
            Some(writes) if self.fsync != self.workload.fsync => format!(", fsync {writes}"),
            _ => String::new(),
        };
        format!("{block} {name}{fsync} q{}", self.depth)
    }

    /// Whether its throughput is told in bytes.
    pub(crate) fn counts_bytes(&self) -> bool {
        self.block_bytes >= 64 << 10
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_only_reads_write_nothing() {
        for workload in &ALL {
            let found = Workload::find(workload.name).map(|found| found.about);
            assert_eq!(found, Some(workload.about));
        }
        let reading: Vec<_> = ALL.iter().filter(|w| !w.writes()).map(|w| w.name).collect();
        assert_eq!(reading, ["read", "seq-read"]);
    }

    #[test]
    fn titles_are_those_that_people_use() {
        let job = |name: &str, block_bytes, fsync| {
            let workload = Workload::find(name).unwrap();
            let job = Job {
                workload,
                block_bytes,
                depth: 32,
                fsync,
                read_percent: 70,
            };
            job.title()
        };
        assert_eq!(job("read", 4096, None), "4K read q32");
        assert_eq!(job("first-write", 16384, None), "16K first write q32");
        assert_eq!(job("mix", 4096, None), "4K 70/30 mix q32");
        assert_eq!(
            job("fsync-32", 512, Some(32)),
            "512B first write, fsync 32 q32"
        );
        assert_eq!(
            job("overwrite", 1 << 20, Some(8)),
            "1M overwrite, fsync 8 q32"
        );
    }
}
