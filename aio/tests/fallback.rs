//! How the loop handles a kernel, a container or a sandbox that denies system calls.
//!
//! Each test runs in a thread with a seccomp filter (seccomp(2), SECCOMP_SET_MODE_FILTER), which
//! makes the chosen system calls fail with a chosen error. A filter applies to the thread that
//! installs it and ends with it.
#![expect(unsafe_code, reason = "prctl(2) and seccomp(2), and operations on the ring")]

use aio::io_uring::opcode;
use aio::{AioContext, EventNotifier, Interest, Method, MonitorKind, Reset, RingSetup};
use std::cell::Cell;
use std::io::{self, ErrorKind, Read, Write};
use std::rc::Rc;
use std::time::Duration;

/// A system call and the errno with which it fails.
type Refusal = (libc::c_long, libc::c_int);

const NO_RING: libc::c_long = libc::SYS_io_uring_setup;

/// Installs a filter in the calling thread.
fn refuse(refusals: &[Refusal]) -> io::Result<()> {
    let op = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    // The number is the first word of `struct seccomp_data`; only native calls are made, so the
    // architecture need not be checked.
    let mut program = vec![op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0)];
    for (call, errno) in refusals {
        program.push(op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, *call as u32));
        let answer = libc::SECCOMP_RET_ERRNO | *errno as u32;
        program.push(op(libc::BPF_RET | libc::BPF_K, 0, 0, answer));
    }
    program.push(op(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW));
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: takes integers only. Without it a filter needs CAP_SYS_ADMIN.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel copies the program, which lives across the call.
    let installed =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) };
    if installed != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Runs `test` in a thread where these calls fail. Prints a message and skips it if this kernel has
