//! The address of a socket.
#![expect(unsafe_code, reason = "views a socket address as bytes, and the bytes as an address")]

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::mem::offset_of;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The address of a socket, of any family: a `sockaddr` and its length. For
/// [`Connect`](super::Connect), and what [`Accept`](super::Accept) returns. A plain value without
/// system calls.
///
/// Two addresses are equal if their bytes are.
///
/// ```
/// use aio::op::SocketAddress;
/// use std::net::SocketAddr;
/// # fn main() -> std::io::Result<()> {
/// let ip: SocketAddr = "127.0.0.1:80".parse().unwrap();
/// assert_eq!(SocketAddress::from(ip).to_ip(), Some(ip));
/// let unix = SocketAddress::unix("/run/vm1.sock")?;
/// assert_eq!(unix.family(), libc::AF_UNIX);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy)]
pub struct SocketAddress {
    storage: libc::sockaddr_storage,
    len: libc::socklen_t,
}

const CAPACITY: usize = size_of::<libc::sockaddr_storage>();
const PATH: usize = offset_of!(libc::sockaddr_un, sun_path);

impl SocketAddress {
    /// The address that the kernel, or a system call, describes with these bytes: a `sockaddr` of
    /// any family, as in the man page of the family, such as vsock(7).
    ///
    /// # Errors
    /// `InvalidInput` if they are more than a `sockaddr_storage` has, which is 128. Nothing else is
    /// checked: the system call that gets the address does that.
    pub fn from_bytes(bytes: &[u8]) -> io::Result<Self> {
        let mut address = Self::default();
        let Some(place) = address.bytes_mut().get_mut(..bytes.len()) else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a socket address of more than 128 bytes",
            ));
        };
        place.copy_from_slice(bytes);
        address.len = bytes.len() as libc::socklen_t;
        Ok(address)
    }

    /// The address of a Unix socket that is bound to `path`. A path that begins with a NUL byte is
    /// a name in the abstract namespace, in which further NUL bytes have no meaning; see unix(7).
    ///
    /// # Errors
    /// `InvalidInput` for an empty path, one of more than 107 bytes, one with a NUL byte in it, and
    /// an abstract name of more than 107 bytes behind the first NUL byte.
    pub fn unix(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref().as_os_str().as_bytes();
        let refused = |why: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        let is_abstract = path.first() == Some(&0);
        if path.is_empty() {
            // With the NUL byte at its end it would be the abstract name without bytes.
            return refused("the path of a Unix socket is empty");
        }
        if is_abstract && path.len() > CAPACITY_OF_PATH {
            return refused("an abstract name of a Unix socket has at most 107 bytes behind the NUL byte");
        }
        if !is_abstract && path.len() > CAPACITY_OF_PATH - 1 {
            return refused("the path of a Unix socket has at most 107 bytes");
        }
        if !is_abstract && path.contains(&0) {
            return refused("the path of a Unix socket has a NUL byte in it");
        }
        let family = (libc::AF_UNIX as libc::sa_family_t).to_ne_bytes();
        let end: &[u8] = if is_abstract { &[] } else { &[0] };
        Self::from_bytes(&[&family[..], path, end].concat())
    }

    /// The family, such as `libc::AF_UNIX`. `libc::AF_UNSPEC` if the address is empty.
    pub fn family(&self) -> i32 {
        self.storage.ss_family.into()
    }

    /// The address as a `sockaddr`, with as many bytes as it has.
    pub fn as_bytes(&self) -> &[u8] {
        let len = (self.len as usize).min(CAPACITY);
        // SAFETY: at most as many bytes as the storage has, all of them initialised (`default`).
        unsafe { std::slice::from_raw_parts((&raw const self.storage).cast(), len) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the bytes of the storage, all of them initialised, and any value is valid.
        unsafe { std::slice::from_raw_parts_mut((&raw mut self.storage).cast(), CAPACITY) }
    }

    /// The IP address and port, of an address of AF_INET or AF_INET6. `None` for other families,
    /// and for fewer bytes than such an address has.
    pub fn to_ip(&self) -> Option<SocketAddr> {
        let bytes = self.as_bytes();
        let port = u16::from_be_bytes(field(bytes, 2)?);
        match self.family() {
            libc::AF_INET => Some(SocketAddrV4::new(Ipv4Addr::from(field::<4>(bytes, 4)?), port).into()),
            libc::AF_INET6 => {
                let flow = u32::from_ne_bytes(field(bytes, 4)?);
                let scope = u32::from_ne_bytes(field(bytes, 24)?);
                Some(SocketAddrV6::new(Ipv6Addr::from(field::<16>(bytes, 8)?), port, flow, scope).into())
            }
            _ => None,
        }
    }

    /// The path of an address of AF_UNIX. `None` for an abstract or an unnamed one.
    pub fn to_path(&self) -> Option<&Path> {
        if self.family() != libc::AF_UNIX {
            return None;
        }
        let path = self.as_bytes().get(PATH..)?.split(|byte| *byte == 0).next()?;
        (!path.is_empty()).then(|| Path::new(OsStr::from_bytes(path)))
    }

    /// For the kernel to read: pointer and length.
    pub(super) fn as_raw(&self) -> (*const libc::sockaddr, libc::socklen_t) {
        ((&raw const self.storage).cast(), self.len)
    }

    /// For the kernel to fill: pointer, and pointer to the length, which is the capacity now.
    pub(super) fn as_raw_mut(&mut self) -> (*mut libc::sockaddr, *mut libc::socklen_t) {
        self.len = CAPACITY as libc::socklen_t;
        ((&raw mut self.storage).cast(), &raw mut self.len)
    }
}

