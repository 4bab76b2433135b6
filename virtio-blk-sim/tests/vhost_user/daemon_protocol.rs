//! The control protocol: requests and their exact answers.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::json;
use virtio_blk_sim::vhost_user::Frontend;

use super::Watchdog;
use super::daemon::{Control, Daemon, text};
use super::process::{Process, inheriting};
use super::server::TempPath;

const INVALID: &str = "InvalidRequest";
const GENERIC: &str = "GenericError";

fn error(class: &str, description: &str) -> String {
    format!("{{\"error\": {{\"class\": \"{class}\", \"desc\": {}}}}}", json!(description))
}

#[test]
fn requests_get_exactly_these_answers() {
    let _watchdog = Watchdog::new("requests_get_exactly_these_answers");
    let (image, grown) = (TempPath::image(), TempPath::zeroes(8192));
    let mut daemon =
        Daemon::start("loops = 2", &[("a", "null = \"1m\"\nqueues = 2"), ("m", "memory = \"64k\"")]);
    let mut control = daemon.connect();
    let socket = text(daemon.socket("i")).to_owned();
    let in_a = text(daemon.socket("a")).to_owned();
    let no_disk = error("DiskNotFound", "there is no disk \"x\"");
    let add = |keys: &str| format!("{{\"execute\": \"add-disk\", \"arguments\": {{{keys}}}}}");
    let add_image =
        |id: &str| add(&format!("\"id\": {id:?}, \"socket\": {socket:?}, \"image\": {:?}", text(&image)));
    let do_it = |command: &str, arguments: &str| {
        format!("{{\"execute\": \"{command}\", \"arguments\": {arguments}}}")
    };
    let done = "{\"return\": {}}".to_owned();
    let added = |generation| format!("{{\"return\": {{\"generation\": {generation}}}}}");
    let rows: Vec<(String, String)> = vec![
        // The form of a request.
        ("x".into(), error(INVALID, "the line is no request: expected value at line 1 column 1")),
        ("[]".into(), error(INVALID, "the line is no request: invalid type: sequence, expected an object such as {\"execute\": \"list-disks\"} at line 1 column 0")),
        ("{}".into(), error(INVALID, "a request needs the member \"execute\"")),
        ("{\"id\": 1}".into(), "{\"error\": {\"class\": \"InvalidRequest\", \"desc\": \"a request needs the member \\\"execute\\\"\"}, \"id\": 1}".into()),
        ("{\"execute\": 5}".into(), error(INVALID, "\"execute\" is the name of a command, a string")),
        ("{\"execute\": \"quit\", \"argument\": {}}".into(), error(INVALID, "a request has the members execute, arguments and id, and not \"argument\"")),
        ("{\"execute\": \"help\", \"execute\": \"quit\"}".into(), error(INVALID, "the request has two members \"execute\"")),
        ("{\"execute\": \"quit\", \"arguments\": []}".into(), error(INVALID, "\"arguments\" is an object")),
        ("{\"execute\": \"quit\", \"arguments\": null}".into(), error(INVALID, "\"arguments\" is an object")),
        ("{\"execute\": \"quit\", \"arguments\": {\"now\": true}}".into(), error(INVALID, "the arguments of quit: unknown field `now`, expected `force`")),
        ("{\"execute\": \"fly\"}".into(), error("CommandNotFound", "there is no command \"fly\"; help lists the commands")),
        ("{\"execute\": \"\\u001b[2J\"}".into(), error("CommandNotFound", "there is no command \"\\u{1b}[2J\"; help lists the commands")),
        ("\"quit\"".into(), error(INVALID, "the line is no request: invalid type: string \"quit\", expected an object such as {\"execute\": \"list-disks\"} at line 1 column 6")),
        // The id is anything, and comes back as it was written.
        ("{\"execute\": \"set-limits\", \"arguments\": {\"id\": \"a\"}, \"id\": {\"x\": [1e2, null]}}".into(), "{\"return\": {}, \"id\": {\"x\": [1e2, null]}}".into()),
        ("{\"id\": 123456789012345678901234567890, \"execute\": \"set-limits\", \"arguments\": {\"id\": \"a\"}}".into(), "{\"return\": {}, \"id\": 123456789012345678901234567890}".into()),
        ("{\"id\": null, \"execute\": \"fly\"}".into(), "{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"there is no command \\\"fly\\\"; help lists the commands\"}, \"id\": null}".into()),
        // add-disk
        (add(""), error(GENERIC, "a disk needs an id")),
        (add("\"id\": \"x y\""), error(INVALID, "the arguments of add-disk: an id has 1 to 64 characters: letters, digits and any of - _ . :")),
        (add("\"id\": \"i\", \"null\": 512"), error(GENERIC, "disk i needs a socket")),
        (add(&format!("\"id\": \"i\", \"socket\": {socket:?}")), error(GENERIC, "disk i needs an image, null or memory")),
        (add(&format!("\"id\": \"i\", \"socket\": {socket:?}, \"null\": 0")), error(GENERIC, "null 0: a disk has at least one sector of 512 bytes")),
        (add("\"id\": \"i\", \"queues\": 0"), error(INVALID, "the arguments of add-disk: write a number from 1 to 256")),
        (add("\"id\": \"i\", \"id\": \"j\""), error(INVALID, "the arguments of add-disk: duplicate field `id`")),
        (add(&format!("\"id\": \"i\", \"socket\": {socket:?}, \"null\": 512, \"loops\": [2]")), error(GENERIC, "loops: there is no thread 2, only 0 to 1")),
        (add(&format!("\"id\": \"i\", \"socket\": {socket:?}, \"image\": \"/nonexistent/x\"")), error(GENERIC, "/nonexistent/x: no such file; create it, for example with `truncate -s 1G`")),
        (add("\"id\": \"i\", \"socket\": \"/nonexistent/s\", \"null\": 512"), error(GENERIC, "socket /nonexistent/s: No such file or directory (os error 2)")),
        (add(&format!("\"id\": \"i\", \"socket\": \"/{}\", \"null\": 512", "x".repeat(120))), error(GENERIC, &format!("socket /{}: the path is too long for a socket: 121 bytes, and 107 are possible", "x".repeat(120)))),
        (add(&format!("\"id\": \"a\", \"socket\": {socket:?}, \"null\": 512")), error(GENERIC, "there is a disk a already")),
        (add(&format!("\"id\": \"i\", \"socket\": {in_a:?}, \"null\": 512")), error(GENERIC, "disks i and a have the same socket")),
        (add_image("i"), added(7)),
        (add_image("i"), error(GENERIC, "there is a disk i already")),
        (add(&format!("\"id\": \"j\", \"socket\": \"{socket}x\", \"image\": {:?}", text(&image))), error(GENERIC, "disks j and i have the same image")),
        // resize-disk
        (do_it("resize-disk", "{}"), error(INVALID, "the arguments of resize-disk: missing field `id`")),
        (do_it("resize-disk", "{\"id\": \"x\"}"), no_disk.clone()),
        (do_it("resize-disk", "{\"id\": \"a\"}"), error(GENERIC, "only the size of a raw image can change")),
        (do_it("resize-disk", "{\"id\": \"i\"}"), "{\"return\": {\"sectors\": 2048}}".into()),
        (do_it("resize-disk", "{\"id\": \"i\", \"size\": 1000}"), error(GENERIC, "size 1000: this disk consists of blocks of 512 bytes")),
        (do_it("resize-disk", "{\"id\": \"i\", \"size\": 512}"), error(GENERIC, "the image is larger than that, and is not cut")),
        (do_it("resize-disk", "{\"id\": \"i\", \"size\": \"2m\"}"), "{\"return\": {\"sectors\": 4096}}".into()),
        // set-limits
        (do_it("set-limits", "{\"id\": \"x\"}"), no_disk.clone()),
        (do_it("set-limits", "{\"id\": \"i\", \"iops\": -1}"), error(INVALID, "the arguments of set-limits: invalid value: integer `-1`, expected a string or a number")),
        (do_it("set-limits", "{\"id\": \"i\", \"iops\": 100, \"bps\": \"1m\"}"), done.clone()),
        (do_it("set-limits", "{\"id\": \"i\", \"iops\": 0}"), done.clone()),
        // move-disk
        (do_it("move-disk", "{\"id\": \"x\", \"loops\": [0]}"), no_disk.clone()),
        (do_it("move-disk", "{\"id\": \"a\"}"), error(INVALID, "the arguments of move-disk: missing field `loops`")),
        (do_it("move-disk", "{\"id\": \"a\", \"loops\": [2]}"), error(GENERIC, "there is no loop 2, only 0 to 1")),
        (do_it("move-disk", "{\"id\": \"a\", \"loops\": [0, 0, 0]}"), error(GENERIC, "loops has 3 entries, but the disk has 2 queues")),
        (do_it("move-disk", "{\"id\": \"a\", \"loops\": [1, 1]}"), done.clone()),
        // The rest.
        (do_it("rotate-log", "{}"), error(GENERIC, "log lines go to stderr, and there is no log file to open again")),
        (do_it("statistics", "{\"id\": \"a\"}"), "{\"return\": [{\"id\":\"a\",\"frontends\":0,\"throttled\":{\"messages\":0,\"connections\":0},\
             \"queues\":[]}]}".into()),
        (do_it("statistics", "{\"id\": \"x\"}"), no_disk.clone()),
        (do_it("remove-disk", "{\"id\": \"x\"}"), no_disk),
        (do_it("remove-disk", "{\"id\": \"i\", \"force\": 1}"), error(INVALID, "the arguments of remove-disk: invalid type: integer `1`, expected a boolean")),
        (do_it("list-disks", "{}"), format!(
            "{{\"return\": [{{\"id\":\"a\",\"generation\":1,\"state\":\"served\",\"socket\":{in_a:?},\"null\":1048576,\"read-only\":false,\"queues\":2,\
             \"queue-size\":256,\"sectors\":2048,\"block-size\":512,\"loops\":[1,1],\"iops\":0,\"bps\":0,\"connected\":false,\
             \"frontends\":0,\"failed\":false}}, \
             {{\"id\":\"i\",\"generation\":7,\"state\":\"served\",\"socket\":{socket:?},\"image\":{:?},\"read-only\":false,\"queues\":1,\
             \"queue-size\":256,\"sectors\":4096,\"block-size\":512,\"loops\":[1],\"iops\":0,\"bps\":1048576,\
             \"connected\":false,\"frontends\":0,\"failed\":false}}, \
             {{\"id\":\"m\",\"generation\":2,\"state\":\"served\",\"socket\":{:?},\"memory\":65536,\"read-only\":false,\"queues\":1,\
             \"queue-size\":256,\"sectors\":128,\"block-size\":512,\"loops\":[0],\"iops\":0,\"bps\":0,\"connected\":false,\
             \"frontends\":0,\"failed\":false}}]}}",
            text(&image), text(daemon.socket("m")),
        )),
        (do_it("remove-disk", "{\"id\": \"i\"}"), done.clone()),
        (do_it("remove-disk", "{\"id\": \"i\"}"), error("DiskNotFound", "there is no disk \"i\"")),
        (add_image("i"), added(9)),
        (do_it("remove-disk", "{\"id\": \"i\", \"force\": true}"), done.clone()),
    ];
    for (request, answer) in &rows {
        assert_eq!(&control.ask(request), answer, "{request}");
    }
    drop(grown);
    // Bytes that are not UTF-8, and lines that are empty.
    control.send(b"\n \t\r\n\xff\xfe\n").unwrap();
    assert_eq!(control.answer(), error(INVALID, "the line is not UTF-8"));
    let help = control.execute("help", json!({})).unwrap();
    assert_eq!(help, control.execute("query-commands", json!({})).unwrap());
    let names: Vec<&str> = help.as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(names.len(), 10, "{names:?}");
    for name in names {
        let answer = control.ask(&do_it(name, "{\"nonsense\": 1}"));
        assert!(answer.contains(&format!("the arguments of {name}: unknown field `nonsense`")), "{answer}");
    }
    assert_eq!(control.ask("{\"execute\": \"quit\", \"id\": 7}"), "{\"return\": {}, \"id\": 7}");
    assert_eq!(daemon.process.wait().code(), Some(0));
    for path in [&socket, &in_a, text(&daemon.control)] {
        assert!(!std::path::Path::new(path).exists(), "{path}");
    }
}

