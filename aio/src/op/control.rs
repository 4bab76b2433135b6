//! Control messages that carry descriptors: SCM_RIGHTS of unix(7), laid out as cmsg(3) says.
#![expect(unsafe_code, reason = "takes the descriptors that the kernel has put into a control message")]

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// The most descriptors that one message can carry (SCM_MAX_FD in the kernel).
pub(super) const MOST: usize = 253;

const WORD: usize = size_of::<u64>();
const NUMBER: usize = size_of::<RawFd>();
/// The header, padded as CMSG_ALIGN does.
const HEADER: usize = size_of::<libc::cmsghdr>().next_multiple_of(size_of::<usize>());

/// CMSG_LEN of so many descriptors, zero for none.
pub(super) fn len(descriptors: usize) -> usize {
    if descriptors == 0 { 0 } else { HEADER + NUMBER * descriptors }
}

/// Zeroed room for so many descriptors, aligned for a header.
pub(super) fn room(descriptors: usize) -> Box<[u64]> {
    vec![0; len(descriptors).div_ceil(WORD)].into_boxed_slice()
}

/// A message with these descriptors, and its length in bytes.
pub(super) fn rights(numbers: &[RawFd]) -> (Box<[u64]>, usize) {
    let (mut control, len) = (room(numbers.len()), len(numbers.len()));
    // SAFETY: all-zero is a valid header: integers, and padding on some platforms.
    let mut header: libc::cmsghdr = unsafe { std::mem::zeroed() };
    header.cmsg_len = len as _;
    header.cmsg_level = libc::SOL_SOCKET;
    header.cmsg_type = libc::SCM_RIGHTS;
    if len > 0 {
        let start = control.as_mut_ptr();
        // SAFETY: `room` is aligned, and has space for the header and for all numbers behind it.
        unsafe {
            start.cast::<libc::cmsghdr>().write(header);
            let behind = start.cast::<u8>().add(HEADER).cast::<RawFd>();
            std::ptr::copy_nonoverlapping(numbers.as_ptr(), behind, numbers.len());
        }
    }
    (control, len)
}

/// The descriptors in `filled` bytes of control messages that the kernel has just written.
pub(super) fn descriptors(control: &[u64], filled: usize) -> Vec<OwnedFd> {
    let (mut found, mut at) = (Vec::new(), 0);
    let filled = filled.min(size_of_val(control));
    while at + HEADER <= filled {
        // SAFETY: the header is inside `control`; `at` is a multiple of eight, so it is aligned.
        let header: libc::cmsghdr =
            unsafe { control.as_ptr().cast::<u8>().add(at).cast::<libc::cmsghdr>().read() };
        // `socklen_t` on musl.
        let len: usize = header.cmsg_len as _;
        let len = len.min(filled - at);
        if len < HEADER {
            break;
        }
        if (header.cmsg_level, header.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            for index in 0..(len - HEADER) / NUMBER {
                // SAFETY: inside `control`, because `len` is; aligned for an integer.
                let number = unsafe {
                    control.as_ptr().cast::<u8>().add(at + HEADER).cast::<RawFd>().add(index).read()
                };
                // SAFETY: the kernel has just installed it for us, and nobody else knows it. This
                // function is called once for each message.
                found.push(unsafe { OwnedFd::from_raw_fd(number) });
            }
        }
        at += len.next_multiple_of(size_of::<usize>());
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::{AsRawFd, IntoRawFd};

    #[test]
    fn what_is_sent_can_be_received() {
        for count in [0, 1, 2, 3, MOST] {
            let numbers: Vec<_> =
                (0..count).map(|_| std::fs::File::open("/dev/null").unwrap().into_raw_fd()).collect();
            let (control, len) = rights(&numbers);
            assert_eq!(len, super::len(count));
            let back = descriptors(&control, len);
            assert_eq!(back.iter().map(AsRawFd::as_raw_fd).collect::<Vec<_>>(), numbers);
        }
    }

    #[test]
    fn agrees_with_cmsg() {
        for count in [1, 2, 3, MOST] {
            // SAFETY: computes with integers.
            let (expected, space) = unsafe {
                (libc::CMSG_LEN((count * NUMBER) as u32), libc::CMSG_SPACE((count * NUMBER) as u32))
            };
            assert_eq!(len(count), expected as usize);
            assert_eq!(size_of_val(&*room(count)), space as usize);
        }
    }

    #[test]
    fn malformed_lengths_end_the_search() {
        let (mut control, len) = rights(&[-1]);
        for bad in [0, 1, HEADER - 1] {
            control[0] = bad as u64;
            assert!(descriptors(&control, len).is_empty(), "{bad}");
        }
        control[0] = u64::MAX;
        assert!(descriptors(&control, HEADER).is_empty(), "no more than what is filled");
    }
}
