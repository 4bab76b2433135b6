use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

/// A directory that is removed on drop.
struct TempDir(PathBuf);

impl TempDir {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("bind-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("vm.sock")
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A socket of this type at `path`, bound but not listening.
fn bound(path: &Path, kind: libc::c_int) -> OwnedFd {
    let address = address_of(path);
    // SAFETY: takes integers.
    let fd = unsafe { libc::socket(libc::AF_UNIX, kind | libc::SOCK_CLOEXEC, 0) };
    // SAFETY: the kernel has just returned this descriptor; nobody else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let size = size_of_val(&address) as libc::socklen_t;
    // SAFETY: `address` is ours and has `size` bytes.
    assert_eq!(unsafe { libc::bind(fd, (&raw const address).cast(), size) }, 0);
    socket
}

fn listen(socket: &OwnedFd, backlog: i32) {
    // SAFETY: takes integers.
    assert_eq!(unsafe { libc::listen(socket.as_raw_fd(), backlog) }, 0);
}

fn inode(path: &Path) -> u64 {
    std::fs::symlink_metadata(path).unwrap().ino()
}

#[test]
fn a_socket_is_removed_with_its_server() {
    let directory = TempDir::new();
    let (_listener, file) = bind(&directory.socket()).unwrap();
    assert_eq!(std::fs::metadata(directory.socket()).unwrap().mode() & 0o777, 0o600);
    drop(file);
    assert!(!directory.socket().exists());
}

#[test]
fn what_took_the_place_of_the_socket_is_not_removed() {
    let directory = TempDir::new();
    let path = directory.socket();
    // A file, a successor's socket, and nothing.
    let (listener, file) = bind(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "somebody's").unwrap();
    drop((listener, file));
    assert_eq!(std::fs::read(&path).unwrap(), b"somebody's");
    std::fs::remove_file(&path).unwrap();

    for _ in 0..100 {
        // The listener is closed first: the successor may get the number of an inode that is free.
        let (listener, file) = bind(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        drop(listener);
        let (successor, its_file) = bind(&path).unwrap();
        drop(file);
        UnixStream::connect(&path).unwrap();
        drop((successor, its_file));
        assert!(!path.exists());
    }
    let (listener, file) = bind(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    drop((listener, file));
}

/// The name is relative to the directory that it was bound in, whatever the directory is called by
/// the time it is removed.
#[test]
fn a_socket_in_a_renamed_directory_is_removed() {
    let (directory, other) = (TempDir::new(), TempDir::new());
    let (listener, file) = bind(&directory.socket()).unwrap();
    std::fs::rename(&directory.0, other.0.join("renamed")).unwrap();
    drop((listener, file));
    assert_eq!(std::fs::read_dir(other.0.join("renamed")).unwrap().count(), 0);
}

/// Calls `test` with a socket of each type that is bound at a path, listening or not. The last
/// argument tells whether it accepts stream connections.
fn with_each_socket(test: impl Fn(&Path, OwnedFd, bool)) {
    for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM, libc::SOCK_SEQPACKET] {
        for listens in [false, true] {
            let directory = TempDir::new();
            let path = directory.socket();
            let socket = bound(&path, kind);
            if listens && kind != libc::SOCK_DGRAM {
                listen(&socket, 5);
            }
            println!("type {kind}, listens: {listens}"); // printed when the test fails
            test(&path, socket, listens && kind == libc::SOCK_STREAM);
        }
    }
}

#[test]
fn a_socket_of_any_type_that_nobody_has_open_is_replaced() {
    with_each_socket(|path, socket, _| {
        drop(socket);
        assert!(path.exists());
        let (_listener, _file) = bind(path).unwrap();
        UnixStream::connect(path).unwrap();
    });
}

#[test]
fn a_socket_of_any_type_that_somebody_has_open_stays() {
    with_each_socket(|path, _socket, is_server| {
        let before = inode(path);
        let error = bind(path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
        assert_eq!(error.to_string().contains("another server listens"), is_server, "{error}");
        assert_eq!(inode(path), before);
    });
}

/// connect(2) would block.
#[test]
fn a_server_with_a_full_queue_of_connections_is_alive() {
    let directory = TempDir::new();
    let path = directory.socket();
    let socket = bound(&path, libc::SOCK_STREAM);
    listen(&socket, 0);
    let _waiting = UnixStream::connect(&path).unwrap();
    let start = Instant::now();
    let error = bind(&path).unwrap_err();
    assert!(error.to_string().contains("another server listens"), "{error}");
    assert!(start.elapsed() < DYING, "{:?}", start.elapsed());
}

/// A daemon whose parent called listen(2) and ended: the credentials name a process that is dead,
/// and the socket is not.
#[test]
fn the_server_of_a_parent_that_ended_is_alive() {
    let directory = TempDir::new();
    let path = directory.socket();
    let socket = bound(&path, libc::SOCK_STREAM);
    // SAFETY: the child makes two system calls that are safe after a fork with threads.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: as above.
        unsafe {
            libc::listen(socket.as_raw_fd(), 5);
            libc::_exit(0);
        }
    }
    let mut status = 0;
    // SAFETY: waits for our own child.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0);
    let error = bind(&path).unwrap_err();
    assert!(error.to_string().contains("another server listens"), "{error}");
}

#[test]
fn other_files_stay() {
    let directory = TempDir::new();
    let path = directory.socket();
    std::fs::write(&path, "a disk, perhaps").unwrap();
    assert_eq!(bind(&path).unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(std::fs::read(&path).unwrap(), b"a disk, perhaps");
    // A link, even to a socket that nobody has open.
    drop(bound(&directory.0.join("dead"), libc::SOCK_STREAM));
    std::fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("dead", &path).unwrap();
    assert_eq!(bind(&path).unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert!(std::fs::symlink_metadata(&path).unwrap().is_symlink());
}

#[test]
fn a_path_without_a_name_is_refused() {
    for path in ["", "/", "somewhere/.."] {
        assert_eq!(bind(Path::new(path)).unwrap_err().kind(), ErrorKind::InvalidInput, "{path}");
    }
}

/// Of servers that start at the same time on the socket of a dead one, exactly one gets the name.
#[test]
fn one_of_many_servers_gets_the_name() {
    for _ in 0..20 {
        let directory = TempDir::new();
        let path = directory.socket();
        drop(bound(&path, libc::SOCK_STREAM));
        let path = &path;
        let outcomes: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(move || bind(path).ok())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let winners: Vec<_> = outcomes.into_iter().flatten().collect();
        assert_eq!(winners.len(), 1);
        UnixStream::connect(path).unwrap();
    }
}

/// A lock that somebody else holds for ever delays a server, and does not stop it.
#[test]
fn a_locked_directory_is_used_all_the_same() {
    let directory = TempDir::new();
    let locked = File::open(&directory.0).unwrap();
    let _lock = DirectoryLock::take(&locked).unwrap();
    let (_listener, file) = bind(&directory.socket()).unwrap();
    drop(file);
    assert!(!directory.socket().exists());
}