#[test]
fn the_disk_of_the_command_line_is_disk0() {
    let _watchdog = Watchdog::new("the_disk_of_the_command_line_is_disk0");
    let (socket, image, path) = (TempPath::new("sock"), TempPath::image(), TempPath::new("ctl"));
    let mut server = Process::start(&socket, &image, &["--control", text(&path), "--queues", "2"]);
    let mut control = Control::connect(&path);
    let disk = control.disk("disk0");
    assert_eq!((&disk["sectors"], &disk["queues"], &disk["loops"]), (&json!(2048), &json!(2), &json!([])));
    // Without I/O threads there is only one loop.
    let why = control.execute("move-disk", json!({"id": "disk0", "loops": [0]})).unwrap_err();
    assert_eq!(why, "this process has no I/O threads to move a disk to");
    let more = TempPath::new("sock");
    let added = json!({"id": "more", "socket": text(&more), "memory": "1m"});
    control.execute("add-disk", added).unwrap();
    server.signal(libc::SIGTERM);
    assert_eq!(server.wait().code(), Some(0));
    assert!(![&socket, &path, &more].iter().any(|path| path.as_ref().exists()));
}

/// A process with an inherited connection ends when its disk is removed. Its client gets the answer
/// first, and the events.
#[test]
fn the_answer_comes_before_the_end() {
    let _watchdog = Watchdog::new("the_answer_comes_before_the_end");
    for command in ["remove-disk", "quit"] {
        let (image, path) = (TempPath::image(), TempPath::new("ctl"));
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut server = inheriting(theirs, &["--fd=3", "--control", text(&path)], &image).spawn().unwrap();
        let frontend = Frontend::from_stream(ours, Duration::from_secs(10));
        while UnixStream::connect(&path).is_err() {
            std::thread::sleep(Duration::from_millis(5));
        }
        let mut control = Control::connect(&path);
        assert_eq!(control.disk("disk0")["connected"], json!(true));
        let arguments = if command == "quit" { json!({}) } else { json!({"id": "disk0"}) };
        assert_eq!(control.execute(command, arguments), Ok(json!({})));
        if command == "remove-disk" {
            control.wait_for("frontend-disconnected", "disk0");
            control.wait_for("disk-removed", "disk0");
        }
        assert_eq!(server.wait().unwrap().code(), Some(0), "{command}");
        drop(frontend);
    }
}
