use super::*;
use crate::blk::backend::tests::TempFile;

/// Opens the image once more and locks it. Each opening has locks of its own.
fn lock(file: &TempFile, write: bool) -> Result<FileImage, LockError> {
    let image = FileImage::open(file.path(), !write, false).unwrap();
    try_lock(image.file(), write).map(|()| image)
}

/// Returns the bytes that another open file could not lock exclusively.
fn locked_bytes(file: &TempFile) -> Vec<i64> {
    let other = File::open(file.path()).unwrap();
    let is_locked = |byte: &i64| {
        let mut found = range(libc::F_WRLCK, *byte, 1);
        call(&other, libc::F_OFD_GETLK, &mut found).unwrap();
        found.l_type != libc::F_UNLCK as libc::c_short
    };
    (0..1000).filter(is_locked).collect()
}

#[test]
fn a_writer_is_alone_and_readers_share() {
    let file = TempFile::with(&[0; 512]);
    let writer = lock(&file, true).unwrap();
    assert_eq!(locked_bytes(&file), [100, 101, 201]);
    for write in [false, true] {
        assert!(matches!(lock(&file, write), Err(LockError::InUse("writes to it"))));
        // The attempt left nothing behind.
        assert_eq!(locked_bytes(&file), [100, 101, 201]);
    }
    drop(writer);
    assert_eq!(locked_bytes(&file), [0_i64; 0]);
    let readers = [(); 3].map(|()| lock(&file, false).unwrap());
    assert_eq!(locked_bytes(&file), [100, 201]);
    let refused = lock(&file, true);
    assert!(matches!(refused, Err(LockError::InUse("uses it and lets nobody write to it"))), "{refused:?}");
    drop(readers);
    lock(&file, true).unwrap();
}

/// An exclusive lock of a program that does not follow QEMU's rules.
#[test]
fn an_exclusive_lock_of_another_program_is_respected() {
    let file = TempFile::with(&[0; 512]);
    let other = File::options().read(true).write(true).open(file.path()).unwrap();
    call(&other, libc::F_OFD_SETLK, &mut range(libc::F_WRLCK, 0, 0)).unwrap();
    assert!(matches!(lock(&file, false), Err(LockError::InUse("has locked it"))));
}

#[test]
fn a_user_that_ends_in_time_is_waited_for() {
    let file = TempFile::with(&[0; 512]);
    let first = lock(&file, true).unwrap();
    let second = FileImage::open(file.path(), false, false).unwrap();
    let ends = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        drop(first);
    });
    second.lock().unwrap();
    ends.join().unwrap();
    assert!(FileImage::open(file.path(), false, false).unwrap().lock().is_err());
}

/// Another program that tries to lock the image has locks for a moment.
#[test]
fn locking_again_does_not_lose_the_lock_to_an_attempt_of_another() {
    let file = TempFile::with(&[0; 512]);
    let image = FileImage::open(file.path(), false, false).unwrap();
    image.try_lock().unwrap();
    let attempt = File::open(file.path()).unwrap();
    for byte in [HELD + READ, HELD + WRITE, NOT_SHARED + WRITE] {
        call(&attempt, libc::F_OFD_SETLK, &mut range(libc::F_RDLCK, byte, 1)).unwrap();
    }
    image.try_lock().unwrap();
    drop(attempt);
    assert_eq!(locked_bytes(&file), [100, 101, 201]);
    image.unlock();
    assert_eq!(locked_bytes(&file), [0_i64; 0]);
    image.unlock();
    image.try_lock().unwrap();
    assert_eq!(locked_bytes(&file), [100, 101, 201]);
}
