//! Lines of the log as text and JSON, their limit, and the file that they go to.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tracing::level_filters::LevelFilter;
use virtio_blk_sim::log::{self, Format, Line, Subscriber};

/// The log of a process has one place to go, so these tests run one after the other.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A directory of its own, removed at the end.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("virtio-blk-sim-log-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn lines(path: &Path) -> Vec<String> {
    BufReader::new(File::open(path).unwrap()).lines().map(Result::unwrap).collect()
}

/// Runs `work` with a subscriber and a log file of its own, and returns the lines.
fn logged(most: LevelFilter, format: Format, work: impl FnOnce()) -> Vec<String> {
    let directory = Directory::new();
    let path = directory.file("log");
    log::to_file(&path).unwrap();
    Subscriber::new(most, format).within(work);
    lines(&path)
}

/// A line as text, without the time; and as JSON, without the time.
fn both(work: impl Fn()) -> (String, Value) {
    let text = logged(LevelFilter::INFO, Format::Text, &work);
    let [text] = &text[..] else { panic!("one line: {text:?}") };
    let (time, rest) = text.split_once(' ').unwrap();
    assert!(is_time(time), "{time}");
    let json = logged(LevelFilter::INFO, Format::Json, &work);
    let [json] = &json[..] else { panic!("one line: {json:?}") };
    (rest.to_owned(), without_time(json))
}

fn is_time(text: &str) -> bool {
    let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    shape == "0000-00-00T00:00:00.000000Z"
}

fn without_time(line: &str) -> Value {
    let mut value: Value = serde_json::from_str(line).unwrap();
    let time = value.as_object_mut().unwrap().remove("timestamp").unwrap();
    assert!(is_time(time.as_str().unwrap()), "{time}");
    value
}

#[test]
fn an_event_is_a_line_of_text_or_a_json_object_with_its_fields() {
    let _alone = alone();
    let errno = io::Error::from_raw_os_error(libc::ENOSPC);
    let wrapped = io::Error::other(io::Error::from_raw_os_error(libc::EIO));
    let table: [(&dyn Fn(), &str, Value); 8] = [
        (
            &|| {
                Line::error(format_args!("no room: {errno}"))
                    .device("vm1")
                    .queue(3u16)
                    .sector(8)
                    .caused_by(&errno)
                    .write()
            },
            "ERROR vm1: no room: No space left on device (os error 28)",
            json!({"level": "ERROR", "target": "virtio_blk_sim", "device": "vm1", "queue": 3, "sector": 8,
                "errno": 28, "message": "no room: No space left on device (os error 28)"}),
        ),
        (
            &|| Line::warn(format_args!("wrapped")).caused_by(&wrapped).write(),
            "WARN wrapped",
            json!({"level": "WARN", "target": "virtio_blk_sim", "errno": 5, "message": "wrapped"}),
        ),
        (
            &|| {
                Line::warn(format_args!("no errno"))
                    .caused_by(&io::Error::from(io::ErrorKind::InvalidInput))
                    .write()
            },
            "WARN no errno",
            json!({"level": "WARN", "target": "virtio_blk_sim", "message": "no errno"}),
        ),
        (
            &|| log::line(format_args!("plain {}", 1)),
            "INFO plain 1",
            json!({"level": "INFO", "target": "virtio_blk_sim", "message": "plain 1"}),
        ),
        (
            &|| log::limited(format_args!("a peer's mistake")),
            "WARN a peer's mistake",
            json!({"level": "WARN", "target": "virtio_blk_sim", "message": "a peer's mistake"}),
        ),
        (
            &|| tracing::info!(target: "vhost-user-blk", disks = 2, "ready"),
            "INFO vhost-user-blk: ready",
            json!({"level": "INFO", "target": "vhost-user-blk", "disks": 2, "message": "ready"}),
        ),
        (
            // A name that a peer has chosen begins no line of its own.
            &|| Line::info(format_args!("x")).device("a\nvm2: b\u{1b}[2J").write(),
            r"INFO a\nvm2: b\u{1b}[2J: x",
            json!({"level": "INFO", "target": "virtio_blk_sim", "device": "a\nvm2: b\u{1b}[2J", "message": "x"}),
        ),
        (
            &|| tracing::warn!(target: "other", ok = true, part = 0.5, small = -1, what = ?Some(1), "{}", 'm'),
            "WARN other: m",
            json!({"level": "WARN", "target": "other", "ok": true, "part": 0.5, "small": -1, "what": "Some(1)",
                "message": "m"}),
        ),
    ];
    for (number, (event, text, object)) in table.into_iter().enumerate() {
        assert_eq!(both(event), (text.to_owned(), object), "row {number}");
    }
}

