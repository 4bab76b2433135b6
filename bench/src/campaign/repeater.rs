//! A pinned thread that repeats cases on request.

use crate::error::Error;
use crate::machine::{NoOutcome, Worker};
use std::fmt::Display;
use std::time::Duration;

/// How long the repetitions took, and the sample; or why the case is not available here.
pub(crate) type Outcome<S> = Result<(Duration, S), String>;

/// Takes one sample of a case: `Ok(Err(why))` if the case is not available here.
pub(crate) type Taken<S> = Result<Result<(Duration, S), String>, Error>;

/// The handle of the thread.
#[derive(Debug)]
pub(crate) struct Repeater<S> {
    worker: Worker<(usize, u64), Outcome<S>>,
}

impl<S: Send + 'static> Repeater<S> {
    /// Starts the thread on `cpu` and creates its state there. `repeat(state, index, times)`
    /// repeats case `index`. Blocks until the state is created.
    pub(crate) fn new<T>(
        name: &str,
        cpu: usize,
        make: impl FnOnce() -> T + Send + 'static,
        mut repeat: impl FnMut(&mut T, usize, u64) -> Outcome<S> + Send + 'static,
    ) -> Result<Self, Error> {
        let work = move |state: &mut T, (index, times): (usize, u64)| repeat(state, index, times);
        let worker = Worker::spawn(name, cpu, make, work)
            .map_err(|error| Error::failed(&format!("cannot start a thread on CPU {cpu}"), &error))?;
        Ok(Self { worker })
    }

    /// Repeats case `index` `times` times. The inner error is the reason why the case is not
    /// available here. The outer one reports that `what` did not end within `patience` or that the
    /// thread panicked. Blocks.
    pub(crate) fn sample(
        &mut self,
        index: usize,
        times: u64,
        patience: Duration,
        what: impl Display,
    ) -> Taken<S> {
        self.worker.start((index, times));
        self.worker.finish(patience).map_err(|why| {
            Error::Failed(match why {
                NoOutcome::TimedOut => format!("{what} never came back: a wake-up was lost"),
                NoOutcome::Ended => format!("{what} ended the measuring thread: it panicked"),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::CpuSet;
    use std::thread::sleep;

    const LONG: Duration = Duration::from_secs(60);

    fn repeater() -> Repeater<u64> {
        let cpu = CpuSet::allowed().unwrap().iter().next().unwrap();
        let repeat = |sum: &mut u64, index: usize, times: u64| {
            match index {
                0 => *sum += times,
                1 => return Err("it cannot".to_owned()),
                2 => sleep(LONG),
                _ => panic!("on purpose"),
            }
            Ok((Duration::from_nanos(times), *sum))
        };
        Repeater::new("repeats", cpu, || 0, repeat).unwrap()
    }

    #[test]
    fn cases_share_what_the_thread_has_made() {
        let mut thread = repeater();
        let mut sample = |index, times| thread.sample(index, times, LONG, "it").unwrap();
        assert_eq!(sample(0, 3), Ok((Duration::from_nanos(3), 3)));
        assert_eq!(sample(1, 1), Err("it cannot".to_owned()));
        assert_eq!(sample(0, 4), Ok((Duration::from_nanos(4), 7)));
    }

    #[test]
    fn what_hangs_or_panics_is_named() {
        let why = |index, patience| repeater().sample(index, 1, patience, "a turn").unwrap_err().to_string();
        assert_eq!(why(2, Duration::from_millis(1)), "a turn never came back: a wake-up was lost");
        assert_eq!(why(3, LONG), "a turn ended the measuring thread: it panicked");
    }
}