/// no filters.
fn where_refused(refusals: &[Refusal], test: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| match refuse(refusals) {
            Ok(()) => test(),
            Err(e) => println!("skipped: no seccomp filter can be installed here: {e}"),
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Returns true if io_uring works here without the filter; otherwise prints the reason.
fn has_ring() -> bool {
    let ring = AioContext::builder().monitor(MonitorKind::IoUring).build();
    if let Err(e) = &ring {
        println!("skipped: {e}");
    }
    ring.is_ok()
}

/// Checks that the loop works: a doorbell, a descriptor, a bottom half scheduled by another thread,
/// and a timer.
fn works(ctx: &AioContext) {
    let (rung, read, halves, ticks) = (Rc::default(), Rc::default(), Rc::default(), Rc::default());
    let bump = |counter: &Rc<Cell<u32>>| {
        let counter = Rc::clone(counter);
        move || counter.set(counter.get() + 1)
    };
    let until = |counter: &Rc<Cell<u32>>, goal: u32| {
        while counter.get() < goal {
            ctx.poll(true).unwrap();
        }
        assert_eq!(counter.get(), goal);
    };

    let kick = EventNotifier::new(Reset::Autoreset).unwrap();
    let count = bump(&rung);
    let _kick = ctx.add_notifier(&kick, move |_| count()).unwrap();
    for rings in 1..=10 {
        kick.notify().unwrap();
        until(&rung, rings);
    }

    let (reader, mut writer) = io::pipe().unwrap();
    let reader = Rc::new(reader);
    let (count, input) = (bump(&read), Rc::clone(&reader));
    let _fd = ctx
        .add_borrowed_fd(&reader, Interest::READABLE, move |_, _| {
            assert_eq!((&*input).read(&mut [0; 1]).unwrap(), 1);
            count();
        })
        .unwrap();
    // Two bytes, one read in each turn: level-triggered.
    writer.write_all(b"xy").unwrap();
    until(&read, 2);

    let count = bump(&halves);
    let half = ctx.bottom_half(move |_| count());
    let handle = half.handle();
    let other = std::thread::spawn(move || handle.schedule());
    until(&halves, 1);
    other.join().unwrap();

    let count = bump(&ticks);
    let timer = ctx.timer(move |_| count());
    for tick in 1..=3 {
        timer.arm_after(Duration::from_micros(300));
        let deadline_ns = timer.deadline_ns().unwrap();
        until(&ticks, tick);
        assert!(ctx.now_ns() >= deadline_ns, "the timer ran early");
    }
}

/// The error, and two phrases that the reason must contain: what is wrong, and what to do.
const NO_RING_BECAUSE: [(libc::c_int, &str, &str); 4] = [
    (libc::EPERM, "switched off", "kernel.io_uring_disabled"),
    (libc::ENOSYS, "no io_uring", "Linux 5.15"),
    (libc::ENOMEM, "locked memory", "RLIMIT_MEMLOCK"),
    (libc::EMFILE, "no descriptor left", "RLIMIT_NOFILE"),
];

#[test]
fn without_io_uring_the_loop_has_epoll_and_a_reason() {
    for (errno, what, remedy) in NO_RING_BECAUSE {
        where_refused(&[(NO_RING, errno)], || {
            let ctx = AioContext::new().unwrap();
            let info = ctx.monitor();
            assert_eq!((info.kind, info.ring), (MonitorKind::Epoll, None));
            assert!(info.reason.contains(what), "{}", info.reason);
            assert!(info.reason.contains(remedy), "{}", info.reason);
            works(&ctx);

            let refused = ctx.operations(|_, _, ()| ()).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Unsupported);
            assert!(refused.to_string().contains(&info.reason), "{refused}");
        });
    }
}

#[test]
fn who_asks_for_io_uring_gets_the_same_sentence_as_an_error() {
    for (errno, ..) in NO_RING_BECAUSE {
        where_refused(&[(NO_RING, errno)], || {
            let reason = AioContext::new().unwrap().monitor().reason.clone();
            let error = AioContext::builder().monitor(MonitorKind::IoUring).build().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert_eq!(error.to_string(), reason);
        });
    }
}

#[test]
fn without_io_uring_and_epoll_the_loop_has_ppoll() {
    let refusals = [(NO_RING, libc::EPERM), (libc::SYS_epoll_create1, libc::EMFILE)];
    where_refused(&refusals, || {
        let ctx = AioContext::new().unwrap();
        let info = ctx.monitor();
        assert_eq!(info.kind, MonitorKind::Poll);
        assert!(info.reason.contains("io_uring is switched off"), "{}", info.reason);
        assert!(info.reason.contains("no epoll either"), "{}", info.reason);
        works(&ctx);

        let kick = EventNotifier::new(Reset::Autoreset).unwrap();
        let registration = ctx.add_notifier(&kick, |_| ()).unwrap();
        assert_eq!(registration.method(), Method::Read);
        assert!(registration.fallback().is_some_and(|why| why.contains("ppoll")));
    });
}

/// Before Linux 5.11, and in sandboxes that do not know the call, which may return EPERM or ENOSYS.
#[test]
fn without_epoll_pwait2_deadlines_are_rounded_up_and_the_epoll_descriptor_is_not_polled() {
    for errno in [libc::ENOSYS, libc::EPERM] {
        let mut refusals = vec![
            (libc::SYS_epoll_pwait2, errno),
            // A loop that waited for the epoll descriptor with one of these would fail.
            (libc::SYS_ppoll, libc::EPERM),
        ];
        #[cfg(target_arch = "x86_64")]
        refusals.push((libc::SYS_poll, libc::EPERM));
        where_refused(&refusals, || {
            let ctx = AioContext::builder().monitor(MonitorKind::Epoll).build().unwrap();
            works(&ctx);

            let ran_ns = Rc::new(Cell::new(0));
            let at = Rc::clone(&ran_ns);
            let timer = ctx.timer(move |ctx| at.set(ctx.now_ns()));
            for delay_us in [1, 300, 999, 1_000, 1_001, 2_500] {
                let before = ctx.stats();
                timer.arm_after(Duration::from_micros(delay_us));
                let deadline_ns = timer.deadline_ns().unwrap();
                while timer.is_pending() {
                    ctx.poll(true).unwrap();
                }
                assert!(ran_ns.get() >= deadline_ns, "the timer ran early");
                // With rounding down, the loop would wake repeatedly until the deadline.
                let waits = (ctx.stats() - before).syscalls_wait;
                assert!(waits <= 2, "{waits} waits for {delay_us} us");
            }
        });
    }
}

#[test]
fn older_ring_set_ups_work_and_are_reported() {
    if !has_ring() {
        return;
    }
    for newest in [RingSetup::CoopTaskrun, RingSetup::Plain] {
        let ctx = AioContext::builder().monitor(MonitorKind::IoUring).ring_setup(newest).build().unwrap();
        let setup = ctx.monitor().ring.unwrap().setup;
        assert!(setup >= newest, "{setup:?} is newer than {newest:?}");
        works(&ctx);
    }
}

/// Neither the ring descriptor nor a group of buffers can be registered.
#[test]
fn without_io_uring_register_the_ring_is_entered_by_its_descriptor() {
    if !has_ring() {
        return;
    }
    for errno in [libc::EPERM, libc::ENOSYS, libc::EINVAL] {
        where_refused(&[(libc::SYS_io_uring_register, errno)], || {
            let ctx = AioContext::builder().monitor(MonitorKind::IoUring).build().unwrap();
            assert!(!ctx.monitor().ring.unwrap().registered_fd);
            works(&ctx);

            let done = Rc::new(Cell::new(false));
            let set = Rc::clone(&done);
            let nops = ctx.operations(move |_, _, ()| set.set(true)).unwrap();
            // SAFETY: a NOP points to nothing.
            unsafe { nops.submit(opcode::Nop::new().build(), ()) }.unwrap();
            while !done.get() {
                ctx.poll(true).unwrap();
            }
        });
    }
}

/// The probe found that READ_MULTISHOT works, but this context gets no buffers for it, so it uses
/// one-shot reads.
#[test]
fn without_a_group_of_buffers_the_multishot_read_is_made_of_single_ones() {
    let reset = Reset::AutoresetBy(Method::RingReadMultishot);
    let build = || AioContext::builder().monitor(MonitorKind::IoUring).reset(reset).build();
    if let Err(e) = build() {
        println!("skipped: {e}");
        return;
    }
    where_refused(&[(libc::SYS_io_uring_register, libc::ENOMEM)], || {
        let ctx = build().unwrap();
        let kick = EventNotifier::new(reset).unwrap();
        let rung = Rc::new(Cell::new(0));
        let count = Rc::clone(&rung);
        let _kick = ctx.add_notifier(&kick, move |_| count.set(count.get() + 1)).unwrap();
        for rings in 1..=10 {
            kick.notify().unwrap();
            while rung.get() < rings {
                ctx.poll(true).unwrap();
            }
        }
        assert_eq!((rung.get(), ctx.stats().syscalls_read), (10, 0));
    });
}

/// Checks that the filters take effect; otherwise the tests above would prove nothing.
#[test]
fn the_filter_refuses_in_its_own_thread_only() {
    let create = || {
        // SAFETY: takes one integer.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        let error = (fd < 0).then(io::Error::last_os_error);
        if fd >= 0 {
            // SAFETY: a descriptor of this test's own.
            unsafe { libc::close(fd) };
        }
        error.and_then(|e| e.raw_os_error())
    };
    where_refused(&[(libc::SYS_epoll_create1, libc::ENFILE)], || {
        assert_eq!(create(), Some(libc::ENFILE));
    });
    assert_eq!(create(), None);
}