#[test]
fn levels_below_the_filter_are_not_written_and_not_counted_as_left_out() {
    let _alone = alone();
    log::left_out();
    let all = || {
        Line::error(format_args!("error")).write();
        (0..30).for_each(|_| Line::warn(format_args!("warn")).limited());
        Line::info(format_args!("info")).write();
        log::left_out();
    };
    let number = |most| logged(most, Format::Text, all).len();
    assert_eq!(number(LevelFilter::OFF), 0);
    assert_eq!(number(LevelFilter::ERROR), 1);
    // Ten, the note that more are left out, and how many.
    assert_eq!(number(LevelFilter::WARN), 13);
}

#[test]
fn a_line_has_at_most_4096_bytes_and_is_whole_json() {
    let _alone = alone();
    // Two bytes as text, and six or two as JSON.
    for long in ["\u{e9}".repeat(5000), "\u{1}".repeat(5000), format!("a{}", "\u{e9}".repeat(2046))] {
        let text = logged(LevelFilter::INFO, Format::Text, || log::line(format_args!("{long}")));
        assert!((4000..4096).contains(&text[0].len()), "{}", text[0].len());
        let json = logged(LevelFilter::INFO, Format::Json, || log::line(format_args!("{long}")));
        assert!((4000..4096).contains(&json[0].len()), "{}", json[0].len());
        let message = without_time(&json[0])["message"].as_str().unwrap().to_owned();
        assert!(long.starts_with(&message) && !message.is_empty());
    }
    // The fields are too long: the line is still whole.
    let json = logged(LevelFilter::INFO, Format::Json, || {
        Line::warn(format_args!("m")).device(&"x".repeat(10_000)).write();
    });
    assert_eq!(without_time(&json[0])["level"], "WARN");
}

#[test]
fn a_place_that_a_peer_can_reach_is_limited_also_in_json() {
    let _alone = alone();
    log::left_out();
    let lines = logged(LevelFilter::INFO, Format::Json, || {
        for number in 0..500 {
            Line::warn(format_args!("mistake {number}")).device("vm1").queue(1u16).limited();
        }
        log::left_out();
    });
    let events: Vec<Value> = lines.iter().map(|line| without_time(line)).collect();
    assert_eq!(events.len(), 12);
    for (number, event) in events[..10].iter().enumerate() {
        assert_eq!(event["message"], format!("mistake {number}"));
    }
    assert_eq!(events[10]["message"], "(more lines like this one are left out for up to 10 s)");
    assert_eq!(events[11]["left_out"], 490);
}

/// The reader of a FIFO that takes no more lines.
fn full_fifo(path: &Path) -> File {
    rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::CLOEXEC;
    File::from(rustix::fs::open(path, flags, rustix::fs::Mode::empty()).unwrap())
}

