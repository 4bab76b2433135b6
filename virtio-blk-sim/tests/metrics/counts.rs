//! The numbers are exact.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use aio::{AioContext, IoThread};
use virtio_blk_sim::blk::backend::{Backend, Delay, FileImage, Null};
use virtio_blk_sim::metrics::{Exporter, Frontends};

use super::openmetrics::Document;
use super::rig::{DISCARD, FLUSH, GET_ID, Guest, Posted, READ, SECTORS, UNKNOWN, WRITE, ZEROES, disk};

const DURATION: &str = "virtio_blk_request_duration_seconds";

fn text(context: &AioContext, exporter: &Exporter) -> Document {
    let text = context.block_on(exporter.text()).unwrap().unwrap();
    Document::parse(&text).unwrap_or_else(|why| panic!("{why}\n{text}"))
}

fn count(document: &Document, name: &str, operation: &str) -> Option<f64> {
    document.get(name, &[("disk", "vm1"), ("queue", "0"), ("operation", operation)])
}

/// An image of its own, without a name.
fn image(sectors: u64) -> (Arc<FileImage>, File) {
    let path = std::env::temp_dir().join(format!("virtio-blk-sim-metrics-{}-{sectors}", std::process::id()));
    let file = File::create_new(&path).unwrap();
    file.set_len(sectors * 512).unwrap();
    let image = FileImage::open(&path, false, false);
    std::fs::remove_file(&path).unwrap();
    (Arc::new(image.unwrap()), file)
}

#[test]
fn requests_and_bytes_are_counted_by_operation_and_times_add_up() {
    let delay = Delay { latency: Duration::from_micros(300), spin: false };
    let file = image(SECTORS).0;
    for backend in [
        Backend::Null(Null::default()),
        Backend::memory(SECTORS).unwrap(),
        Backend::Delay(delay),
        Backend::File(file),
    ] {
        let context = AioContext::new().unwrap();
        let exporter = Exporter::new(&context);
        let (disk, meters) = disk(backend.clone(), 1);
        exporter.add_disk("vm1", &meters, || Frontends {
            is_connected: true,
            sessions: 3,
            throttled_messages: 4,
            throttled_connections: 5,
        });
        let mut guest = Guest::new();
        let attached = guest.attach(&context, &disk, 0);
        for (request, times) in [
            (READ, 7),
            (WRITE, 5),
            (FLUSH, 3),
            (GET_ID, 2),
            (DISCARD, 4),
            (ZEROES, 6),
            (UNKNOWN, 1),
            (Posted(0, 0, 0, 0), 1),
        ] {
            (0..times).for_each(|_| guest.post(request));
        }
        guest.finish(&context);
        let document = text(&context, &exporter);
        for (operation, requests, bytes) in [
            ("read", 8, 7 * 4096),
            ("write", 5, 5 * 8192),
            ("flush", 3, 0),
            ("get-id", 2, 0),
            ("discard", 4, 4 * 4096),
            ("write-zeroes", 6, 6 * 4096),
            ("refused", 1, 0),
        ] {
            let what = format!("{operation} of {backend:?}");
            assert_eq!(
                count(&document, "virtio_blk_requests_total", operation),
                Some(requests.into()),
                "{what}"
            );
            let moved = count(&document, "virtio_blk_transferred_bytes_total", operation);
            assert_eq!(moved, Some(bytes.into()), "{what}");
            // The buckets up to the count were checked when the text was read.
            let timed = count(&document, &format!("{DURATION}_count"), operation);
            assert_eq!(timed, Some(requests.into()), "{what}");
            if matches!(backend, Backend::Delay(_)) && !["get-id", "refused", "read"].contains(&operation) {
                let sum = count(&document, &format!("{DURATION}_sum"), operation).unwrap();
                assert!(sum >= 300e-6 * f64::from(requests), "{what}: {sum}");
                // No request was as fast as the bound of this bucket.
                let labels = [("disk", "vm1"), ("operation", operation), ("queue", "0")];
                let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
                for (bound, count) in document.buckets(DURATION, &labels) {
                    assert!(bound >= 300e-6 || count == 0.0, "{what}: {count} up to {bound}");
                }
            }
        }
        let stats = attached.stats();
        assert_eq!(document.sum("virtio_blk_requests_total", &[]), stats.requests as f64);
        let of_queue = [("disk", "vm1"), ("queue", "0")];
        assert_eq!(document.get("virtio_blk_drains_total", &of_queue), Some(stats.drains as f64));
        assert_eq!(document.get("virtio_blk_ring_running", &of_queue), Some(1.0));
        assert_eq!(document.get("virtio_blk_frontend_connected", &[("disk", "vm1")]), Some(1.0));
        assert_eq!(document.get("virtio_blk_frontends_total", &[("disk", "vm1")]), Some(3.0));
        for (of, times) in [("messages", 4.0), ("connections", 5.0)] {
            let labels = [("disk", "vm1"), ("of", of)];
            assert_eq!(document.get("virtio_blk_frontend_throttled_total", &labels), Some(times));
        }
        assert_eq!(document.sum("virtio_blk_errors_total", &[]), 0.0);
    }
}

