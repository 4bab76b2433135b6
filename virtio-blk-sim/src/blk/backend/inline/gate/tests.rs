use super::*;

const US: u64 = 1_000;
const MS: u64 = 1_000 * US;
const S: u64 = 1_000 * MS;

/// A gate and its clock.
#[derive(Default)]
struct Rig {
    gate: Gate,
    now_ns: u64,
    switches: Switches,
    /// How often the counters were read.
    asked: u32,
}

/// What the thread does in a call that is slow.
#[derive(Clone, Copy)]
enum Thread {
    Sleeps,
    IsDisplaced,
    Computes,
}

impl Rig {
    /// A batch of one call, if the gate is open. Returns whether it was, and whether it closed.
    fn call(&mut self, took_ns: u64, thread: Thread) -> Option<Option<Stall>> {
        let now_ns = self.now_ns;
        if !self.gate.is_open(|| now_ns) {
            return None;
        }
        let (mut asked, before) = (0, self.switches);
        self.gate.begin(|| {
            asked += 1;
            before
        });
        self.now_ns += took_ns;
        match thread {
            Thread::Sleeps => self.switches.voluntary += 1,
            Thread::IsDisplaced => self.switches.involuntary += 1,
            Thread::Computes => {}
        }
        let after = self.switches;
        let stall = self.gate.record(4096, took_ns, self.now_ns, || {
            asked += 1;
            after
        });
        self.gate.end_batch();
        self.asked += asked;
        Some(stall)
    }

    fn is_open(&mut self) -> bool {
        let now_ns = self.now_ns;
        self.gate.is_open(|| now_ns)
    }
}

#[test]
fn short_calls_leave_it_open_and_nothing_is_asked() {
    let mut rig = Rig::default();
    for _ in 0..100_000 {
        assert_eq!(rig.call(40 * US, Thread::Computes), Some(None));
    }
    assert_eq!(rig.asked, 0);
    assert!(rig.gate.is_open(|| panic!("the clock of a trusted gate is not read")));
}

#[test]
fn one_call_that_sleeps_closes_it() {
    let mut rig = Rig::default();
    let allowed_ns = SHORT_NS + 4096 / 2;
    assert_eq!(rig.call(allowed_ns + MOST_NS - 1, Thread::Sleeps), Some(None));
    let mut rig = Rig::default();
    let stall = Stall { excess_ns: 20 * MS, backoff_ns: 2 * S };
    assert_eq!(rig.call(allowed_ns + 20 * MS, Thread::Sleeps), Some(Some(stall)));
    assert!(!rig.is_open());
    rig.now_ns += 2 * S - 1;
    assert!(!rig.is_open());
    rig.now_ns += 1;
    assert!(rig.is_open());
}

/// A disk that makes each write wait for a read of 150 us.
#[test]
fn calls_that_each_wait_a_little_close_it_and_a_few_of_many_do_not() {
    let mut rig = Rig::default();
    let closed = (0..100).position(|_| rig.call(150 * US, Thread::Sleeps) != Some(None));
    assert_eq!(closed, Some(5));

    let mut rig = Rig::default();
    for _ in 0..1_000 {
        assert_eq!(rig.call(150 * US, Thread::Sleeps), Some(None));
        for _ in 0..20 {
            assert_eq!(rig.call(3 * US, Thread::Computes), Some(None));
        }
    }
}

/// Each call sleeps for 20 ms, in an hour in which the guest does not stop to write.
#[test]
fn a_file_that_always_sleeps_gets_one_call_per_backoff_and_a_thousandth_of_the_time() {
    let mut rig = Rig::default();
    let (mut slow, mut backoffs) = (0, Vec::new());
    while rig.now_ns < 3_600 * S {
        match rig.call(20 * MS, Thread::Sleeps) {
            Some(stall) => {
                slow += 1;
                backoffs.extend(stall.map(|stall| stall.backoff_ns / MS));
            }
            None => rig.now_ns += MS,
        }
    }
    // One call for each time it was closed: 2 s, 20 s, and then twice as long each time, up to 10
    // minutes.
    assert_eq!(slow, backoffs.len());
    assert_eq!(
        backoffs,
        [1994, 19947, 39895, 79791, 159583, 319167, 600_000, 600_000, 600_000, 600_000, 600_000]
    );
    assert!(slow as u64 * 20 * MS * 1_000 < rig.now_ns);
}

