//! Files and buffers that are registered with the ring.

use crate::safe_operations::{begin, end, errno, finish};
use crate::setup::Setup;
use crate::socket_operations::is_at_end;
use crate::support::{os, settle};
use aio::op::{Fsync, Part, ReadAt, RegisteredBuffer, Splice, StableBuffer, StableBufferMut, WriteAt};
use aio::{AioContext, FixedBuffer, FixedFile};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::rc::Rc;

/// `None`, and a message, on a kernel before 5.19.
fn register(ctx: &AioContext, file: &impl std::os::fd::AsFd) -> Option<FixedFile> {
    match ctx.register_file(file) {
        Ok(file) => Some(file),
        Err(e) if e.kind() == io::ErrorKind::Unsupported => {
            eprintln!("skipped: {e}");
            None
        }
        Err(e) => panic!("{e}"),
    }
}

pub(crate) fn a_registered_file_needs_no_descriptor(setup: &Setup) {
    let ctx = setup.context();
    let file = os::memory_file();
    let Some(fixed) = register(&ctx, &file) else { return };
    drop(file);
    assert_eq!(finish(&ctx, WriteAt::new(fixed.clone(), "hello", 0)).0.unwrap(), 5);
    finish(&ctx, Fsync::new(fixed.clone())).0.unwrap();
    let (read, fixed, buffer) = finish(&ctx, ReadAt::new(fixed, vec![0; 8], 0));
    assert_eq!(&buffer[..read.unwrap()], b"hello");
    // Both ends of a splice.
    let (reader, writer) = io::pipe().unwrap();
    let (reader, writer) = (register(&ctx, &reader).unwrap(), register(&ctx, &writer).unwrap());
    let (moved, fixed, _) = finish(&ctx, Splice::new(fixed, Some(1), writer, None, 3));
    assert_eq!(moved.unwrap(), 3);
    let (moved, ..) = finish(&ctx, Splice::new(reader, None, fixed.clone(), Some(0), 8));
    assert_eq!(moved.unwrap(), 3);
    let (_, fixed, buffer) = finish(&ctx, ReadAt::new(fixed, vec![0; 5], 0));
    assert_eq!(buffer, b"elllo");
    assert_eq!(ctx.register_file(&os::closed_descriptor()).unwrap_err().raw_os_error(), Some(libc::EBADF));
    // On another ring, the slot could be any other file.
    let other = setup.context();
    let _decoys: Vec<_> = (0..8).map(|_| other.register_file(&os::memory_file()).unwrap()).collect();
    let (result, fixed, _) = finish(&other, WriteAt::new(fixed, "x", 0));
    assert_eq!(errno(result), Some(libc::EBADF));
    let (_writer, reader) = io::pipe().map(|(reader, writer)| (writer, reader)).unwrap();
    assert_eq!(errno(finish(&other, Splice::new(fixed, Some(0), reader, None, 1)).0), Some(libc::EBADF));
}

pub(crate) fn the_table_of_files_is_used_again(setup: &Setup) {
    let ctx = setup.context();
    let file = os::memory_file();
    let Some(first) = register(&ctx, &file) else { return };
    let mut all = vec![first];
    let full = loop {
        match ctx.register_file(&file) {
            Ok(fixed) => all.push(fixed),
            Err(error) => break error,
        }
        assert!(all.len() <= 1024);
    };
    assert_eq!(full.kind(), io::ErrorKind::StorageFull, "{full}");
    // A slot is free when the last handle was dropped, and not before.
    let clone = all[7].clone();
    all.remove(7);
    assert!(ctx.register_file(&file).is_err());
    drop(clone);
    let (reader, mut writer) = io::pipe().unwrap();
    let fixed = ctx.register_file(&reader).unwrap();
    writer.write_all(b"new").unwrap();
    let (read, fixed, buffer) = finish(&ctx, ReadAt::new(fixed, vec![0; 3], 0));
    assert_eq!((read.unwrap(), buffer.as_slice()), (3, &b"new"[..]), "not the file of before");
    assert!(ctx.register_file(&file).is_err());
    drop((fixed, all));
    for _ in 0..2000 {
        let fixed = ctx.register_file(&file).unwrap();
        drop(fixed);
    }
}

