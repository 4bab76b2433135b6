//! Clients of the control socket that do what they should not.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};

use serde_json::json;

use super::Watchdog;
use super::daemon::{Control, Daemon, refused, text};
use super::process::Process;
use super::server::TempPath;

fn daemon() -> Daemon {
    Daemon::start("", &[("a", "null = \"1m\"")])
}

#[test]
fn requests_come_in_any_pieces() {
    let _watchdog = Watchdog::new("requests_come_in_any_pieces");
    let daemon = daemon();
    let mut control = daemon.connect();
    let request = "{\"execute\": \"statistics\", \"id\": 1}\n".repeat(3);
    let answer = "{\"return\": [{\"id\":\"a\",\"frontends\":0,\"throttled\":{\"messages\":0,\"connections\":0},\
                  \"queues\":[]}], \"id\": 1}";
    for size in [1, 2, 7, 50, request.len()] {
        for piece in request.as_bytes().chunks(size) {
            control.send(piece).unwrap();
        }
        (0..3).for_each(|_| assert_eq!(control.answer(), answer, "{size}"));
    }
    // A half line at the end is not carried out.
    control.send(b"{\"execute\": \"statistics\"}\n{\"execute\": \"quit\"}").unwrap();
    control.stream().shutdown(std::net::Shutdown::Write).unwrap();
    control.answer();
    assert_eq!(control.line(), None);
    daemon.connect().execute("list-disks", json!({})).unwrap();
}

#[test]
fn garbage_costs_an_error_and_a_huge_line_the_connection() {
    let _watchdog = Watchdog::new("garbage_costs_an_error_and_a_huge_line_the_connection");
    let daemon = daemon();
    let mut control = daemon.connect();
    let mut random: u64 = 0x9e37_79b9_7f4a_7c15;
    for length in 1..300 {
        let mut line: Vec<u8> = (0..length)
            .map(|_| {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (random >> 56) as u8
            })
            .filter(|byte| *byte != b'\n')
            .collect();
        line.extend(b"x\n");
        control.send(&line).unwrap();
        assert!(control.answer().starts_with("{\"error\": {\"class\": \"InvalidRequest\""), "{line:?}");
    }
    // Deep nesting costs no stack.
    let deep = "[".repeat(30_000) + &"]".repeat(30_000);
    let answer = control.ask(&format!("{{\"execute\": \"fly\", \"id\": {deep}}}"));
    assert!(answer.ends_with(&format!("\"id\": {deep}}}")), "{}", answer.len());
    let answer = control.ask(&format!("{{\"execute\": \"add-disk\", \"arguments\": {{\"id\": {deep}}}}}"));
    assert!(answer.contains("InvalidRequest"), "{answer}");
    // The longest line, and one that is longer.
    let longest = format!("{{\"execute\": \"fly\", \"id\": \"{}\"}}", "x".repeat(65_536 - 28));
    assert_eq!(longest.len(), 65_536);
    assert!(control.ask(&longest).contains("CommandNotFound"));
    // The server closes it without reading the rest, so this write may fail.
    let _ = control.send(&vec![b'x'; 1 << 20]);
    let error =
        "{\"error\": {\"class\": \"InvalidRequest\", \"desc\": \"the line is longer than 65536 bytes\"}}";
    assert_eq!(control.line().as_deref(), Some(error));
    assert_eq!(control.line(), None);
    daemon.connect().execute("list-disks", json!({})).unwrap();
}

#[test]
fn sixteen_clients_are_served_and_no_more() {
    let _watchdog = Watchdog::new("sixteen_clients_are_served_and_no_more");
    let daemon = daemon();
    for _ in 0..3 {
        let mut clients: Vec<Control> = (0..16).map(|_| daemon.connect()).collect();
        let mut refused = Control::silent(&daemon.control);
        let error = "{\"error\": {\"class\": \"GenericError\", \"desc\": \"16 clients are connected, and no more are \
                     served\"}}";
        assert_eq!(refused.line().as_deref(), Some(error));
        assert_eq!(refused.line(), None);
        // All of them are served, and each gets the events of the others.
        for client in &mut clients {
            client.execute("list-disks", json!({})).unwrap();
        }
        let socket = TempPath::new("sock");
        let disk = json!({"id": "b", "socket": text(&socket), "null": 512});
        let generation = clients[3].execute("add-disk", disk).unwrap()["generation"].clone();
        clients[5].execute("remove-disk", json!({"id": "b"})).unwrap();
        for client in &mut clients {
            let of_b = json!({"id": "b", "generation": generation});
            assert_eq!(client.event(), ("disk-added".to_owned(), of_b.clone()));
            assert_eq!(client.event(), ("disk-removed".to_owned(), of_b));
        }
        // Their places are free when they are gone, which the server notices in a later turn.
        drop(clients.split_off(1));
        while clients[0].execute("list-disks", json!({})).is_err() {}
        drop(clients);
        while Control::silent(&daemon.control).line().unwrap().contains("error") {}
    }
}

