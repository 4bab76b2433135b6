//! Each case runs in a child process: this test binary again, which restricts itself and then tries
//! something.
#![expect(unsafe_code, reason = "system calls that std has no function for")]

use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::ptr;

use super::*;

/// Environment variable: the name of the case that the child runs.
const CASE: &str = "VHOST_USER_BLK_SANDBOX_CASE";
/// Environment variable: a directory for the child, which contains a file `socket`.
const DIRECTORY: &str = "VHOST_USER_BLK_SANDBOX_DIRECTORY";

fn errno<T>(result: io::Result<T>) -> i32 {
    result.err().and_then(|error| error.raw_os_error()).unwrap_or(0)
}

/// The body of the child. Returns unless the sandbox kills the process.
fn act(case: &str, directory: &Path) {
    let sandbox = Sandbox::restrict_files(Some(&directory.join("socket"))).unwrap();
    if case == "files" {
        return only_the_name_of_the_socket_is_left(directory);
    }
    let monitor = case.starts_with("epoll: ").then_some(MonitorKind::Epoll);
    println!("{}", sandbox.restrict_calls(monitor, &[]).unwrap());
    match case {
        "thread" => {
            // The first allocation creates an arena; the last one returns the arena's memory.
            let thread =
                std::thread::spawn(|| (0..64_u8).map(|n| vec![n; 100_000]).collect::<Vec<_>>().len());
            assert_eq!(thread.join().unwrap(), 64);
            // SAFETY: clone3(2) without arguments creates nothing (EINVAL).
            assert_eq!(unsafe { libc::syscall(libc::SYS_clone3, ptr::null::<u8>(), 0) }, -1);
            assert_eq!(io::Error::last_os_error().raw_os_error(), Some(libc::ENOSYS), "clone3(2)");
        }
        "file" => {
            assert_eq!(errno(File::open("/proc/self/status")), libc::ENOSYS);
            assert_eq!(errno(File::create(directory.join("new"))), libc::ENOSYS);
            assert_eq!(errno(std::env::current_dir()), libc::ENOSYS);
            std::fs::remove_file(directory.join("socket")).unwrap();
        }
        "panic" => panic!("reports its place and unwinds"),
        "abort" => std::process::abort(),
        "socket" => drop(UnixDatagram::unbound()),
        "socket of a thread" => drop(std::thread::spawn(UnixDatagram::unbound).join()),
        "port" => drop(TcpListener::bind(("127.0.0.1", 0))),
        "program" => drop(Command::new("/bin/true").status()),
        "process" => {
            // SAFETY: the child only calls _exit(2), which is safe in a forked child.
            if unsafe { libc::fork() } == 0 {
                // SAFETY: as above.
                unsafe { libc::_exit(0) };
            }
        }
        "code" => {
            let access = libc::PROT_READ | libc::PROT_EXEC;
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            // SAFETY: a new mapping that nothing uses.
            let _ = unsafe { libc::mmap(ptr::null_mut(), 4096, access, flags, -1, 0) };
        }
        "signal" => {
            // SAFETY: only numbers are passed; signal 0 sends nothing. The target is the thread of
            // init.
            let _ = unsafe { libc::syscall(libc::SYS_tgkill, 1, 1, 0) };
        }
        "prctl" => {
            // SAFETY: PR_SET_DUMPABLE takes a number.
            let _ = unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) };
        }
        "directory" => drop(std::fs::create_dir(directory.join("new"))),
        "rename" => drop(std::fs::rename(directory.join("socket"), directory.join("new"))),
        "another filter" => drop(seccompiler::apply_filter(&programs(true, &[]).unwrap().0[0])),
        "ring" => drop(aio::AioContext::builder().monitor(MonitorKind::IoUring).build().unwrap()),
        "epoll: ring" => {
            let refused = aio::AioContext::builder().monitor(MonitorKind::IoUring).build().unwrap_err();
            assert!(refused.to_string().contains("has no io_uring"), "{refused}");
        }
        _ => panic!("unknown case {case}"),
    }
}