#[test]
fn errors_are_counted_by_operation_and_errno() {
    for pool in [false, true] {
        let builder = AioContext::builder();
        let builder = if pool { builder.monitor(aio::MonitorKind::Epoll) } else { builder };
        let context = builder.build().unwrap();
        let exporter = Exporter::new(&context);
        // The image ends before the disk does.
        let (image, file) = image(SECTORS);
        file.set_len(512 * 512).unwrap();
        let (first, meters) = disk(Backend::File(image), 1);
        exporter.add_disk("short", &meters, Frontends::default);
        // A file that cannot be written to.
        let path = std::env::temp_dir().join(format!("virtio-blk-sim-metrics-ro-{}", std::process::id()));
        std::fs::write(&path, vec![0; SECTORS as usize * 512]).unwrap();
        let image = FileImage::open(&path, true, false);
        std::fs::remove_file(&path).unwrap();
        let (second, meters) = disk(Backend::File(Arc::new(image.unwrap())), 1);
        exporter.add_disk("read-only", &meters, Frontends::default);

        let mut guests = [Guest::new(), Guest::new()];
        let attached = [guests[0].attach(&context, &first, 0), guests[1].attach(&context, &second, 0)];
        for guest in &mut guests {
            (0..3).for_each(|_| guest.post(Posted(0, 1024, 0, 4096)));
            (0..2).for_each(|_| guest.post(WRITE));
            guest.post(READ);
            guest.finish(&context);
        }
        let document = text(&context, &exporter);
        let errors = |disk, operation, errno| {
            let labels = [("disk", disk), ("queue", "0"), ("operation", operation), ("errno", errno)];
            document.get("virtio_blk_errors_total", &labels)
        };
        assert_eq!(errors("short", "read", "none"), Some(3.0));
        assert_eq!(errors("read-only", "write", "EBADF"), Some(2.0));
        assert_eq!(document.sum("virtio_blk_errors_total", &[]), 5.0);
        assert_eq!(document.sum("virtio_blk_requests_total", &[("disk", "short")]), 6.0);
        assert_eq!(document.sum("virtio_blk_requests_total", &[("disk", "read-only")]), 6.0);
        // What failed has moved nothing.
        let read = [("disk", "short"), ("operation", "read")];
        assert_eq!(document.sum("virtio_blk_transferred_bytes_total", &read), 4096.0);
        let written = [("disk", "read-only"), ("operation", "write")];
        assert_eq!(document.sum("virtio_blk_transferred_bytes_total", &written), 0.0);
        drop(attached);
    }
}

