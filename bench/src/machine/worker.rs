//! A pinned thread that keeps its state and runs one job at a time.
//!
//! Threads are kept across samples, because creating one takes longer than many samples, and
//! because rings and registrations must stay on the thread that created them.

use super::cpus::pin_current_thread;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};
use std::{fmt, io};

/// The handle of the thread. Dropping it ends the thread after its current job.
pub(crate) struct Worker<J, O> {
    jobs: Option<Sender<J>>,
    outcomes: Receiver<O>,
    thread: Option<JoinHandle<()>>,
    /// Set while a job is running that did not end in time.
    stuck: bool,
}

/// Why a job has no outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoOutcome {
    /// It is still running.
    TimedOut,
    /// The thread is gone: the job panicked.
    Ended,
}

impl<J: Send + 'static, O: Send + 'static> Worker<J, O> {
    /// Starts a thread on `cpu`, creates its state there, and then runs `work` for each job. Blocks
    /// until the state is created. The state need not be `Send`.
    pub(crate) fn spawn<S>(
        name: &str,
        cpu: usize,
        make_state: impl FnOnce() -> S + Send + 'static,
        mut work: impl FnMut(&mut S, J) -> O + Send + 'static,
    ) -> io::Result<Self> {
        let (jobs, incoming) = channel::<J>();
        let (outgoing, outcomes) = channel();
        let (report, pinned) = channel();
        let run = move || {
            let result = pin_current_thread(cpu);
            let failed = result.is_err();
            let mut state = make_state();
            if report.send(result).is_err() || failed {
                return;
            }
            for job in incoming {
                if outgoing.send(work(&mut state, job)).is_err() {
                    return;
                }
            }
        };
        let thread = Builder::new().name(name.to_owned()).spawn(run)?;
        let ended = || Err(io::Error::other("the thread ended before its first job"));
        pinned.recv().unwrap_or_else(|_| ended())?;
        Ok(Self { jobs: Some(jobs), outcomes, thread: Some(thread), stuck: false })
    }

    /// Starts a job. Does not block. Each job needs one [`Worker::finish`].
    pub(crate) fn start(&self, job: J) {
        if let Some(jobs) = &self.jobs {
            // If the thread has ended, `finish` reports it.
            let _ = jobs.send(job);
        }
    }

    /// Returns the outcome of the job if it has ended. Does not block.
    pub(crate) fn try_finish(&mut self) -> Option<Result<O, NoOutcome>> {
        match self.finish(Duration::ZERO) {
            Err(NoOutcome::TimedOut) => None,
            ended => Some(ended),
        }
    }

    /// Waits for the outcome of the job for at most `patience`. After the time that the job is
    /// `expected` to take, `give_up` is asked again and again, and ends the wait by returning true.
    pub(crate) fn finish_unless(
        &mut self,
        expected: Duration,
        patience: Duration,
        mut give_up: impl FnMut() -> bool,
    ) -> Result<O, NoOutcome> {
        /// Rare enough not to disturb a job that takes longer.
        const SLICE: Duration = Duration::from_millis(100);
        let end = Instant::now() + patience;
        let mut slice = expected.saturating_add(SLICE);
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.finish(slice.min(left)) {
                Err(NoOutcome::TimedOut) if left > slice && !give_up() => slice = SLICE,
                outcome => return outcome,
            }
        }
    }

    /// Waits for the outcome of the job for at most `patience`.
    pub(crate) fn finish(&mut self, patience: Duration) -> Result<O, NoOutcome> {
        match self.outcomes.recv_timeout(patience) {
            Ok(outcome) => {
                self.stuck = false;
                Ok(outcome)
            }
            Err(RecvTimeoutError::Timeout) => {
                self.stuck = true;
                Err(NoOutcome::TimedOut)
            }
            Err(RecvTimeoutError::Disconnected) => Err(NoOutcome::Ended),
        }
    }
}

impl<J, O> Drop for Worker<J, O> {
    fn drop(&mut self) {
        self.jobs = None;
        // Do not wait for a thread that hangs.
        if let Some(thread) = self.thread.take()
            && !self.stuck
        {
            // If it panicked, the panic was printed already.
            let _ = thread.join();
        }
    }
}

impl<J, O> fmt::Debug for Worker<J, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("thread", &self.thread).field("stuck", &self.stuck).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::CpuSet;
    use std::rc::Rc;

    const LONG: Duration = Duration::from_secs(60);

    fn cpu() -> usize {
        CpuSet::allowed().unwrap().iter().next().unwrap()
    }

    #[test]
    fn state_stays_on_the_pinned_thread() {
        // An Rc cannot leave the thread that made it.
        let add = |sum: &mut Rc<u64>, job: u64| {
            *sum = Rc::new(**sum + job);
            (**sum, CpuSet::allowed().unwrap().to_string())
        };
        let mut worker = Worker::spawn("adder", cpu(), || Rc::new(0), add).unwrap();
        for (job, sum) in [(1, 1), (2, 3), (3, 6)] {
            worker.start(job);
            assert_eq!(worker.finish(LONG), Ok((sum, cpu().to_string())));
        }
    }

    #[test]
    fn a_cpu_that_is_not_there_is_an_error() {
        assert!(Worker::spawn("nowhere", 8_191, || (), |(), ()| ()).is_err());
    }

    #[test]
    fn a_job_that_takes_too_long_can_be_waited_for_again() {
        let (release, gate) = channel::<()>();
        let mut worker = Worker::spawn("slow", cpu(), move || gate, |gate, ()| gate.recv().is_ok()).unwrap();
        worker.start(());
        assert_eq!(worker.finish(Duration::from_millis(1)), Err(NoOutcome::TimedOut));
        release.send(()).unwrap();
        assert_eq!(worker.finish(LONG), Ok(true));
    }

    #[test]
    fn a_wait_can_be_given_up() {
        let (release, gate) = channel::<()>();
        let mut worker = Worker::spawn("slow", cpu(), move || gate, |gate, ()| gate.recv().is_ok()).unwrap();
        worker.start(());
        assert_eq!(worker.try_finish(), None);
        let mut asked = 0;
        let begin = Instant::now();
        let third_time = || {
            asked += 1;
            asked == 3
        };
        assert_eq!(worker.finish_unless(Duration::ZERO, LONG, third_time), Err(NoOutcome::TimedOut));
        assert!(asked == 3 && begin.elapsed() < LONG);
        // The patience ends it as well, without a question.
        let nobody_asks = || panic!("asked");
        let patience = Duration::from_millis(1);
        assert_eq!(worker.finish_unless(LONG, patience, nobody_asks), Err(NoOutcome::TimedOut));
        release.send(()).unwrap();
        assert_eq!(worker.finish_unless(LONG, LONG, nobody_asks), Ok(true));
    }

    #[test]
    fn a_panic_shows_as_an_ended_thread() {
        let mut worker =
            Worker::<(), ()>::spawn("panics", cpu(), || (), |(), ()| panic!("on purpose")).unwrap();
        worker.start(());
        assert_eq!(worker.finish(LONG), Err(NoOutcome::Ended));
    }
}