fn only_the_name_of_the_socket_is_left(directory: &Path) {
    let refused = || {
        assert_eq!(errno(File::open("/proc/self/status")), libc::EACCES);
        assert_eq!(errno(File::create(directory.join("new"))), libc::EACCES);
        assert_eq!(errno(std::fs::create_dir(directory.join("new"))), libc::EACCES);
        assert_eq!(errno(std::fs::rename(directory.join("socket"), directory.join("new"))), libc::EACCES);
        assert_eq!(errno(std::fs::remove_file(directory.with_extension("beside"))), libc::EACCES);
        assert_eq!(errno(Command::new("/bin/true").spawn()), libc::EACCES);
    };
    refused();
    std::thread::scope(|scope| scope.spawn(refused).join()).unwrap();
    std::fs::remove_file(directory.join("socket")).unwrap();
}

#[test]
#[ignore = "started by the other tests"]
fn child() {
    if let (Ok(case), Some(directory)) = (std::env::var(CASE), std::env::var_os(DIRECTORY)) {
        act(&case, Path::new(&directory));
    }
}

/// A temporary directory, removed on drop.
struct Directory(PathBuf);

impl Directory {
    fn new(case: &str) -> Self {
        let path = std::env::temp_dir().join(format!("sandbox-{}-{case}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("socket"), "").unwrap();
        std::fs::write(path.with_extension("beside"), "").unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.0.with_extension("beside"));
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs a case in a child. Returns the child's exit status and its output.
fn end_of(case: &str) -> (ExitStatus, String) {
    let directory = Directory::new(case);
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "sandbox::tests::child", "--ignored", "--nocapture"])
        .envs([(CASE, case), ("RUST_BACKTRACE", "full")])
        .env(DIRECTORY, &directory.0)
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(!said.contains("unknown case"), "{said}");
    (output.status, said)
}

#[test]
fn a_call_that_serving_does_not_need_ends_the_process() {
    for case in [
        "socket",
        "socket of a thread",
        "port",
        "program",
        "process",
        "code",
        "signal",
        "prctl",
        "directory",
        "rename",
        "another filter",
    ] {
        let (status, said) = end_of(case);
        assert!(said.contains("no_new_privs, seccomp ("), "{case}: {said}");
        assert_eq!(status.signal(), Some(libc::SIGSYS), "{case}: {status}, {said}");
    }
}

#[test]
fn what_serving_needs_still_works() {
    // A loop without io_uring finds none, as on a kernel that does not have it.
    for case in ["thread", "file", "ring", "epoll: ring"] {
        let (status, said) = end_of(case);
        assert!(status.success(), "{case}: {status}, {said}");
    }
}

#[test]
fn a_panic_still_reports_its_place() {
    let (status, said) = end_of("panic");
    assert_eq!(status.code(), Some(101), "{status}, {said}");
    assert!(said.contains("reports its place and unwinds") && said.contains("stack backtrace"), "{said}");
    let (status, said) = end_of("abort");
    assert_eq!(status.signal(), Some(libc::SIGABRT), "{status}, {said}");
}

#[test]
fn no_file_is_left_but_the_name_of_the_socket() {
    let has_landlock = std::thread::spawn(|| enforce(None).unwrap().ruleset != RulesetStatus::NotEnforced);
    if !has_landlock.join().unwrap() {
        println!("skipped: this kernel has no landlock");
        return;
    }
    let (status, said) = end_of("files");
    assert!(status.success(), "{status}, {said}");
}

#[test]
fn the_directory_of_a_path_is_named() {
    for (path, directory) in [("/run/a.sock", "/run"), ("a.sock", "."), ("b/a.sock", "b"), ("/a.sock", "/")] {
        assert_eq!(parent(Path::new(path)), Path::new(directory));
    }
}