#[test]
fn counters_go_on_when_a_queue_starts_again_or_moves_to_another_loop() {
    let context = AioContext::new().unwrap();
    let exporter = Exporter::new(&context);
    let threads: Vec<_> = ["one", "two"]
        .map(|name| Arc::new(IoThread::spawn(name, AioContext::builder()).unwrap()))
        .into_iter()
        .inspect(|thread| exporter.add_loop(thread))
        .collect();
    let (disk, meters) = disk(Backend::memory(SECTORS).unwrap(), 2);
    exporter.add_disk("vm1", &meters, Frontends::default);
    let mut guest = Guest::new();
    let mut drains = 0;
    for round in 0..6_u16 {
        let thread = &threads[usize::from(round % 2)];
        let disk = Arc::clone(&disk);
        let (mut there, stats) = thread
            .run(move |context| {
                let attached = guest.attach(context, &disk, 1);
                (0..10).for_each(|_| guest.post(READ));
                guest.finish(context);
                let stopped = attached.stop(context).unwrap();
                (guest, stopped.stats)
            })
            .unwrap();
        there.answered = there.posted;
        guest = there;
        drains += stats.drains;
        let document = text(&context, &exporter);
        let of_queue = [("disk", "vm1"), ("queue", "1")];
        let of_reads = [("disk", "vm1"), ("queue", "1"), ("operation", "read")];
        let expected = f64::from(round + 1) * 10.0;
        assert_eq!(document.get("virtio_blk_requests_total", &of_reads), Some(expected));
        assert_eq!(document.get("virtio_blk_drains_total", &of_queue), Some(drains as f64));
        assert_eq!(document.get("virtio_blk_ring_running", &of_queue), Some(0.0));
        for name in ["main", "one", "two"] {
            assert_eq!(document.get("virtio_blk_loop_answered", &[("loop", name)]), Some(1.0));
            assert!(document.get("aio_turns_total", &[("loop", name)]).is_some(), "{name}");
        }
    }
    let names = |document: &Document| document.sum("virtio_blk_requests_total", &[("disk", "vm1")]);
    assert_eq!(names(&text(&context, &exporter)), 60.0);
    assert!(exporter.remove_disk("vm1") && !exporter.remove_disk("vm1"));
    assert_eq!(text(&context, &exporter).sum("virtio_blk_requests_total", &[]), 0.0);
    drop((exporter, threads));
}

#[test]
fn a_name_with_quotes_and_line_feeds_is_one_label() {
    let context = AioContext::new().unwrap();
    let exporter = Exporter::new(&context);
    let name = "a\"b\\c\nd{}= # EOF";
    let (_disk, meters) = disk(Backend::Null(Null::default()), 1);
    exporter.add_disk(name, &meters, Frontends::default);
    let document = text(&context, &exporter);
    assert_eq!(document.get("virtio_blk_frontends_total", &[("disk", name)]), Some(0.0));
}

#[test]
fn a_disk_without_meters_is_not_counted() {
    let context = AioContext::new().unwrap();
    let exporter = Exporter::new(&context);
    let (metered, meters) = disk(Backend::Null(Null::default()), 1);
    exporter.add_disk("vm1", &meters, Frontends::default);
    let plain = virtio_blk_sim::blk::Disk::shared(Arc::clone(&metered.device), metered.backend.clone());
    let mut guest = Guest::new();
    let attached = guest.attach(&context, &Arc::new(plain), 0);
    (0..9).for_each(|_| guest.post(READ));
    guest.finish(&context);
    assert_eq!(attached.stats().requests, 9);
    let document = text(&context, &exporter);
    assert_eq!(count(&document, "virtio_blk_requests_total", "read"), Some(0.0));
    // A queue that the meters do not have runs, and is not counted either.
    let mut other = Guest::new();
    let attached = other.attach(&context, &metered, 7);
    other.post(READ);
    other.finish(&context);
    assert_eq!(attached.stats().requests, 1);
    assert_eq!(text(&context, &exporter).sum("virtio_blk_requests_total", &[]), 0.0);
}
