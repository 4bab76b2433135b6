//! Guest memory that is not ours: regions that give out no host memory, or that report wrong sizes.

use vm_memory::bitmap::BS;
use vm_memory::{
    GuestMemoryError, GuestMemoryRegionBytes, GuestRegionCollection, GuestRegionMmap, GuestUsize,
    MemoryRegionAddress, MmapRegion, VolatileSlice,
};

use super::support::*;

const SIZE: u16 = 8;
const RAM: u64 = 0x1_0000;

/// A region with freely chosen answers. Its host memory is what `host` has.
struct Odd {
    start: u64,
    /// The length that it reports.
    len: u64,
    host: Option<MmapRegion>,
}

impl GuestMemoryRegion for Odd {
    type B = ();

    fn len(&self) -> GuestUsize {
        self.len
    }

    fn start_addr(&self) -> GuestAddress {
        GuestAddress(self.start)
    }

    fn bitmap(&self) -> BS<'_, ()> {}

    fn get_host_address(&self, _: MemoryRegionAddress) -> Result<*mut u8, GuestMemoryError> {
        panic!("the queue must not use a pointer that comes without a promise")
    }

    fn get_slice(&self, _: MemoryRegionAddress, _: usize) -> Result<VolatileSlice<'_>, GuestMemoryError> {
        let host = self.host.as_ref().ok_or(GuestMemoryError::HostAddressNotAvailable)?;
        vm_memory::VolatileMemory::get_slice(host, 0, host.size())
            .map_err(|_| GuestMemoryError::InvalidBackendAddress)
    }
}

impl GuestMemoryRegionBytes for Odd {}

/// RAM for the rings, then `odd` at [`RAM`].
fn with_odd(len: u64, host: Option<usize>) -> Arc<GuestRegionCollection<Odd>> {
    let ram = Odd { start: 0, len: RAM, host: Some(MmapRegion::new(RAM as usize).unwrap()) };
    let odd = Odd { start: RAM, len, host: host.map(|bytes| MmapRegion::new(bytes).unwrap()) };
    Arc::new(GuestRegionCollection::from_regions(vec![ram, odd]).unwrap())
}

/// Posts one writable buffer and pops it. Returns its segment's length in bytes.
fn pop_buffer<M: GuestMemoryBackend + 'static>(mem: &Arc<M>, addr: u64, len: u32) -> Result<u64, QueueError> {
    let config = QueueConfig::at(GuestAddress(RINGS), SIZE);
    let mut driver = DriverQueue::new(Arc::clone(mem), config).unwrap();
    driver.add(&[], &[(GuestAddress(addr), len)]).unwrap().unwrap();
    let _ = driver.publish();
    let mut device = DeviceQueue::new(Arc::clone(mem), config).unwrap();
    let mut chain = device.new_chain();
    assert!(device.pop(&mut chain)?);
    let bytes = chain.writable().len_bytes();
    // Touches every byte, so that a segment outside the mapping is a SIGSEGV.
    assert_eq!(chain.writable().copy_from(0, &vec![1; bytes as usize]) as u64, bytes);
    Ok(bytes)
}

#[test]
fn a_region_without_host_memory_is_an_error() {
    let mem = with_odd(0x1000, None);
    assert_eq!(pop_buffer(&mem, 0x8000, 16), Ok(16));
    assert_eq!(pop_buffer(&mem, RAM, 16), Err(QueueError::Unmapped { addr: RAM, len: 16 }));
    let rings = QueueConfig::at(GuestAddress(RAM), SIZE);
    assert!(matches!(DeviceQueue::new(mem, rings), Err(QueueError::RingUnmapped { .. })));
}

#[test]
fn a_region_that_reports_too_many_bytes_has_only_those_of_its_slice() {
    let mem = with_odd(0x4000, Some(0x1000));
    assert_eq!(pop_buffer(&mem, RAM, 0x1000), Ok(0x1000));
    let behind = RAM + 0x1000;
    assert_eq!(pop_buffer(&mem, behind, 1), Err(QueueError::Unmapped { addr: behind, len: 1 }));
    assert_eq!(pop_buffer(&mem, RAM, 0x1001), Err(QueueError::Unmapped { addr: RAM, len: 0x1001 }));
}

#[test]
fn a_region_that_reports_too_few_bytes_has_no_more_than_those() {
    let mem = with_odd(0x1000, Some(0x4000));
    assert_eq!(pop_buffer(&mem, RAM, 0x1000), Ok(0x1000));
    assert_eq!(pop_buffer(&mem, RAM, 0x1001), Err(QueueError::Unmapped { addr: RAM, len: 0x1001 }));
}

#[test]
fn a_read_only_region_of_vm_memory_is_an_error() {
    let rom =
        MmapRegion::build(None, 4096, libc::PROT_READ, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS).unwrap();
    let ram = MmapRegion::new(RAM as usize).unwrap();
    let regions = vec![
        GuestRegionMmap::new(ram, GuestAddress(0)).unwrap(),
        GuestRegionMmap::new(rom, GuestAddress(RAM)).unwrap(),
    ];
    let mem = Arc::new(VmMemory::from_regions(regions).unwrap());
    assert_eq!(pop_buffer(&mem, 0x8000, 16), Ok(16));
    assert_eq!(pop_buffer(&mem, RAM, 16), Err(QueueError::Unmapped { addr: RAM, len: 16 }));
}