const CAPACITY_OF_PATH: usize = size_of::<libc::sockaddr_un>() - PATH;

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.get(..N)?.try_into().ok()
}

impl Default for SocketAddress {
    /// An address without a family.
    fn default() -> Self {
        // SAFETY: a struct of integers, for which all-zero is valid.
        Self { storage: unsafe { std::mem::zeroed() }, len: 0 }
    }
}

impl From<SocketAddr> for SocketAddress {
    fn from(address: SocketAddr) -> Self {
        let mut bytes = [0; size_of::<libc::sockaddr_in6>()];
        let mut put = |at: usize, field: &[u8]| {
            if let Some(place) = bytes.get_mut(at..at + field.len()) {
                place.copy_from_slice(field);
            }
        };
        let (family, len) = match address {
            SocketAddr::V4(_) => (libc::AF_INET, size_of::<libc::sockaddr_in>()),
            SocketAddr::V6(_) => (libc::AF_INET6, size_of::<libc::sockaddr_in6>()),
        };
        put(0, &(family as libc::sa_family_t).to_ne_bytes());
        put(2, &address.port().to_be_bytes());
        match address {
            SocketAddr::V4(v4) => put(4, &v4.ip().octets()),
            SocketAddr::V6(v6) => {
                put(4, &v6.flowinfo().to_ne_bytes());
                put(8, &v6.ip().octets());
                put(24, &v6.scope_id().to_ne_bytes());
            }
        }
        let mut this = Self::default();
        this.bytes_mut().iter_mut().zip(bytes).for_each(|(place, byte)| *place = byte);
        this.len = len as libc::socklen_t;
        this
    }
}

impl PartialEq for SocketAddress {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for SocketAddress {}

impl fmt::Debug for SocketAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.to_ip(), self.to_path()) {
            (Some(ip), _) => write!(f, "{ip}"),
            (_, Some(path)) => write!(f, "{}", path.display()),
            _ => f.debug_tuple("SocketAddress").field(&self.as_bytes()).finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ip_addresses_come_back() {
        for text in ["127.0.0.1:80", "255.1.2.3:65535", "[::1]:8080", "[fe80::1%7]:443"] {
            let address: SocketAddr = text.parse().unwrap();
            let this = SocketAddress::from(address);
            assert_eq!((this.to_ip(), this.to_path()), (Some(address), None));
            assert_eq!(SocketAddress::from_bytes(this.as_bytes()).unwrap(), this);
        }
        let v6 = SocketAddrV6::new(Ipv6Addr::LOCALHOST, 1, 2, 3);
        assert_eq!(SocketAddress::from(SocketAddr::from(v6)).to_ip(), Some(v6.into()));
    }

    #[test]
    fn unix_paths_come_back() {
        let this = SocketAddress::unix("/run/a socket").unwrap();
        assert_eq!((this.to_path(), this.to_ip()), (Some(Path::new("/run/a socket")), None));
        assert_eq!(this.as_bytes().len(), 2 + 13 + 1, "with the NUL byte");
        let this = SocketAddress::unix("\0abstract").unwrap();
        assert_eq!((this.to_path(), this.as_bytes().len()), (None, 2 + 9), "exactly the name");
        let all = "x".repeat(107);
        for (path, len) in
            [(all.clone(), 108), (format!("\0{all}"), 108), ("\0".to_owned(), 1), ("\0a\0b".to_owned(), 4)]
        {
            assert_eq!(SocketAddress::unix(&path).unwrap().as_bytes().len(), 2 + len, "{path:?}");
        }
        let refused = [
            (String::new(), "is empty"),
            ("x".repeat(108), "107 bytes"),
            ("x".repeat(109), "107 bytes"),
            (format!("\0x{all}"), "107 bytes behind"),
            (format!("\0xx{all}"), "107 bytes behind"),
            ("a\0b".to_owned(), "NUL byte in it"),
            ("a\0".to_owned(), "NUL byte in it"),
        ];
        for (path, why) in refused {
            let error = SocketAddress::unix(&path).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
            assert!(error.to_string().contains(why), "{path:?}: {error}");
        }
    }

    #[test]
    fn short_addresses_are_no_ip_addresses() {
        let v4 = SocketAddress::from(SocketAddr::from(([1, 2, 3, 4], 5)));
        for len in 0..8 {
            let cut = SocketAddress::from_bytes(&v4.as_bytes()[..len]).unwrap();
            assert_eq!((cut.to_ip(), cut.to_path()), (None, None), "{len} bytes");
        }
        assert!(SocketAddress::from_bytes(&[0; 128]).is_ok());
        assert!(SocketAddress::from_bytes(&[0; 129]).is_err());
    }
}