/// A call of 20 ms every five seconds, as by a journal: 0.4 % of the time.
#[test]
fn a_file_that_sleeps_now_and_then_is_kept_to_a_thousandth_of_the_time() {
    let mut rig = Rig::default();
    let (mut slept_ns, mut next_ns) = (0, 5 * S);
    while rig.now_ns < 3_600 * S {
        let took_ns = if rig.now_ns >= next_ns { 20 * MS } else { 3 * US };
        let thread = if took_ns > MS { Thread::Sleeps } else { Thread::Computes };
        if rig.call(took_ns, thread).is_some() && took_ns > MS {
            slept_ns += took_ns;
        }
        if rig.now_ns >= next_ns {
            next_ns = rig.now_ns + 5 * S;
        }
        rig.now_ns += MS;
    }
    assert!(slept_ns * 1_000 <= rig.now_ns, "{slept_ns}");
}

#[test]
fn a_thread_that_was_displaced_is_not_the_files_fault() {
    let mut rig = Rig::default();
    // Nobody knows why the first one was slow.
    assert!(rig.call(3 * MS, Thread::IsDisplaced).unwrap().is_some());
    rig.now_ns += S;
    // Once in nine seconds, for more than two hours.
    for _ in 0..1_000 {
        assert_eq!(rig.call(3 * MS, Thread::IsDisplaced), Some(None));
        rig.now_ns += 9 * S;
    }
    // It slept as well.
    rig.switches.involuntary += 1;
    rig.call(3 * US, Thread::Computes);
    assert!(rig.call(3 * MS, Thread::Sleeps).unwrap().is_some());
}

/// A file that computes for long, such as for reclaim, holds up the loop as well.
#[test]
fn a_call_that_computes_for_long_counts_while_watched() {
    let mut rig = Rig::default();
    rig.call(3 * MS, Thread::Sleeps);
    rig.now_ns += S;
    let stall = rig.call(3 * MS, Thread::Computes).unwrap().unwrap();
    assert_eq!(stall.backoff_ns, stall.excess_ns * 1_000);
}

#[test]
fn after_ten_good_seconds_it_is_trusted_again() {
    let mut rig = Rig::default();
    let first = rig.call(3 * MS, Thread::Sleeps).unwrap().unwrap();
    rig.now_ns += first.backoff_ns;
    for _ in 0..1_000 {
        assert_eq!(rig.call(3 * US, Thread::Computes), Some(None));
    }
    // Once for each batch.
    assert_eq!(rig.asked, 1_000);
    rig.now_ns += 10 * S;
    assert_eq!(rig.call(3 * US, Thread::Computes), Some(None));
    assert_eq!(rig.asked, 1_000);
    assert_eq!(rig.call(3 * MS, Thread::Sleeps), Some(Some(first)), "as the first time");
}

#[test]
fn refused_calls_are_tried_less_and_less() {
    let mut tries = Tries::default();
    let again: io::Result<usize> = Err(io::Error::from_raw_os_error(libc::EAGAIN));
    let mut left_out = Vec::new();
    for _ in 0..8 {
        tries.count(&again);
        left_out.push((0..1_000).take_while(|_| !tries.next()).count());
    }
    assert_eq!(left_out, [1, 3, 7, 15, 31, 63, 64, 64]);
    tries.count(&Ok(512));
    tries.count(&again);
    assert_eq!((tries.next(), tries.next()), (false, true));
    // Another error is no reason.
    tries.count(&Err(io::Error::from_raw_os_error(libc::EIO)));
    assert!(tries.next());
}
