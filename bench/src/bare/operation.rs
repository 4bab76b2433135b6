//! What an operation costs on one thread, when no thread sleeps and nothing crosses to another CPU.

use super::method::Method;
use super::syscall::{Calls, EventFd, clock_ns, empty_call};
use super::waiter::{Patience, Waiter};
use crate::campaign::{self, Case, Collected, Repeater, Watch};
use crate::error::{Error, reason};
use crate::measure::Plan;
use crate::measure::sample;
use crate::report::FLOOR;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

/// What is repeated and measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Clock,
    EmptyCall,
    Write,
    Read,
    ReadEmpty,
    /// A write(2), then the wait of a method. The event is already there.
    Signal(Method),
}

impl Operation {
    /// Bare calls first, then every method. A blocking read is left out: here it would be the same
    /// as `Write` followed by `Read`.
    pub(crate) fn all() -> impl Iterator<Item = Operation> {
        let bare =
            [Operation::Clock, Operation::EmptyCall, Operation::Write, Operation::Read, Operation::ReadEmpty];
        let methods = Method::ALL.into_iter().filter(|&method| method != Method::BlockingRead);
        bare.into_iter().chain(methods.map(Operation::Signal))
    }

    pub(crate) fn baseline(self) -> Option<Operation> {
        match self {
            Operation::Signal(method) => method.baseline().map(Operation::Signal),
            _ => None,
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Operation::Clock => "clock_gettime".to_owned(),
            Operation::EmptyCall => "empty system call (getppid)".to_owned(),
            Operation::Write => "write".to_owned(),
            Operation::Read => "read, counter set".to_owned(),
            Operation::ReadEmpty => "read, counter empty (EAGAIN)".to_owned(),
            Operation::Signal(method) => format!("write + {method}"),
        };
        f.pad(&text)
    }
}

sample! {
    /// One sample of an operation.
    pub(crate) struct OperationSample {
        time_ns: "ns" Lower,
        syscalls: "syscalls" Lower,
        reads: "reads" Lower,
    }
}

/// An operation with what it needs, created once.
enum Bench {
    Clock,
    EmptyCall,
    Write(EventFd),
    Read(EventFd),
    ReadEmpty(EventFd),
    Signal(Arc<EventFd>, Box<dyn Waiter>),
}

/// The initial count of the semaphore for `Operation::Read`.
const FILL: u32 = u32::MAX;

impl Bench {
    fn open(operation: Operation) -> Result<Self, String> {
        let eventfd = |initial, flags| {
            EventFd::new(initial, flags | libc::EFD_NONBLOCK)
                .map_err(|error| format!("eventfd: {}", reason(&error)))
        };
        Ok(match operation {
            Operation::Clock => Bench::Clock,
            Operation::EmptyCall => Bench::EmptyCall,
            Operation::Write => Bench::Write(eventfd(0, 0)?),
            // A semaphore takes the same path through the kernel as a counter (eventfd_ctx_do_read
            // in fs/eventfd.c), but does not have to be written before each read.
            Operation::Read => Bench::Read(eventfd(FILL, libc::EFD_SEMAPHORE)?),
            Operation::ReadEmpty => Bench::ReadEmpty(eventfd(0, 0)?),
            Operation::Signal(method) => {
                let (kick, waiter) = method.open()?;
                Bench::Signal(kick, waiter)
            }
        })
    }

    /// Repeats the operation. Between the two clock readings there is nothing but this loop.
    fn repeat(&mut self, times: u64, calls: &mut Calls) -> io::Result<()> {
        match self {
            Bench::Clock => {
                for _ in 0..times {
                    black_box(clock_ns(libc::CLOCK_MONOTONIC));
                }
            }
            Bench::EmptyCall => {
                for _ in 0..times {
                    empty_call(calls);
                }
            }
            Bench::Write(eventfd) => {
                for _ in 0..times {
                    eventfd.signal(calls)?;
                }
            }
            Bench::Read(eventfd) => {
                for _ in 0..times {
                    if eventfd.read(calls)?.is_none() {
                        eventfd.add(u64::from(FILL), calls)?;
                    }
                }
            }
            Bench::ReadEmpty(eventfd) => {
                for _ in 0..times {
                    black_box(eventfd.read(calls)?);
                }
            }
            Bench::Signal(kick, waiter) => {
                for _ in 0..times {
                    kick.signal(calls)?;
                    waiter.wait(Patience::Forever, calls)?;
                }
            }
        }
        Ok(())
    }

