//! Cuts what a client sends into lines.

/// The longest line, without its line feed.
pub(super) const MAX_LINE: usize = 64 << 10;

/// A line was too long. What follows it cannot be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooLong;

/// Bytes that have arrived, of which the lines are not handled yet.
#[derive(Debug, Default)]
pub(super) struct Lines {
    bytes: Vec<u8>,
    /// Where the next line begins.
    start: usize,
    /// Up to here there is no line feed from `start` on.
    seen: usize,
}

impl Lines {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.start);
        self.seen -= self.start;
        self.start = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// Returns the next line. `None` if its end has not arrived.
    pub(super) fn next(&mut self) -> Option<Result<&[u8], TooLong>> {
        let rest = self.bytes.get(self.seen..).unwrap_or_default();
        let found = rest.iter().position(|byte| *byte == b'\n').map(|at| self.seen + at);
        let end = found.unwrap_or(self.bytes.len());
        if end - self.start > MAX_LINE {
            return Some(Err(TooLong));
        }
        self.seen = end;
        found?;
        let line = self.start..end;
        (self.start, self.seen) = (end + 1, end + 1);
        self.bytes.get(line).map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(lines: &mut Lines) -> Option<Result<String, TooLong>> {
        let text = |line: &[u8]| String::from_utf8(line.to_vec()).unwrap();
        lines.next().map(|line| line.map(text))
    }

    #[test]
    fn lines_come_in_any_pieces() {
        let text = "first\n\nthird\nfour";
        for size in 1..=text.len() {
            let (mut lines, mut found) = (Lines::default(), Vec::new());
            for piece in text.as_bytes().chunks(size) {
                lines.push(piece);
                while let Some(line) = take(&mut lines) {
                    found.push(line.unwrap());
                }
            }
            assert_eq!(found, ["first", "", "third"], "{size}");
            lines.push(b"th\n");
            assert_eq!(take(&mut lines), Some(Ok("fourth".to_owned())));
        }
    }

    #[test]
    fn the_longest_line_is_64_kib() {
        let mut lines = Lines::default();
        lines.push(&vec![b'x'; MAX_LINE]);
        assert_eq!(take(&mut lines), None);
        lines.push(b"\n");
        assert_eq!(take(&mut lines).unwrap().unwrap().len(), MAX_LINE);
        lines.push(&vec![b'x'; MAX_LINE + 1]);
        assert_eq!(take(&mut lines), Some(Err(TooLong)));
        let mut lines = Lines::default();
        lines.push(&[&vec![b'x'; MAX_LINE + 1][..], b"\n"].concat());
        assert_eq!(take(&mut lines), Some(Err(TooLong)));
    }
}