/// A client that sends and does not read gets only so much of the process: its requests are not
/// read any more, and at last its connection is closed.
#[test]
fn a_client_that_does_not_read_is_closed() {
    let _watchdog = Watchdog::new("a_client_that_does_not_read_is_closed");
    let daemon = daemon();
    let mut other = daemon.connect();
    let mut slow = Control::silent(&daemon.control);
    let requests = "{\"execute\": \"help\"}\n".repeat(1000);
    // The server reads no more when its answers are not read, and closes the connection after ten
    // seconds. Until then the write waits.
    let mut count = 0;
    while slow.send(requests.as_bytes()).is_ok() {
        count += 1;
        assert!(count < 1000, "the server reads everything");
    }
    other.execute("list-disks", json!({})).unwrap();
}

/// A client may send many requests before it reads the answers: the next one is carried out when
/// the answer before it was sent.
#[test]
fn a_client_that_reads_late_gets_all_answers() {
    let _watchdog = Watchdog::new("a_client_that_reads_late_gets_all_answers");
    let daemon = daemon();
    let (mut late, mut other) = (daemon.connect(), daemon.connect());
    late.send("{\"execute\": \"help\"}\n".repeat(2000).as_bytes()).unwrap();
    // More turns than it takes to carry out what the socket has room for.
    for _ in 0..2000 {
        other.execute("statistics", json!({})).unwrap();
    }
    let first = late.answer();
    (1..2000).for_each(|_| assert_eq!(late.answer(), first));
}

/// An answer that is on its way when the process ends is not cut.
#[test]
fn the_end_waits_for_a_client_that_reads_late() {
    let _watchdog = Watchdog::new("the_end_waits_for_a_client_that_reads_late");
    // An answer is larger than the piece of it that the socket has room for.
    let ids: Vec<String> = (0..300).map(|index| format!("disk-with-a-long-name-{index}")).collect();
    let disks: Vec<_> = ids.iter().map(|id| (id.as_str(), "null = 512")).collect();
    let mut daemon = Daemon::start("", &disks);
    let (mut late, mut other) = (daemon.connect(), daemon.connect());
    late.send("{\"execute\": \"list-disks\"}\n".repeat(20).as_bytes()).unwrap();
    for _ in 0..100 {
        other.execute("help", json!({})).unwrap();
    }
    other.execute("quit", json!({})).unwrap();
    let first = late.answer();
    let mut rest = late.rest();
    assert_eq!(rest.pop(), Some('\n'));
    assert!(rest.lines().all(|line| line == first));
    assert_eq!(daemon.process.wait().code(), Some(0));
}

/// The same for events, which a client does not ask for.
#[test]
fn a_client_that_does_not_read_its_events_is_closed() {
    let _watchdog = Watchdog::new("a_client_that_does_not_read_its_events_is_closed");
    let image = TempPath::image();
    let daemon = Daemon::start("", &[("a", &format!("image = {:?}", text(&image)))]);
    let mut other = daemon.connect();
    let _slow = Control::silent(&daemon.control);
    let file = std::fs::File::options().write(true).open(&image).unwrap();
    for round in 0..20_000_u64 {
        file.set_len(512 * (2049 + round % 2)).unwrap();
        other.execute("resize-disk", json!({"id": "a"})).unwrap();
        other.event();
        if daemon.process.has_line("does not read its events") {
            return;
        }
    }
    panic!("the connection is still open");
}

#[test]
fn the_control_socket_has_the_rules_of_other_sockets() {
    let _watchdog = Watchdog::new("the_control_socket_has_the_rules_of_other_sockets");
    let daemon = daemon();
    let mode = std::fs::metadata(&daemon.control).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // Another one must not take it over.
    let control = |path: &TempPath| format!("[daemon]\ncontrol = {:?}\n", text(path));
    let lines = refused(&control(&daemon.control));
    assert!(lines.contains("another server listens there"), "{lines}");
    let file = TempPath::zeroes(5);
    let lines = refused(&control(&file));
    assert!(lines.contains("something that is no socket is there"), "{lines}");
    // One that a killed process has left is replaced.
    let dead = TempPath::new("ctl");
    drop(UnixListener::bind(&dead).unwrap());
    let socket = TempPath::new("sock");
    let mut command = Command::new(env!("CARGO_BIN_EXE_vhost-user-blk"));
    command.args(["--null=1m", "--control", text(&dead), "--socket", text(&socket)]);
    let server = Process::run(&mut command, &socket, Stdio::piped());
    server.wait_for_line("listening on");
    Control::connect(&dead).stream().write_all(b"x\n").unwrap();
}
