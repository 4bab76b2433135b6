//! Dropping the submitter of operations in flight: the kernel must have finished with every buffer
//! before it is freed.
#![expect(unsafe_code, reason = "submits an SQE whose buffer the operation owns")]

use crate::operations::{Request, pipe, read};
use crate::setup::Setup;
use crate::support::{Count, settle, turn_until};
use aio::Operations;
use std::io::{self, Read, Write};
use std::rc::Rc;

pub(crate) fn dropping_operations_cancels_nothing(setup: &Setup) {
    let ctx = setup.context();
    let (reader, mut writer) = pipe();
    let (dropped, done) = (Count::default(), Count::default());
    let ops = ctx.operations({
        let done = done.clone();
        move |_, result, _: Request| {
            assert_eq!(result, 3);
            done.bump();
        }
    });
    let ops = ops.unwrap();
    read(&ops, Request::new(&reader, &dropped)).unwrap();
    drop(ops);
    settle(&ctx);
    assert_eq!(dropped.get(), 0);
    writer.write_all(b"abc").unwrap();
    turn_until(&ctx, || done.get() == 1);
    assert_eq!(dropped.get(), 1);
}

pub(crate) fn a_dropped_context_waits_for_the_kernel(setup: &Setup) {
    for entries in [2, 256] {
        let ctx = setup.builder().ring_entries(entries).build().unwrap();
        let (reader, writer) = pipe();
        let dropped = Count::default();
        let held = Rc::new(());
        let on_done = Rc::clone(&held);
        let ops =
            ctx.operations(move |_, _, _: Request| unreachable!("{on_done:?} nobody is called any more"));
        let ops = ops.unwrap();
        // Operations in the kernel, in the queue only, and completed but not reaped; with single
        // and with shared owners.
        for seen in [true, false] {
            for _ in 0..40 {
                read(&ops, Request::new(&reader, &dropped)).unwrap();
                let mut request = Request::new(&reader, &dropped);
                let entry = request.entry();
                // SAFETY: the request owns the buffer and the descriptor.
                let single = unsafe { ctx.submit(entry, request, |_, _, _| unreachable!("nor here")) };
                single.unwrap();
            }
            if seen {
                settle(&ctx);
            }
        }
        let notifiers: Vec<_> = (0..40).map(|_| setup.notifier()).collect();
        for notifier in &notifiers {
            ctx.add_notifier(notifier, |_| ()).unwrap().into_registration().detach();
            notifier.notify().unwrap();
        }
        assert_eq!(dropped.get(), 0);
        drop(ctx);
        // The single ones are dropped with the context, the shared ones with their owner.
        assert_eq!(dropped.get(), 80);
        drop(ops);
        assert_eq!((dropped.get(), Rc::strong_count(&held)), (160, 1));
        assert_eq!(Rc::strong_count(&reader), 1);
        drop(writer);
    }
}

pub(crate) fn a_dropped_context_leaves_nothing_in_the_kernel(setup: &Setup) {
    for _ in 0..10 {
        let ctx = setup.context();
        let (reader, mut writer) = pipe();
        let dropped = Count::default();
        let ops = ctx.operations(|_, _, _: Request| unreachable!("cancelled")).unwrap();
        for _ in 0..8 {
            read(&ops, Request::new(&reader, &dropped)).unwrap();
        }
        settle(&ctx);
        drop(ctx);
        drop(ops);
        assert_eq!(dropped.get(), 8);
        // A read that is still pending would receive this, and write it to freed memory.
        writer.write_all(&[b'x'; 8 * 16]).unwrap();
        drop(writer);
        let mut left = Vec::new();
        (&*reader).read_to_end(&mut left).unwrap();
        assert_eq!(left.len(), 8 * 16);
    }
}

pub(crate) fn captures_of_a_dropped_context_cannot_submit(setup: &Setup) {
    struct SubmitsOnDrop(Operations<Request>, Request, Count);
    impl Drop for SubmitsOnDrop {
        fn drop(&mut self) {
            for _ in 0..20 {
                let request = Request::new(&self.1.reader, &self.1.dropped);
                let e = read(&self.0, request).expect_err("the context is being dropped");
                assert_eq!(e.error.kind(), io::ErrorKind::NotConnected);
                self.2.bump();
            }
        }
    }
    let ctx = setup.builder().ring_entries(2).build().unwrap();
    let (reader, _writer) = pipe();
    let (dropped, refused) = (Count::default(), Count::default());
    let ops = ctx.operations(|_, _, _: Request| ()).unwrap();
    let capture = SubmitsOnDrop(ops, Request::new(&reader, &dropped), refused.clone());
    let notifier = setup.notifier();
    let bell = ctx.add_notifier(&notifier, move |_| _ = &capture).unwrap();
    drop(ctx);
    assert_eq!((refused.get(), dropped.get()), (20, 21));
    assert!(!bell.is_live());
}

pub(crate) fn after_the_context_nothing_is_taken(setup: &Setup) {
    let ctx = setup.context();
    let (reader, _writer) = pipe();
    let dropped = Count::default();
    let ops = ctx.operations(|_, _, _: Request| ()).unwrap();
    drop(ctx);
    let e = read(&ops, Request::new(&reader, &dropped)).unwrap_err();
    assert_eq!(e.error.kind(), io::ErrorKind::NotConnected);
    assert_eq!(dropped.get(), 0, "the request must be returned, not dropped");
    drop(e);
    assert_eq!((ops.in_flight(), dropped.get()), (0, 1));
}