pub(crate) fn a_registration_ends_with_its_last_operation(setup: &Setup) {
    let ctx = setup.context();
    let (reader, writer) = io::pipe().unwrap();
    let (peer, mut peer_writer) = io::pipe().unwrap();
    let (Some(fixed), Some(reading)) = (register(&ctx, &writer), register(&ctx, &peer)) else { return };
    drop((writer, peer));
    let (output, _) = begin(&ctx, ReadAt::new(reading, vec![0; 4], 0));
    settle(&ctx);
    peer_writer.write_all(b"late").unwrap();
    let (read, reading, buffer) = end(&ctx, &output);
    assert_eq!((read.unwrap(), buffer.as_slice()), (4, &b"late"[..]));
    drop(reading);
    os::set_nonblocking(&reader);
    assert_eq!((&reader).read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock, "still open");
    drop(fixed);
    settle(&ctx);
    is_at_end(&reader);
    drop(ctx);
    assert_eq!(peer_writer.write(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}

fn registered(ctx: &AioContext, buffer: Vec<u8>) -> Option<FixedBuffer<Vec<u8>>> {
    match ctx.register_buffer(buffer) {
        Ok(buffer) => Some(buffer),
        Err(e)
            if e.error.kind() == io::ErrorKind::Unsupported
                || e.error.raw_os_error() == Some(libc::ENOMEM) =>
        {
            eprintln!("skipped: {e}");
            None
        }
        Err(e) => panic!("{e}"),
    }
}

pub(crate) fn a_registered_buffer_is_written_and_read(setup: &Setup) {
    let ctx = setup.context();
    let file = Rc::new(os::memory_file());
    let Some(mut buffer) = registered(&ctx, vec![b'a'; 10_000]) else { return };
    for round in 0..3_u8 {
        buffer.as_mut_slice().fill(b'a' + round);
        let (written, _, mut same) = finish(&ctx, WriteAt::new(Rc::clone(&file), buffer, 0));
        assert_eq!(written.unwrap(), 10_000);
        same.as_mut_slice().fill(0);
        let (read, _, same) = finish(&ctx, ReadAt::new(Rc::clone(&file), same, 0));
        assert_eq!((read.unwrap(), same.get_ref().as_slice()), (10_000, &[b'a' + round; 10_000][..]));
        buffer = same;
    }
    // A part of it, and with a registered file.
    let fixed = ctx.register_file(&*file).unwrap();
    file.write_all_at(b"part", 100).unwrap();
    let (read, _, part) = finish(&ctx, ReadAt::new(fixed, Part::new(buffer, 5000..5004), 100));
    let buffer = part.into_inner();
    assert_eq!((read.unwrap(), &buffer.get_ref()[4999..5005]), (4, &b"cpartc"[..]));
    // On another ring it is ordinary memory.
    let other = setup.context();
    let _decoy = other.register_buffer(vec![0; 100]).unwrap();
    let (read, _, buffer) = finish(&other, ReadAt::new(Rc::clone(&file), buffer, 100));
    assert_eq!((read.unwrap(), &buffer.get_ref()[..4]), (9_900, &b"part"[..]));
    assert_eq!(buffer.into_inner().len(), 10_000);
}

/// A piece of memory that many operations share, as those of one guest do.
struct Piece(Rc<FixedBuffer<Vec<u8>>>, usize);

// SAFETY: eight bytes inside the buffer. The test gives each operation another piece, and looks at
// them when none is in flight.
#[expect(unsafe_code, reason = "a buffer of the test's own")]
unsafe impl StableBuffer for Piece {
    fn stable_ptr(&self) -> *const u8 {
        self.0.stable_ptr().wrapping_add(8 * self.1)
    }

    fn byte_len(&self) -> usize {
        8
    }

    fn registered(&self) -> Option<RegisteredBuffer> {
        self.0.registered()
    }
}

// SAFETY: as above; the pointer comes from a vector that nobody borrows meanwhile.
#[expect(unsafe_code, reason = "a buffer of the test's own")]
unsafe impl StableBufferMut for Piece {
    fn stable_mut_ptr(&mut self) -> *mut u8 {
        self.stable_ptr().cast_mut()
    }
}

pub(crate) fn many_operations_share_one_registered_buffer(setup: &Setup) {
    let ctx = setup.context();
    let file = Rc::new(os::memory_file());
    let content: Vec<u8> = (0..=255).collect();
    file.write_all_at(&content, 0).unwrap();
    let Some(buffer) = registered(&ctx, vec![0; 256]) else { return };
    let buffer = Rc::new(buffer);
    let pieces: Vec<_> = (0..32)
        .map(|n| begin(&ctx, ReadAt::new(Rc::clone(&file), Piece(Rc::clone(&buffer), n), 8 * n as u64)).0)
        .collect();
    for piece in &pieces {
        assert_eq!(end(&ctx, piece).0.unwrap(), 8);
    }
    let buffer = Rc::into_inner(buffer).expect("the only owner again");
    assert_eq!(buffer.into_inner(), content);
}

pub(crate) fn the_table_of_buffers_is_used_again(setup: &Setup) {
    let ctx = setup.context();
    let Some(first) = registered(&ctx, vec![1; 64]) else { return };
    let second = ctx.register_buffer(vec![2; 64]).unwrap();
    assert_eq!(first.into_inner(), vec![1; 64]);
    let file = Rc::new(os::memory_file());
    // More than the table has slots.
    for n in 0..1500_u32 {
        let buffer = ctx.register_buffer(n.to_le_bytes().to_vec()).unwrap();
        if n % 100 == 0 {
            let (written, _, buffer) = finish(&ctx, WriteAt::new(Rc::clone(&file), buffer, 0));
            let mut back = [0; 4];
            file.read_exact_at(&mut back, 0).unwrap();
            assert_eq!((written.unwrap(), u32::from_le_bytes(back)), (4, n));
            assert_eq!(buffer.into_inner(), n.to_le_bytes());
        }
    }
    let refused = ctx.register_buffer(Vec::new()).unwrap_err();
    assert_eq!(refused.error.kind(), io::ErrorKind::InvalidInput);
    // Dropped while an operation uses it, and with the context.
    let (reader, _writer) = io::pipe().unwrap();
    begin(&ctx, ReadAt::new(reader, second, 0));
    settle(&ctx);
    drop(ctx);
}
