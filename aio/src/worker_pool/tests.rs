//! Threads that come, go, and cannot be started.

use super::*;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Instant;

const LONG: Duration = Duration::from_secs(3600);
/// No test waits so long for anything, unless it fails.
const LIMIT: Duration = Duration::from_secs(20);

fn pool(min: usize, max: usize, idle: Duration) -> WorkerPool<()> {
    WorkerPool::new(Limits { min, max, idle })
}

/// Submits a job that reports its begin, and ends when it is let go.
fn gate(pool: &WorkerPool<()>) -> (Receiver<()>, Sender<()>) {
    let (begun, has_begun) = mpsc::channel();
    let (let_go, may_end) = mpsc::channel::<()>();
    pool.reserve().unwrap().submit((), |_| {
        Box::new(move || {
            begun.send(()).unwrap();
            let _ = may_end.recv();
        })
    });
    (has_begun, let_go)
}

fn wait_until(pool: &WorkerPool<()>, load: Load) {
    let start = Instant::now();
    while pool.load() != load {
        assert!(start.elapsed() < LIMIT, "{:?}, not {load:?}", pool.load());
        std::thread::sleep(Duration::from_micros(100));
    }
}

#[test]
fn an_idle_thread_takes_the_next_job_and_a_second_job_gets_a_second_thread() {
    let pool = pool(0, 8, LONG);
    for _ in 0..3 {
        let (begun, let_go) = gate(&pool);
        begun.recv_timeout(LIMIT).unwrap();
        assert_eq!(pool.load(), Load { threads: 1, queued: 0, running: 1 });
        let_go.send(()).unwrap();
        wait_until(&pool, Load { threads: 1, queued: 0, running: 0 });
        // Between its job and its wait it is not idle, and the next job would get a new thread.
        let start = Instant::now();
        while pool.threads.get().unwrap().lock().idle == 0 && start.elapsed() < LIMIT {
            std::thread::yield_now();
        }
    }
    // Two at once: the one that is idle can take only one of them.
    let gates = [gate(&pool), gate(&pool)];
    gates.iter().for_each(|(begun, _)| begun.recv_timeout(LIMIT).unwrap());
    assert_eq!(pool.load(), Load { threads: 2, queued: 0, running: 2 });
    gates.iter().for_each(|(_, let_go)| let_go.send(()).unwrap());
    assert!(pool.close().is_empty());
    pool.join();
    assert_eq!(pool.load(), Load::default());
}

#[test]
fn idle_threads_end_down_to_the_minimum() {
    let pool = pool(1, 4, Duration::from_millis(1));
    let gates: Vec<_> = (0..4).map(|_| gate(&pool)).collect();
    gates.iter().for_each(|(begun, _)| begun.recv_timeout(LIMIT).unwrap());
    assert_eq!(pool.load().threads, 4);
    gates.iter().for_each(|(_, let_go)| let_go.send(()).unwrap());
    wait_until(&pool, Load { threads: 1, queued: 0, running: 0 });
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(pool.load().threads, 1, "the minimum stays");
    let (begun, let_go) = gate(&pool);
    begun.recv_timeout(LIMIT).unwrap();
    let_go.send(()).unwrap();
    pool.close();
    pool.join();
}

#[test]
fn a_thread_that_cannot_start_is_an_error_only_if_it_would_be_the_first() {
    let mut pool = pool(0, 8, LONG);
    pool.start = |_, _| Err(io::ErrorKind::WouldBlock.into());
    let error = pool.reserve().err().unwrap();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    assert_eq!(pool.load(), Load::default());
    pool.start = start;
    let first = gate(&pool);
    first.0.recv_timeout(LIMIT).unwrap();
    pool.start = |_, _| Err(io::ErrorKind::WouldBlock.into());
    let second = gate(&pool);
    assert_eq!(pool.load(), Load { threads: 1, queued: 1, running: 1 });
    first.1.send(()).unwrap();
    second.0.recv_timeout(LIMIT).unwrap();
    second.1.send(()).unwrap();
    pool.close();
    pool.join();
}

#[test]
fn a_closed_pool_gives_back_what_has_not_begun_and_refuses_the_next() {
    let pool = pool(0, 1, LONG);
    let first = gate(&pool);
    first.0.recv_timeout(LIMIT).unwrap();
    let (second, third) = (gate(&pool), gate(&pool));
    assert!(pool.cancel(1).is_some(), "the second has not begun");
    assert!(pool.cancel(1).is_none() && pool.cancel(0).is_none());
    assert_eq!(pool.close().len(), 1);
    assert_eq!(pool.reserve().err().unwrap().kind(), io::ErrorKind::NotConnected);
    first.1.send(()).unwrap();
    pool.join();
    assert!(second.0.recv().is_err() && third.0.recv().is_err(), "dropped without a run");
    assert_eq!((pool.take_done(1), pool.take_all().len()), (Some(()), 2));
}