#[test]
fn lines_that_are_not_taken_are_lost_and_counted() {
    let _alone = alone();
    for format in [Format::Text, Format::Json] {
        let directory = Directory::new();
        let path = directory.file("fifo");
        let mut reader = full_fifo(&path);
        log::to_file(&path).unwrap();
        let subscriber = Subscriber::new(LevelFilter::INFO, format);
        let line = "x".repeat(4000);
        // A FIFO takes 64 KiB. None of these lines waits for a reader.
        let sent = 100;
        subscriber.within(|| (0..sent).for_each(|_| log::line(format_args!("{line}"))));
        let mut taken = vec![0; 1 << 20];
        let mut read = |reader: &mut File| {
            let mut all = Vec::new();
            loop {
                match reader.read(&mut taken) {
                    Ok(0) => break,
                    Ok(n) => all.extend_from_slice(&taken[..n]),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => panic!("{error}"),
                }
            }
            String::from_utf8(all).unwrap().lines().map(str::to_owned).collect::<Vec<_>>()
        };
        let first = read(&mut reader);
        assert!((10..sent).contains(&first.len()), "{}", first.len());
        subscriber.within(|| log::line(format_args!("after")));
        let second = read(&mut reader);
        assert_eq!(second.len(), 2, "{second:?}");
        let lost = sent - first.len();
        let note = format!("({lost} lines of the log were lost: the file did not take them)");
        match format {
            Format::Text => assert_eq!(second[0], note),
            Format::Json => {
                let expected =
                    json!({"level": "WARN", "target": "virtio_blk_sim", "lost": lost, "message": note});
                assert_eq!(without_time(&second[0]), expected);
            }
        }
        assert!(second[1].contains("after"));
        // Nobody reads any more: no signal, and nothing waits.
        drop(reader);
        subscriber.within(|| log::line(format_args!("to nobody")));
        // The next log has a note about this one, which is of no interest there.
        log::to_file(&directory.file("rest")).unwrap();
        subscriber.within(|| log::line(format_args!("rest")));
    }
}

#[test]
fn rotation_under_load_loses_no_line() {
    let _alone = alone();
    const THREADS: usize = 4;
    const ROTATIONS: usize = 20;
    let directory = Directory::new();
    let path = directory.file("log");
    log::to_file(&path).unwrap();
    let subscriber = Subscriber::new(LevelFilter::INFO, Format::Text);
    let stop = AtomicBool::new(false);
    let written: Vec<u32> = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..THREADS)
            .map(|thread| {
                let stop = &stop;
                scope.spawn(move || {
                    subscriber.within(|| {
                        let mut number = 0;
                        while !stop.load(Ordering::Relaxed) && number < 100_000 {
                            log::line(format_args!("{thread} {number}"));
                            number += 1;
                        }
                        number
                    })
                })
            })
            .collect();
        for rotation in 0..ROTATIONS {
            // Some lines go to each file, whichever thread is scheduled.
            while std::fs::metadata(&path).unwrap().len() < 200 {
                std::thread::yield_now();
            }
            std::fs::rename(&path, directory.file(&rotation.to_string())).unwrap();
            log::reopen().unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    // Each thread's lines are there, once, and in their order.
    let files = (0..ROTATIONS).map(|rotation| directory.file(&rotation.to_string())).chain([path]);
    let mut next = [0; THREADS];
    for line in files.flat_map(|file| lines(&file)) {
        let mut words = line.split(' ').skip(2).map(|word| word.parse::<usize>().unwrap());
        let (thread, number) = (words.next().unwrap(), words.next().unwrap());
        assert_eq!(number, next[thread] as usize);
        next[thread] += 1;
    }
    assert_eq!(next.to_vec(), written);
}

#[test]
fn a_file_that_cannot_be_opened_again_stays_in_use_and_says_so() {
    let _alone = alone();
    let directory = Directory::new();
    let (inside, moved) = (directory.file("logs"), directory.file("moved"));
    std::fs::create_dir(&inside).unwrap();
    log::to_file(&inside.join("log")).unwrap();
    std::fs::rename(&inside, &moved).unwrap();
    Subscriber::new(LevelFilter::INFO, Format::Text).within(|| {
        assert_eq!(log::reopen().unwrap_err().kind(), io::ErrorKind::NotFound);
        log::line(format_args!("after"));
    });
    let lines = lines(&moved.join("log"));
    assert!(lines[0].contains("cannot be opened, so the old one stays in use: No such file"), "{lines:?}");
    assert!(lines[1].ends_with("INFO after"), "{lines:?}");
    // A directory is no log file: the log goes on where it was.
    assert!(log::to_file(&directory.0).is_err());
}

#[test]
fn without_a_subscriber_a_line_is_written_as_text() {
    let _alone = alone();
    let directory = Directory::new();
    let path = directory.file("log");
    log::to_file(&path).unwrap();
    // This thread has no subscriber.
    Line::error(format_args!("{}", "said")).device("vm1").queue(1u16).write();
    assert_eq!(lines(&path), ["vm1: said"]);
}
