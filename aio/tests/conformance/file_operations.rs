//! What each operation on files does: once with success, once with its error.

use crate::safe_operations::{begin, cancelled, end, errno, finish};
use crate::setup::Setup;
use crate::support::{os, settle};
use aio::AioContext;
use aio::op::{Close, Cwd, Fallocate, Fsync, OpenAt, Part, ReadAt, Readv, Splice, Statx, WriteAt, Writev};
use std::fs::File;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

fn content(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

pub(crate) fn every_kind_of_buffer_is_written_and_read(setup: &Setup) {
    let ctx = setup.context();
    let file = Rc::new(os::memory_file());
    let write = |written: io::Result<usize>, len: usize| assert_eq!(written.unwrap(), len);
    write(finish(&ctx, WriteAt::new(Rc::clone(&file), "text", 0)).0, 4);
    write(finish(&ctx, WriteAt::new(Rc::clone(&file), String::from("string"), 4)).0, 6);
    write(finish(&ctx, WriteAt::new(Rc::clone(&file), b"bytes".as_slice(), 10)).0, 5);
    write(finish(&ctx, WriteAt::new(Rc::clone(&file), Rc::<[u8]>::from(*b"rc"), 15)).0, 2);
    write(finish(&ctx, WriteAt::new(Rc::clone(&file), Arc::<[u8]>::from(*b"arc"), 17)).0, 3);
    write(finish(&ctx, WriteAt::new(Rc::clone(&file), b"vec".to_vec(), 20)).0, 3);
    let part = Part::new(Box::<[u8]>::from(*b"boxed"), 1..3);
    write(finish(&ctx, WriteAt::new(Rc::clone(&file), part, 23)).0, 2);
    assert_eq!(content(&file), b"textstringbytesrcarcvecox");

    let (read, _, buffer) = finish(&ctx, ReadAt::new(Rc::clone(&file), vec![0xff; 6], 4));
    assert_eq!((read.unwrap(), buffer.as_slice()), (6, &b"string"[..]));
    let (read, _, buffer) = finish(&ctx, ReadAt::new(Rc::clone(&file), Box::<[u8]>::from([0xff; 9]), 20));
    assert_eq!((read.unwrap(), &*buffer), (5, &b"vecox\xff\xff\xff\xff"[..]), "to the end of the file");
    let leaked: &'static mut [u8] = Box::leak(Box::from([0; 4]));
    let (read, _, buffer) = finish(&ctx, ReadAt::new(Rc::clone(&file), leaked, 0));
    assert_eq!((read.unwrap(), &*buffer), (4, &b"text"[..]));
    let part = Part::new(vec![b'.'; 6], 2..4);
    let (read, _, part) = finish(&ctx, ReadAt::new(Rc::clone(&file), part, 0));
    assert_eq!((read.unwrap(), part.into_inner().as_slice()), (2, &b"..te.."[..]));
    for outside in [7..9, Range { start: 3, end: 2 }, 6..6] {
        let (read, _, part) =
            finish(&ctx, ReadAt::new(Rc::clone(&file), Part::new(vec![b'.'; 6], outside), 0));
        assert_eq!((read.unwrap(), part.into_inner()), (0, vec![b'.'; 6]));
    }
    let (read, _, _) = finish(&ctx, ReadAt::new(Rc::clone(&file), Vec::new(), 0));
    assert_eq!(read.unwrap(), 0, "an empty buffer");
}

pub(crate) fn the_position_of_a_file_is_used_and_moved(setup: &Setup) {
    let ctx = setup.context();
    let mut file = os::memory_file();
    let mut written = None;
    for piece in ["ab", "cd"] {
        let (result, same, _) = finish(&ctx, WriteAt::new(file, piece, u64::MAX));
        (file, written) = (same, Some(result.unwrap()));
    }
    assert_eq!((written, content(&file)), (Some(2), b"abcd".to_vec()));
}

pub(crate) fn reads_and_writes_report_errors(setup: &Setup) {
    let ctx = setup.context();
    let (reader, writer) = io::pipe().unwrap();
    let (result, writer, buffer) = finish(&ctx, ReadAt::new(writer, vec![1, 2], 0));
    assert_eq!((errno(result), buffer), (Some(libc::EBADF), vec![1, 2]), "not open for reading");
    let (result, reader, _) = finish(&ctx, WriteAt::new(reader, "x", 0));
    assert_eq!(errno(result), Some(libc::EBADF), "not open for writing");
    let (result, writer, buffers) = finish(&ctx, Readv::new(writer, vec![vec![0; 2]; 2], 0));
    assert_eq!((errno(result), buffers.len()), (Some(libc::EBADF), 2));
    let (result, _writer, _) = finish(&ctx, Writev::new(writer, vec!["x"; 1025], 0));
    assert_eq!(errno(result), Some(libc::EINVAL), "more than IOV_MAX");
    let (result, _, buffers) = cancelled(&ctx, Readv::new(reader, vec![vec![0; 2]; 2], 0), true);
    assert_eq!((errno(result), buffers.len()), (Some(libc::ECANCELED), 2));
}

pub(crate) fn vectors_are_written_and_read(setup: &Setup) {
    let ctx = setup.context();
    let file = Rc::new(os::memory_file());
    let (written, _, buffers) =
        finish(&ctx, Writev::new(Rc::clone(&file), vec!["one", "", "two", "three"], 2));
    assert_eq!((written.unwrap(), buffers.len()), (11, 4));
    assert_eq!(content(&file), b"\0\0onetwothree");
    let buffers = vec![vec![0; 3], vec![0; 4], vec![0xff; 6]];
    let (read, _, buffers) = finish(&ctx, Readv::new(Rc::clone(&file), buffers, 2));
    assert_eq!(read.unwrap(), 11);
    assert_eq!(buffers, [&b"one"[..], b"twot", b"hree\xff\xff"]);
    let (reader, mut writer) = io::pipe().unwrap();
    let (output, _) = begin(&ctx, Readv::new(reader, vec![vec![0; 2]; 3], 0));
    settle(&ctx);
    writer.write_all(b"late").unwrap();
    let (read, _, buffers) = end(&ctx, &output);
    assert_eq!((read.unwrap(), buffers.concat().as_slice()), (4, &b"late\0\0"[..]));
}

pub(crate) fn storage_is_flushed_and_allocated(setup: &Setup) {
    let ctx = setup.context();
    let file = Rc::new(os::memory_file());
    finish(&ctx, Fsync::new(Rc::clone(&file))).0.unwrap();
    finish(&ctx, Fsync::data(Rc::clone(&file))).0.unwrap();
    let (reader, _writer) = io::pipe().unwrap();
    assert_eq!(errno(finish(&ctx, Fsync::new(reader)).0), Some(libc::EINVAL), "a pipe");

    finish(&ctx, Fallocate::new(Rc::clone(&file), 0, 4096, 4096)).0.unwrap();
    assert_eq!(content(&file), vec![0; 8192]);
    file.write_all_at(&[1; 8192], 0).unwrap();
    let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    finish(&ctx, Fallocate::new(Rc::clone(&file), punch, 4096, 4096)).0.unwrap();
    assert_eq!(content(&file), [[1; 4096], [0; 4096]].concat());
    assert_eq!(errno(finish(&ctx, Fallocate::new(file, 0, 0, 0)).0), Some(libc::EINVAL), "no length");
}

/// A directory of its own, removed when it is dropped.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        use std::sync::atomic::{AtomicU64, Ordering};
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("aio-conformance-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub(crate) fn a_path_is_opened_and_its_status_is_read(setup: &Setup) {
    let ctx = setup.context();
    let temporary = Directory::new();
    let directory = Rc::new(File::open(&temporary.0).unwrap());
    let create = OpenAt::new(Rc::clone(&directory), "file", libc::O_RDWR | libc::O_CREAT, 0o640).unwrap();
    let file = File::from(finish(&ctx, create).0.unwrap());
    assert!(os::is_close_on_exec(&file));
    file.write_all_at(b"twelve bytes", 0).unwrap();
    let by_path = finish(&ctx, OpenAt::new(Cwd, temporary.0.join("file"), libc::O_RDONLY, 0).unwrap()).0;
    assert_eq!(content(&File::from(by_path.unwrap())), b"twelve bytes");
    let absent = || OpenAt::new(Rc::clone(&directory), "absent", libc::O_RDONLY, 0).unwrap();
    assert_eq!(errno(finish(&ctx, absent()).0), Some(libc::ENOENT));
    let nul = OpenAt::new(Cwd, "a\0b", libc::O_RDONLY, 0).unwrap_err();
    assert_eq!(nul.kind(), io::ErrorKind::InvalidInput);

    let expected = file.metadata().unwrap();
    let of_file = finish(&ctx, Statx::of(file)).0.unwrap();
    let of_path = finish(&ctx, Statx::new(Rc::clone(&directory), "file", 0).unwrap()).0.unwrap();
    for status in [of_file, of_path] {
        assert_eq!((status.len(), status.inode(), status.mode()), (12, expected.ino(), expected.mode()));
        assert_eq!(
            (status.allocated(), status.block_size() as u64),
            (expected.blocks() * 512, expected.blksize())
        );
        assert!(
            status.is_file() && !status.is_directory() && !status.is_block_device() && !status.is_empty()
        );
    }
    let (status, directory) = finish(&ctx, Statx::of(directory));
    assert!(status.unwrap().is_directory());
    let absent = Statx::new(directory, "absent", libc::AT_SYMLINK_NOFOLLOW).unwrap();
    assert_eq!(errno(finish(&ctx, absent).0), Some(libc::ENOENT));
}

pub(crate) fn a_descriptor_is_closed_once(setup: &Setup) {
    let ctx = setup.context();
    let is_closed = |mut reader: &io::PipeReader| {
        os::set_nonblocking(reader);
        assert_eq!(reader.read(&mut [0]).unwrap(), 0, "the end of the stream");
    };
    let (reader, writer) = io::pipe().unwrap();
    finish(&ctx, Close::new(writer)).unwrap();
    is_closed(&reader);
    // Cancelled before the kernel has seen it: whichever wins, it is closed.
    let (reader, writer) = io::pipe().unwrap();
    let _ = cancelled(&ctx, Close::new(writer), false);
    is_closed(&reader);
    let (reader, writer) = io::pipe().unwrap();
    drop(Close::new(writer));
    is_closed(&reader);
    // Of a number that is not open.
    let number = os::closed_descriptor().as_raw_fd();
    assert_eq!(errno(finish(&ctx, Close::new(os::own(number)))), Some(libc::EBADF));
    // With the context, while it is queued.
    let (reader, writer) = io::pipe().unwrap();
    begin(&ctx, Close::new(writer));
    drop(ctx);
    is_closed(&reader);
}

pub(crate) fn bytes_are_spliced_through_a_pipe(setup: &Setup) {
    let ctx = setup.context();
    let (reader, mut writer) = io::pipe().unwrap();
    writer.write_all(b"hello").unwrap();
    let file = Rc::new(os::memory_file());
    let (moved, reader, _) = finish(&ctx, Splice::new(reader, None, Rc::clone(&file), Some(3), 100));
    assert_eq!((moved.unwrap(), content(&file)), (5, b"\0\0\0hello".to_vec()));
    let (moved, _, _writer) = finish(&ctx, Splice::new(Rc::clone(&file), Some(4), writer, None, 3));
    assert_eq!(moved.unwrap(), 3);
    let mut back = [0; 3];
    (&reader).read_exact(&mut back).unwrap();
    assert_eq!(&back, b"ell");
    let splice = Splice::new(Rc::clone(&file), Some(0), Rc::clone(&file), Some(0), 1);
    assert_eq!(errno(finish(&ctx, splice).0), Some(libc::EINVAL), "neither is a pipe");
    let too_far = Splice::new(Rc::clone(&file), Some(u64::MAX), io::pipe().unwrap().1, None, 1);
    assert!(!matches!(finish(&ctx, too_far).0, Ok(1..)), "beyond the end of any file");
    // One that waits blocks a worker of the kernel, which the cancellation interrupts.
    let (result, ..) = cancelled(&ctx, Splice::new(reader, None, file, Some(0), 1), true);
    let error = errno(result).unwrap();
    assert!([libc::ECANCELED, libc::EINTR].contains(&error), "{error}");
}

/// The types of the operations own what they were given: nothing is borrowed from the caller.
pub(crate) fn files_come_back(setup: &Setup) {
    fn same(ctx: &AioContext, file: OwnedFd) -> OwnedFd {
        let number = file.as_raw_fd();
        let (_, file, _) = finish(ctx, WriteAt::new(file, "x", 0));
        let (_, file) = finish(ctx, Fsync::new(file));
        let (_, file, _) = finish(ctx, Writev::new(file, vec!["y"], 1));
        let (_, file) = finish(ctx, Fallocate::new(file, 0, 0, 4));
        let (_, file) = finish(ctx, Statx::of(file));
        assert_eq!(file.as_raw_fd(), number);
        file
    }
    let ctx = setup.context();
    let file = File::from(same(&ctx, os::memory_file().into()));
    assert_eq!(content(&file), b"xy\0\0");
}
