use super::*;

/// The name of a flush, and its result.
type Named = (char, Result<(), i32>);

#[derive(Clone, Default)]
struct Answers(Arc<Mutex<Vec<Named>>>);

impl Answers {
    fn of(&self, name: char) -> impl FnOnce(io::Result<()>) + Send + 'static {
        let answers = Arc::clone(&self.0);
        move |result| {
            answers.lock().unwrap().push((name, result.map_err(|error| error.raw_os_error().unwrap())));
        }
    }

    /// Takes what was answered since the last call.
    fn take(&self) -> Vec<Named> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

fn errno(number: i32) -> io::Result<()> {
    Err(io::Error::from_raw_os_error(number))
}

#[test]
fn a_flush_alone_is_answered_at_once() {
    let (syncs, answers) = (Arc::new(Syncs::default()), Answers::default());
    for _ in 0..3 {
        syncs.begin().end(Ok(()), answers.of('a'));
        assert_eq!(answers.take(), [('a', Ok(()))]);
    }
}

#[test]
fn a_flush_waits_for_those_that_overlap_with_it_and_not_for_later_ones() {
    let (syncs, answers) = (Arc::new(Syncs::default()), Answers::default());
    let (a, b) = (syncs.begin(), syncs.begin());
    b.end(Ok(()), answers.of('b'));
    assert_eq!(answers.take(), []);
    let c = syncs.begin();
    a.end(Ok(()), answers.of('a'));
    // `b` ended before `c` began. `a` did not.
    assert_eq!(answers.take(), [('b', Ok(()))]);
    c.end(Ok(()), answers.of('c'));
    assert_eq!(answers.take(), [('a', Ok(())), ('c', Ok(()))]);
}

/// The hook is called once, and its panic costs no answer.
#[test]
fn a_hook_learns_of_the_first_failure() {
    let (syncs, answers) = (Arc::new(Syncs::default()), Answers::default());
    let calls = Answers::default();
    let of_hook = calls.clone();
    syncs.on_failure(Box::new(move |error| {
        of_hook.of('h')(Err(io::Error::from_raw_os_error(error.raw_os_error().unwrap())));
        panic!("of the hook");
    }));
    syncs.begin().end(Ok(()), answers.of('a'));
    assert!(!syncs.has_failed());
    for name in ['b', 'c'] {
        syncs.begin().end(errno(libc::ENOSPC), answers.of(name));
    }
    assert!(syncs.has_failed());
    assert_eq!(calls.take(), [('h', Err(libc::ENOSPC))]);
    assert_eq!(answers.take(), [('a', Ok(())), ('b', Err(libc::ENOSPC)), ('c', Err(libc::ENOSPC))]);
}

#[test]
fn a_failure_fails_all_that_overlap_and_all_that_follow() {
    let (syncs, answers) = (Arc::new(Syncs::default()), Answers::default());
    let [a, b, c] = [(); 3].map(|()| syncs.begin());
    a.end(Ok(()), answers.of('a'));
    b.end(errno(libc::ENOSPC), answers.of('b'));
    assert_eq!(answers.take(), [('b', Err(libc::ENOSPC)), ('a', Err(libc::EIO))]);
    c.end(Ok(()), answers.of('c'));
    syncs.begin().end(Ok(()), answers.of('d'));
    assert_eq!(answers.take(), [('c', Err(libc::EIO)), ('d', Err(libc::EIO))]);
    let write = Operation::Out { sector: 0, len: 512, durable: false };
    assert!(syncs.check(&write).is_err() && syncs.check(&Operation::Flush).is_err());
    assert!(syncs.check(&Operation::In { sector: 0, len: 512 }).is_ok());
}

#[test]
fn the_flush_of_a_durable_write_counts() {
    let (syncs, answers) = (Arc::new(Syncs::default()), Answers::default());
    let (write, flush) = (syncs.begin(), syncs.begin());
    flush.end(Ok(()), answers.of('f'));
    assert_eq!(answers.take(), []);
    write.end_of_write(&Ok(()));
    assert_eq!(answers.take(), [('f', Ok(()))]);
    let (write, flush) = (syncs.begin(), syncs.begin());
    flush.end(Ok(()), answers.of('f'));
    write.end_of_write(&errno(libc::EIO));
    assert_eq!(answers.take(), [('f', Err(libc::EIO))]);
}

/// The kernel's result is lost when a loop is dropped with operations in flight.
#[test]
fn a_flush_that_is_dropped_is_not_waited_for() {
    let (syncs, answers) = (Arc::new(Syncs::default()), Answers::default());
    let (a, b) = (syncs.begin(), syncs.begin());
    b.end(Ok(()), answers.of('b'));
    drop(a);
    assert_eq!(answers.take(), [('b', Ok(()))]);
}

#[test]
fn many_threads_get_one_answer_each() {
    let (syncs, answers) = (Arc::new(Syncs::default()), Answers::default());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..500).for_each(|_| syncs.begin().end(Ok(()), answers.of('x'))));
        }
    });
    assert_eq!(answers.take(), [('x', Ok(())); 2000]);
    assert!(syncs.state().open.is_empty() && syncs.state().held.is_empty());
}