    fn sample(&mut self, times: u64) -> io::Result<(Duration, OperationSample)> {
        let mut calls = Calls::default();
        let begin = clock_ns(libc::CLOCK_MONOTONIC);
        self.repeat(times, &mut calls)?;
        let elapsed_ns = clock_ns(libc::CLOCK_MONOTONIC).saturating_sub(begin);
        let per_operation = |count: u64| count as f64 / times as f64;
        let sample = OperationSample {
            time_ns: per_operation(elapsed_ns),
            syscalls: per_operation(calls.total()),
            reads: per_operation(calls.reads),
        };
        Ok((Duration::from_nanos(elapsed_ns), sample))
    }
}

/// Creates all `operations` on a thread pinned to `cpu`.
fn thread(cpu: usize, operations: Vec<Operation>) -> Result<Repeater<OperationSample>, Error> {
    let make = move || operations.into_iter().map(Bench::open).collect::<Vec<_>>();
    let repeat =
        |benches: &mut Vec<Result<Bench, String>>, index: usize, times: u64| match &mut benches[index] {
            Ok(bench) => bench.sample(times).map_err(|error| reason(&error)),
            Err(why) => Err(why.clone()),
        };
    Repeater::new("one-thread", cpu, make, repeat)
}

/// Measures `operations` on one thread pinned to `cpu`.
pub(crate) fn one_thread(
    cpu: usize,
    operations: Vec<Operation>,
    plan: Plan,
    watch: &mut impl Watch,
) -> Result<Collected, Error> {
    let case = |operation: &Operation| Case {
        group: format!("{FLOOR}, CPU {cpu}"),
        name: operation.to_string(),
        baseline: operation.baseline().map(|baseline| baseline.to_string()),
    };
    let cases: Vec<Case> = operations.iter().map(case).collect();
    let mut thread = thread(cpu, operations)?;
    let sample = |index, times| thread.sample(index, times, plan.patience(), "an operation on one thread");
    Ok(campaign::calibrated("one thread", &cases, plan, watch, sample)?.collect(&cases))
}

/// The plan of [`cost_of_a_read`].
const COST: Plan = Plan::new(6, Duration::from_millis(8));

/// Measures what a read(2) of an eventfd costs on `cpu`: a row beside the results of another
/// benchmark.
pub(crate) fn cost_of_a_read(cpu: usize, watch: &mut impl Watch) -> Result<Collected, Error> {
    one_thread(cpu, vec![Operation::Read], COST, watch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::CpuSet;

    #[test]
    fn every_operation_makes_its_system_calls() {
        for operation in Operation::all() {
            let mut bench = match Bench::open(operation) {
                Ok(bench) => bench,
                Err(why) => {
                    eprintln!("{operation}: not available: {why}");
                    continue;
                }
            };
            // The first sample consumes what the self-test left over.
            bench.sample(2).unwrap();
            let (_, sample) = bench.sample(100).unwrap();
            let (syscalls, reads) = match operation {
                Operation::Clock => (0.0, 0.0),
                Operation::EmptyCall | Operation::Write => (1.0, 0.0),
                Operation::Read | Operation::ReadEmpty => (1.0, 1.0),
                Operation::Signal(method) if method.reads() => (3.0, 1.0),
                Operation::Signal(_) => (2.0, 0.0),
            };
            assert_eq!((sample.syscalls, sample.reads), (syscalls, reads), "{operation}");
            assert!(sample.time_ns > 0.0);
        }
    }

    #[test]
    fn an_empty_semaphore_is_refilled() {
        let eventfd = EventFd::new(1, libc::EFD_NONBLOCK | libc::EFD_SEMAPHORE).unwrap();
        let mut calls = Calls::default();
        Bench::Read(eventfd).repeat(3, &mut calls).unwrap();
        // One successful read, one that finds nothing, a write, and a read again.
        assert_eq!((calls.reads, calls.writes), (3, 1));
    }

    #[test]
    fn baselines_are_among_the_operations() {
        let operations: Vec<_> = Operation::all().collect();
        for operation in &operations {
            assert!(operation.baseline().is_none_or(|baseline| operations.contains(&baseline)));
        }
    }

    #[test]
    fn the_thread_answers() {
        let cpu = CpuSet::allowed().unwrap().iter().next().unwrap();
        let mut worker = thread(cpu, vec![Operation::Write, Operation::Read]).unwrap();
        let (_, sample) = worker.sample(1, 10, Duration::from_secs(10), "it").unwrap().unwrap();
        assert_eq!((sample.syscalls, sample.reads), (1.0, 1.0));
        assert!(thread(8_191, vec![]).is_err());
    }
}
