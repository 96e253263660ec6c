//! What measurements have in common: units, and what many figures say together.

use std::time::Duration;

/// Kilobytes as the kernel counts them in the megabytes of tables.
pub fn megabytes(kilobytes: u64) -> f64 {
    kilobytes as f64 / 1000.0
}

/// For tables.
pub fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Figures of the same thing, of which there is at least one.
pub struct Summary {
    sorted: Vec<f64>,
}

impl Summary {
    /// Nothing if there are no figures.
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        (!sorted.is_empty()).then_some(Self { sorted })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.sorted.len()
    }

    /// The smallest one.
    pub fn min(&self) -> f64 {
        self.percentile(0.0)
    }

    /// The largest one.
    pub fn max(&self) -> f64 {
        self.percentile(100.0)
    }

    /// Their sum by their count.
    pub fn mean(&self) -> f64 {
        self.sorted.iter().sum::<f64>() / self.count() as f64
    }

    /// How far they are from the mean: the standard deviation of these figures,
    /// which are taken as all there are.
    pub fn deviation(&self) -> f64 {
        let mean = self.mean();
        let squares = self.sorted.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
        (squares / self.count() as f64).sqrt()
    }

    /// The one in the middle; of an even number of figures the lower of the two.
    pub fn median(&self) -> f64 {
        self.percentile(50.0)
    }

    /// The smallest figure that at least `percent` of 100 do not exceed: one that
    /// was measured, not one between two.
    pub fn percentile(&self, percent: f64) -> f64 {
        let rank = (percent / 100.0 * self.count() as f64).ceil() as usize;
        self.sorted[rank.clamp(1, self.count()) - 1]
    }

    /// All of them, smallest first.
    pub fn sorted(&self) -> &[f64] {
        &self.sorted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_names_figures_that_were_measured() {
        let values: Vec<_> = (1..=100).rev().map(f64::from).collect();
        let summary = Summary::of(&values).unwrap();
        assert_eq!(summary.count(), 100);
        assert_eq!((summary.min(), summary.max()), (1.0, 100.0));
        assert_eq!(summary.mean(), 50.5);
        assert_eq!(summary.median(), 50.0);
        assert_eq!(summary.percentile(75.0), 75.0);
        assert_eq!(summary.percentile(99.0), 99.0);
        assert_eq!(summary.percentile(99.9), 100.0);
    }

    #[test]
    fn the_deviation_is_that_of_all() {
        let summary = Summary::of(&[2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]).unwrap();
        assert_eq!(summary.deviation(), 2.0);
    }

    #[test]
    fn one_figure_is_all_of_them() {
        let summary = Summary::of(&[3.0]).unwrap();
        assert_eq!(
            (summary.median(), summary.percentile(95.0), summary.deviation()),
            (3.0, 3.0, 0.0)
        );
        assert!(Summary::of(&[]).is_none());
    }
}
