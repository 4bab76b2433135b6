//! Operations that a task awaits.

use crate::setup::Setup;
use crate::support::{Count, os, settle, turn, turn_until};
use aio::op::{ReadAt, WriteAt};
use std::io::{self, ErrorKind, Write};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

pub(crate) fn an_operation_is_awaited(setup: &Setup) {
    let ctx = setup.context();
    let local = ctx.local_handle();
    let read = ctx.block_on(async move {
        let (written, file, _) = local.perform(WriteAt::new(os::memory_file(), "hello", 3)).await;
        assert_eq!(written.unwrap(), 5);
        let (read, _, buffer) = local.perform(ReadAt::new(file, vec![0; 16], 0)).await;
        buffer[..read.unwrap()].to_vec()
    });
    assert_eq!(read.unwrap(), b"\0\0\0hello");
}

pub(crate) fn many_operations_are_awaited_at_once(setup: &Setup) {
    const OPERATIONS: usize = 600;
    let ctx = setup.context();
    let (file, done) = (Rc::new(os::memory_file()), Count::default());
    (&*file).write_all(&[7; OPERATIONS]).unwrap();
    for n in 0..OPERATIONS {
        let (local, file, done) = (ctx.local_handle(), Rc::clone(&file), done.clone());
        drop(ctx.spawn(async move {
            let (read, _, buffer) = local.perform(ReadAt::new(file, vec![0; 1], n as u64)).await;
            assert_eq!((read.unwrap(), buffer[0]), (1, 7));
            done.bump();
        }));
    }
    turn_until(&ctx, || done.get() == OPERATIONS as u64);
}

/// The kernel has the buffer until the cancellation is done, and then it is freed.
pub(crate) fn a_dropped_perform_cancels_its_operation(setup: &Setup) {
    let ctx = setup.context();
    let (reader, mut writer) = io::pipe().unwrap();
    let reader = Rc::new(reader);
    let mut read = Box::pin(ctx.perform(ReadAt::new(Rc::clone(&reader), vec![0; 64], u64::MAX)));
    assert!(read.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    ctx.poll(false).unwrap();
    assert_eq!(Rc::strong_count(&reader), 2);
    drop(read);
    assert_eq!(Rc::strong_count(&reader), 2, "it is still in flight");
    turn_until(&ctx, || Rc::strong_count(&reader) == 1);
    writer.write_all(b"x").unwrap();
    settle(&ctx);
    let (mut byte, mut pipe) = ([0], &*reader);
    assert_eq!(io::Read::read(&mut pipe, &mut byte).unwrap(), 1, "nobody else has read it");
}

/// By a timeout, too; and the loop goes on.
pub(crate) fn a_timeout_cancels_an_operation(setup: &Setup) {
    let ctx = setup.context();
    let (reader, _writer) = io::pipe().unwrap();
    let reader = Rc::new(reader);
    let read = ctx.perform(ReadAt::new(Rc::clone(&reader), vec![0; 64], u64::MAX));
    let limited = ctx.timeout(std::time::Duration::from_millis(1), read);
    assert!(ctx.block_on(limited).unwrap().is_err());
    turn_until(&ctx, || Rc::strong_count(&reader) == 1);
}

pub(crate) fn a_dropped_context_ends_what_is_awaited(setup: &Setup) {
    let ctx = setup.context();
    let (reader, _writer) = io::pipe().unwrap();
    let reader = Rc::new(reader);
    let local = ctx.local_handle();
    let (in_task, outside) = (Rc::clone(&reader), Rc::clone(&reader));
    let task = ctx.spawn(async move {
        let read = local.perform(ReadAt::new(in_task, vec![0; 64], u64::MAX)).await;
        drop(read);
    });
    let mut read = pin!(ctx.perform(ReadAt::new(outside, vec![0; 64], u64::MAX)));
    let mut late = pin!(ctx.perform(ReadAt::new(Rc::clone(&reader), vec![0; 64], u64::MAX)));
    let mut nobody = Context::from_waker(Waker::noop());
    assert!(read.as_mut().poll(&mut nobody).is_pending());
    turn(&ctx);
    drop(ctx);
    assert_eq!(Rc::strong_count(&reader), 2, "only the one that was not started has the pipe");
    drop(task);
    assert!(read.as_mut().poll(&mut nobody).is_pending());
    let Poll::Ready((result, pipe, buffer)) = Pin::new(&mut late).poll(&mut nobody) else {
        panic!("it cannot be started")
    };
    assert_eq!(result.unwrap_err().kind(), ErrorKind::NotConnected);
    assert!(Rc::ptr_eq(&pipe, &reader) && buffer.len() == 64);
}

pub(crate) fn an_awaited_operation_is_refused_with_the_reason(setup: &Setup) {
    let ctx = setup.context();
    let file = os::memory_file();
    let (result, _, buffer) = ctx.block_on(ctx.perform(ReadAt::new(file, vec![0; 16], 0))).unwrap();
    let error = result.unwrap_err();
    assert_eq!((error.kind(), buffer.len()), (ErrorKind::Unsupported, 16));
    assert!(error.to_string().contains("io_uring"), "{error}");
}
