//! What the rounds say together.
//!
//! A ratio is taken within each round, where two servers were measured soon after each other, so that
//! what else the machine does falls on both; then the median of the rounds' ratios is told. Nothing is
//! left out: the extremes are told too.

use crate::address::Transport;
use crate::contender::Contender;
use crate::sample::{Figure, Sample};

/// The middle of some figures, and how far they lie apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    /// How many there are.
    pub(crate) rounds: usize,
    /// The smallest.
    pub(crate) least: f64,
    /// A quarter is smaller.
    pub(crate) lower: f64,
    /// Half are smaller.
    pub(crate) median: f64,
    /// A quarter is larger.
    pub(crate) upper: f64,
    /// The largest.
    pub(crate) most: f64,
}

/// One job over one server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cell<'a> {
    pub(crate) job: &'a str,
    pub(crate) server: Contender,
}

/// The samples of one transport.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Samples<'a> {
    all: &'a [Sample],
    transport: Transport,
}

impl Spread {
    /// The spread of `figures`; `None` of none.
    pub(crate) fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = figures.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        Some(Self {
            rounds: sorted.len(),
            least: *sorted.first()?,
            lower: quantile(&sorted, 1),
            median: quantile(&sorted, 2),
            upper: quantile(&sorted, 3),
            most: *sorted.last()?,
        })
    }
}

/// The value that `quarters` quarters of the sorted figures keep below, interpolated between the two
/// next to it.
fn quantile(sorted: &[f64], quarters: usize) -> f64 {
    let last = sorted.len() - 1;
    let (at, between) = (last * quarters / 4, last * quarters % 4);
    let share = [0.0, 0.25, 0.5, 0.75][between];
    let above = sorted[(at + 1).min(last)];
    sorted[at] + (above - sorted[at]) * share
}

impl<'a> Samples<'a> {
    /// Those of `all` that `transport` carried.
    pub(crate) fn new(all: &'a [Sample], transport: Transport) -> Self {
        Self { all, transport }
    }

    /// What carried them.
    pub(crate) fn transport(self) -> Transport {
        self.transport
    }

    /// A figure of one job over one server.
    pub(crate) fn spread(self, cell: Cell<'_>, figure: Figure) -> Option<Spread> {
        Spread::of(
            self.figures(cell, figure)
                .into_iter()
                .map(|(_, value)| value),
        )
    }

    /// The ratios of one cell's figure to another's, of the rounds that have both.
    pub(crate) fn ratio(self, one: Cell<'_>, other: Cell<'_>, figure: Figure) -> Option<Spread> {
        let others = self.figures(other, figure);
        let ratios = self
            .figures(one, figure)
            .into_iter()
            .filter_map(|(round, value)| {
                let (_, beside) = others.iter().find(|(its, _)| *its == round)?;
                Some(value / beside)
            });
        Spread::of(ratios)
    }

    fn figures(self, cell: Cell<'_>, figure: Figure) -> Vec<(u32, f64)> {
        let server = cell.server.to_string();
        self.all
            .iter()
            .filter(|one| one.transport == self.transport)
            .filter(|one| one.server == server && one.job == cell.job)
            .filter_map(|one| Some((one.round, one.figure(figure)?)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(server: Contender, round: u32, iops: f64) -> Sample {
        Sample {
            transport: Transport::Unix,
            server: server.to_string(),
            job: "j".to_owned(),
            round,
            requests: 1,
            iops,
            mb_per_second: 0.0,
            cpu_us: 0.0,
            p99_us: 0.0,
            slowest_to_mean: 1.0,
            flushes: None,
        }
    }

    #[test]
    fn quartiles_lie_between_the_figures() {
        assert_eq!(Spread::of([]), None);
        let spread = Spread::of([9.0, 1.0, 2.0, 4.0]).unwrap();
        let Spread {
            rounds,
            least,
            lower,
            median,
            upper,
            most,
        } = spread;
        assert_eq!((rounds, least, most), (4, 1.0, 9.0));
        assert_eq!((lower, median, upper), (1.75, 3.0, 5.25));
        let one = Spread::of([7.0]).unwrap();
        assert_eq!((one.lower, one.median, one.upper), (7.0, 7.0, 7.0));
        let odd = Spread::of([5.0, 1.0, 3.0, 2.0, 4.0]).unwrap();
        assert_eq!((odd.lower, odd.median, odd.upper), (2.0, 3.0, 4.0));
    }

    #[test]
    fn a_ratio_is_taken_within_rounds_that_have_both() {
        let (ours, peer) = (Contender::UsnapPersistent, Contender::NbdkitFile);
        // The machine slows down between rounds: the ratio of medians would be 10.
        let samples = [
            sample(ours, 0, 200.0),
            sample(peer, 0, 100.0),
            sample(ours, 1, 20.0),
            sample(peer, 1, 10.0),
            sample(ours, 2, 999.0),
        ];
        let samples = Samples::new(&samples, Transport::Unix);
        let cell = |server| Cell { job: "j", server };
        let ratio = samples.ratio(cell(ours), cell(peer), Figure::Rate).unwrap();
        assert_eq!((ratio.rounds, ratio.least, ratio.most), (2, 2.0, 2.0));
        assert_eq!(samples.ratio(cell(ours), cell(peer), Figure::Flushes), None);
        let other = Samples::new(samples.all, Transport::Tcp);
        assert_eq!(other.spread(cell(ours), Figure::Rate), None);
    }
}
