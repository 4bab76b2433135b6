//! As much of HTTP/1.0 as a scraper needs.

/// The longest request, with its headers.
pub(super) const LONGEST: usize = 8192;

/// The media type of the OpenMetrics text format.
const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What a client wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Nothing is known yet: more must be read.
    More,
    /// The text without headers: the client sent an empty line, or nothing.
    Plain,
    /// GET.
    Text,
    /// HEAD.
    Headers,
    /// A status that is not 200.
    Refusal(&'static str),
}

/// Looks at what a client has sent so far. `is_all`: it sends no more.
pub(super) fn parse(received: &[u8], is_all: bool) -> Wanted {
    if received.starts_with(b"\n") || received.starts_with(b"\r\n") || (received.is_empty() && is_all) {
        return Wanted::Plain;
    }
    let ends = |end: &[u8]| received.windows(end.len()).any(|part| part == end);
    if !is_all && !ends(b"\n\r\n") && !ends(b"\n\n") {
        let is_too_long = received.len() >= LONGEST;
        return if is_too_long {
            Wanted::Refusal("431 Request Header Fields Too Large")
        } else {
            Wanted::More
        };
    }
    let line = received.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let mut words = line.trim_ascii().split(|byte| *byte == b' ');
    let (method, target, version) = (words.next(), words.next(), words.next());
    let is_http = version.is_some_and(|version| version.starts_with(b"HTTP/1.")) && words.next().is_none();
    // A query is ignored.
    let path = target.and_then(|target| target.split(|byte| *byte == b'?').next());
    match (method, path) {
        _ if !is_http => Wanted::Refusal("400 Bad Request"),
        (Some(b"GET"), Some(b"/metrics" | b"/")) => Wanted::Text,
        (Some(b"HEAD"), Some(b"/metrics" | b"/")) => Wanted::Headers,
        (Some(b"GET" | b"HEAD"), _) => Wanted::Refusal("404 Not Found"),
        _ => Wanted::Refusal("405 Method Not Allowed"),
    }
}

/// The headers of an answer with a body of so many bytes.
pub(super) fn headers(status: &str, length: usize) -> String {
    format!(
        "HTTP/1.0 {status}\r\nContent-Type: {MEDIA_TYPE}\r\nContent-Length: {length}\r\nConnection: \
         close\r\n\r\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_what_they_want() {
        let long = [b"GET /metrics HTTP/1.1\r\nX: ".to_vec(), vec![b'x'; LONGEST]].concat();
        let table: [(&[u8], Wanted); 19] = [
            (b"", Wanted::More),
            (b"GET /metrics HTTP/1.1\r\n", Wanted::More),
            (b"GET /metrics HTTP/1.1\r\nHost: x\r\n", Wanted::More),
            (b"\n", Wanted::Plain),
            (b"\r\nanything", Wanted::Plain),
            (b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", Wanted::Text),
            (b"GET /metrics HTTP/1.0\n\n", Wanted::Text),
            (b"GET / HTTP/1.1\r\n\r\n", Wanted::Text),
            (b"GET /metrics?name=x HTTP/1.1\r\n\r\n", Wanted::Text),
            (b"HEAD /metrics HTTP/1.1\r\n\r\n", Wanted::Headers),
            (b"GET /other HTTP/1.1\r\n\r\n", Wanted::Refusal("404 Not Found")),
            (b"POST /metrics HTTP/1.1\r\n\r\n", Wanted::Refusal("405 Method Not Allowed")),
            (b"GET /metrics\r\n\r\n", Wanted::Refusal("400 Bad Request")),
            (b"GET /metrics HTTP/1.1 x\r\n\r\n", Wanted::Refusal("400 Bad Request")),
            (b"GET /metrics HTTP/2\r\n\r\n", Wanted::Refusal("400 Bad Request")),
            (b"x\r\n\r\n", Wanted::Refusal("400 Bad Request")),
            (b"\xff\xfe\n\n", Wanted::Refusal("400 Bad Request")),
            (b" \n\n", Wanted::Refusal("400 Bad Request")),
            (&long, Wanted::Refusal("431 Request Header Fields Too Large")),
        ];
        for (received, wanted) in table {
            assert_eq!(parse(received, false), wanted, "{}", received.escape_ascii());
        }
    }

    #[test]
    fn a_client_that_sends_no_more_has_said_all() {
        assert_eq!(parse(b"", true), Wanted::Plain);
        assert_eq!(parse(b"GET /metrics HTTP/1.0", true), Wanted::Text);
        assert_eq!(parse(b"GET", true), Wanted::Refusal("400 Bad Request"));
    }
}
