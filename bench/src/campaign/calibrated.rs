//! A campaign whose cases repeat an operation. The warm-up finds the number of repetitions.

use super::cases::{Campaign, Case, run};
use super::repeater::Taken;
use super::watch::Watch;
use crate::error::Error;
use crate::measure::Plan;
use crate::measure::Sample;
use std::cell::RefCell;
use std::time::Duration;

/// Calibrates every case, which also warms it up, and then records the rounds.
pub(crate) fn calibrated<S: Sample>(
    name: &str,
    cases: &[Case],
    plan: Plan,
    watch: &mut impl Watch,
    sample: impl FnMut(usize, u64) -> Taken<S>,
) -> Result<Campaign<S>, Error> {
    // The warm-up and the visits are never nested.
    let sample = RefCell::new(sample);
    let take = |index, times| sample.borrow_mut()(index, times);
    let warm_up = |index| calibrate(plan.runtime, |times| take(index, times));
    let visit = |index: usize, &mut times: &mut u64| {
        // The case worked during calibration, so this is a failure and not a missing feature.
        take(index, times)?
            .map(|(_, sample)| sample)
            .map_err(|why| Error::Failed(format!("{}: {why}", cases[index].name)))
    };
    run(name, cases, plan, watch, warm_up, visit)
}

/// Finds the number of repetitions for a sample of about `target`, by trying larger and larger
/// numbers.
fn calibrate<S>(
    target: Duration,
    mut sample: impl FnMut(u64) -> Taken<S>,
) -> Result<Result<u64, String>, Error> {
    // Enough for a second of the cheapest operation there is.
    const MOST: u64 = 1 << 32;
    let mut times = 16;
    loop {
        let elapsed = match sample(times)? {
            Ok((elapsed, _)) => elapsed,
            Err(why) => return Ok(Err(why)),
        };
        if elapsed >= target / 4 || times >= MOST {
            let scale = target.as_secs_f64() / elapsed.as_secs_f64().max(1e-9);
            return Ok(Ok(((times as f64 * scale) as u64).clamp(1, MOST)));
        }
        times *= 4;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sample that took `ns` for each repetition.
    fn takes(ns: u64) -> impl FnMut(u64) -> Taken<()> {
        move |times| Ok(Ok((Duration::from_nanos(ns * times), ())))
    }

    #[test]
    fn calibration_finds_the_number_of_repetitions() {
        let calibrated = |target, ns| calibrate(Duration::from_millis(target), takes(ns)).unwrap().unwrap();
        assert_eq!(calibrated(10, 100), 100_000);
        assert_eq!(calibrated(1, 1_000), 1_000);
        // One repetition takes too long already; a stopped clock does not cause an endless loop.
        assert_eq!(calibrated(1, 100_000_000), 1);
        assert_eq!(calibrated(10, 0), 1 << 32);
    }

    #[test]
    fn calibration_passes_reasons_and_errors_on() {
        let target = Duration::from_millis(1);
        assert_eq!(
            calibrate(target, |_| Taken::<()>::Ok(Err("why".to_owned()))).unwrap(),
            Err("why".to_owned())
        );
        assert!(calibrate(target, |_| Taken::<()>::Err(Error::Failed("broken".to_owned()))).is_err());
    }
}
