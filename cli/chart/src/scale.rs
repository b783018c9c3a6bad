//! How values become lengths, and where the lines with numbers stand.

/// How values become lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// In proportion, from 0 on.
    Linear,
    /// By their logarithm: for values that differ by orders of magnitude.
    Logarithmic,
}

/// A scale with its ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Axis {
    scale: Scale,
    low: f64,
    high: f64,
}

impl Axis {
    /// The axis that has room for `values`.
    pub(crate) fn over(scale: Scale, values: impl Iterator<Item = f64>) -> Self {
        let usable = values.filter(|value| value.is_finite() && *value > 0.0);
        let (low, high) = usable.fold((f64::MAX, 0.0_f64), |(low, high), value| {
            (low.min(value), high.max(value))
        });
        match scale {
            _ if high == 0.0 => Self {
                scale: Scale::Linear,
                low: 0.0,
                high: 1.0,
            },
            Scale::Linear => Self {
                scale,
                low: 0.0,
                high,
            },
            Scale::Logarithmic => {
                let decade = |exponent: f64| 10_f64.powf(exponent);
                let first = low.log10().floor();
                Self {
                    scale,
                    low: decade(first),
                    high: decade(high.log10().ceil().max(first + 1.0)),
                }
            }
        }
    }

    /// Where a value lies, 0 at the low end and 1 at the high one; `None` where it can't be shown.
    pub(crate) fn place(self, value: f64) -> Option<f64> {
        let place = match self.scale {
            Scale::Linear => value / self.high,
            Scale::Logarithmic => (value / self.low).log10() / (self.high / self.low).log10(),
        };
        place.is_finite().then(|| place.clamp(0.0, 1.0))
    }

    /// The values that get a line and a number.
    pub(crate) fn ticks(self) -> Vec<f64> {
        match self.scale {
            Scale::Linear => {
                let step = step(self.high / 4.0);
                let count =
                    (0..).take_while(|index| f64::from(*index) * step <= self.high * 1.0001);
                count.map(|index| f64::from(index) * step).collect()
            }
            Scale::Logarithmic => {
                let decades = (self.high / self.low).log10().round();
                // Far-apart values would give more numbers than there is room for.
                let every = (decades / 6.0).ceil().max(1.0);
                let at = |index: i32| self.low * 10_f64.powf(f64::from(index) * every);
                (0..)
                    .map(at)
                    .take_while(|tick| *tick <= self.high * 1.0001)
                    .collect()
            }
        }
    }
}

/// 1, 2 or 5 times a power of ten, at least `least`.
fn step(least: f64) -> f64 {
    let power = 10_f64.powf(least.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power);
    let fits = |step: &f64| *step >= least * 0.9999;
    steps.into_iter().find(fits).unwrap_or(power * 10.0)
}

#[cfg(test)]
mod tests {
    use super::{Axis, Scale};

    #[test]
    fn a_linear_axis_begins_at_zero_and_its_ticks_are_round() {
        let axis = Axis::over(Scale::Linear, [3.0, 170.0].into_iter());
        assert_eq!(axis.ticks(), [0.0, 50.0, 100.0, 150.0]);
        assert_eq!(axis.place(85.0), Some(0.5));
        assert_eq!(axis.place(0.0), Some(0.0));
        assert_eq!(axis.place(f64::NAN), None);
    }

    #[test]
    fn a_logarithmic_axis_ends_at_decades() {
        let axis = Axis::over(Scale::Logarithmic, [20.0, 3000.0].into_iter());
        let ticks: Vec<f64> = axis.ticks().into_iter().map(f64::round).collect();
        assert_eq!(ticks, [10.0, 100.0, 1000.0, 10000.0]);
        assert!((axis.place(100.0).unwrap() - 1.0 / 3.0).abs() < 1e-9);
        assert_eq!(axis.place(0.0), None, "no logarithm, no place");
        let one = Axis::over(Scale::Logarithmic, [10.0].into_iter());
        assert_eq!(one.ticks().len(), 2);
    }

    #[test]
    fn nothing_to_show_is_an_axis_all_the_same() {
        for scale in [Scale::Linear, Scale::Logarithmic] {
            let axis = Axis::over(scale, [0.0, f64::INFINITY, -1.0].into_iter());
            assert!(!axis.ticks().is_empty());
            assert_eq!(axis.place(0.0), Some(0.0));
        }
        let wide = Axis::over(Scale::Logarithmic, [1e-9, 1e9].into_iter());
        assert!(wide.ticks().len() <= 8, "{:?}", wide.ticks());
    }
}
