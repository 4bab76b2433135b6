//! What the words of a page mean: as a list, and in the title attributes of names that have them.

use super::svg::escape;

/// The words, in the order of the list.
const WORDS: [(&str, &str); 24] = [
    (
        "arm",
        "one of the variants that are compared, such as epoll/edge: how the loop waits, and who resets an eventfd",
    ),
    (
        "iteration",
        "one pass of the device's loop: wait, read the eventfd, serve the request, interrupt the guest",
    ),
    ("classic", "the loop reads an eventfd after each wake-up, to reset it; the baseline"),
    (
        "edge",
        "the loop is notified of each new event once (EPOLLET, or a multishot poll), and never reads the eventfd",
    ),
    ("level", "the loop is notified as long as the eventfd is not reset; costs a second check"),
    ("autoreset", "any way in which nobody reads the eventfd: edge, ring-read, kernel-flag"),
    ("ring-read", "io_uring reads the eventfd on behalf of the loop, without a system call of its own"),
    ("ring-read-multishot", "the same with one request for many reads"),
    ("kernel-flag", "the kernel resets the eventfd as it reports it: EFD_AUTORESET, proposed in 2020"),
    ("unread", "an edge-triggered loop whose callback does not read the eventfd"),
    ("dose", "one more read(2) per doorbell than necessary, to measure what a read costs inside the loop"),
    ("t_iter", "the time of an iteration of the classic arm"),
    ("t_read", "the time of one read(2) of an eventfd inside the loop"),
    ("rung", "signalled, of an eventfd: somebody wrote to it"),
    ("kick", "the guest's signal that there are new requests, through an eventfd (ioeventfd)"),
    ("interrupt", "the device's signal that a request is done, through an eventfd (irqfd)"),
    ("null", "a disk that stores nothing and answers at once"),
    ("spin", "a disk that is busy for this long with each request"),
    ("sleep", "a disk that answers after this time, while the loop sleeps"),
    ("iodepth", "requests in flight at the same time"),
    ("raw", "bare system calls without an event loop: the floor"),
    ("task", "a future that awaits the event, instead of a callback"),
    ("MAD", "median absolute deviation: half of the values are nearer to the median than this"),
    ("p99", "99% of the requests took at most this long; likewise the other numbers"),
];

/// The list.
pub(super) fn list() -> String {
    let entries: String =
        WORDS.iter().map(|(word, meaning)| format!("<dt>{word}</dt><dd>{}.</dd>", escape(meaning))).collect();
    format!("<dl>{entries}</dl>")
}

/// The title attribute of a name, with the meaning of each word in it; empty if there is none.
pub(super) fn title(name: &str) -> String {
    let mut meanings: Vec<String> = Vec::new();
    for word in name.split(|c: char| !(c.is_alphanumeric() || c == '-' || c == '_')) {
        if let Some((word, meaning)) = WORDS.iter().find(|(known, _)| *known == word) {
            let text = format!("{word}: {meaning}");
            if !meanings.contains(&text) {
                meanings.push(text);
            }
        }
    }
    if meanings.is_empty() { String::new() } else { format!(" title=\"{}\"", escape(&meanings.join("; "))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_the_meanings_of_its_words() {
        let text = title("epoll/classic, iodepth 1");
        assert!(
            text.starts_with(" title=\"classic: the loop reads") && text.contains("; iodepth: "),
            "{text}"
        );
        assert_eq!(title("b"), "");
        assert!(list().contains("<dt>arm</dt>") && list().contains("<dt>rung</dt>"));
    }
}
