//! KVM's counters of a vCPU: the binary statistics of Linux 5.14 (Documentation/virt/kvm/api.rst,
//! KVM_GET_STATS_FD).
//!
//! The file describes itself: a header gives the offsets of descriptors and values, and each
//! descriptor has a name and the offset of its value. The few values used here are looked up once.
#![expect(unsafe_code, reason = "KVM_GET_STATS_FD is an ioctl that kvm-ioctls does not have")]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;

use kvm_ioctls::VcpuFd;

/// `_IO(KVMIO, 0xce)`
const KVM_GET_STATS_FD: libc::c_ulong = 0xaece;
/// Upper limits for a plausible file; a file above them is not used.
const MOST_DESCRIPTORS: u32 = 4096;
const LONGEST_NAME: u32 = 256;

/// KVM's counters since the vCPU was created. Subtract two snapshots to get an interval.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct VcpuStats {
    /// Exits from the guest, handled in KVM or returned to user space.
    pub exits: u64,
    /// Exits because of IN or OUT, access to a device address, or `hlt`.
    pub io_exits: u64,
    /// Exits because of an access to a device address.
    pub mmio_exits: u64,
    /// Exits because of `hlt`.
    pub halt_exits: u64,
    /// Interrupts injected into the guest.
    pub irq_injections: u64,
    /// Instructions that KVM emulated in software.
    pub insn_emulation: u64,
}

const NAMES: [&str; 6] =
    ["exits", "io_exits", "mmio_exits", "halt_exits", "irq_injections", "insn_emulation"];

impl std::ops::Sub for VcpuStats {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            exits: self.exits.wrapping_sub(earlier.exits),
            io_exits: self.io_exits.wrapping_sub(earlier.io_exits),
            mmio_exits: self.mmio_exits.wrapping_sub(earlier.mmio_exits),
            halt_exits: self.halt_exits.wrapping_sub(earlier.halt_exits),
            irq_injections: self.irq_injections.wrapping_sub(earlier.irq_injections),
            insn_emulation: self.insn_emulation.wrapping_sub(earlier.insn_emulation),
        }
    }
}

/// The statistics file of a vCPU, and the offsets of the values used here.
#[derive(Debug)]
pub(super) struct Statistics {
    file: File,
    /// In the order of [`NAMES`].
    offsets: [u64; NAMES.len()],
}

impl Statistics {
    /// Returns `None` if this kernel has no statistics, or lacks one of these values.
    pub(super) fn of(vcpu: &VcpuFd) -> Option<Self> {
        // SAFETY: this ioctl takes no argument and accesses none of our memory.
        let fd = unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_GET_STATS_FD, 0) };
        if fd < 0 {
            return None;
        }
        // SAFETY: the kernel just returned this descriptor; nothing else owns it.
        let file = unsafe { File::from_raw_fd(fd) };
        let offsets = find(&file).ok()??;
        Some(Self { file, offsets })
    }

    /// Reads the counters, with one pread(2) per value.
    pub(super) fn read(&self) -> io::Result<VcpuStats> {
        let mut values = [0; NAMES.len()];
        for (value, &offset) in values.iter_mut().zip(&self.offsets) {
            let mut bytes = [0; 8];
            self.file.read_exact_at(&mut bytes, offset)?;
            *value = u64::from_ne_bytes(bytes);
        }
        let [exits, io_exits, mmio_exits, halt_exits, irq_injections, insn_emulation] = values;
        Ok(VcpuStats { exits, io_exits, mmio_exits, halt_exits, irq_injections, insn_emulation })
    }
}

/// Finds the offsets of the values of [`NAMES`]. Returns `None` if one is missing or the file is
/// not plausible.
fn find(file: &impl FileExt) -> io::Result<Option<[u64; NAMES.len()]>> {
    // struct kvm_stats_header: flags, name_size, num_desc, id_offset, desc_offset, data_offset.
    let header: [u32; 6] = words(file, 0)?;
    let [_, name_size, count, _, descriptors, data] = header;
    if count > MOST_DESCRIPTORS || name_size > LONGEST_NAME {
        return Ok(None);
    }
    let mut found = [None; NAMES.len()];
    let mut name = vec![0; name_size as usize];
    for index in 0..u64::from(count) {
        // struct kvm_stats_desc: flags, exponent, size (16 bits each), offset, bucket size, name.
        let at = u64::from(descriptors) + index * (16 + u64::from(name_size));
        let [_, _, offset, _] = words(file, at)?;
        file.read_exact_at(&mut name, at + 16)?;
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        if let Some(wanted) = NAMES.iter().position(|wanted| wanted.as_bytes() == name) {
            found[wanted] = Some(u64::from(data) + u64::from(offset));
        }
    }
    let all: Vec<u64> = found.into_iter().flatten().collect();
    Ok(all.try_into().ok())
}

fn words<const N: usize>(file: &impl FileExt, at: u64) -> io::Result<[u32; N]> {
    let mut words = [0; N];
    for (word, at) in words.iter_mut().zip((at..).step_by(4)) {
        let mut bytes = [0; 4];
        file.read_exact_at(&mut bytes, at)?;
        *word = u32::from_ne_bytes(bytes);
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file in memory.
    struct Bytes(Vec<u8>);

    impl FileExt for Bytes {
        fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
            let from =
                usize::try_from(offset).ok().and_then(|offset| self.0.get(offset..)).unwrap_or_default();
            let count = from.len().min(buffer.len());
            buffer[..count].copy_from_slice(&from[..count]);
            Ok(count)
        }

        fn write_at(&self, _: &[u8], _: u64) -> io::Result<usize> {
            Err(io::ErrorKind::Unsupported.into())
        }
    }

    const NAME: usize = 48;

    /// Makes a statistics file with these descriptors: a name, and the offset of its value among
    /// the values.
    fn file(descriptors: &[(&str, u32)]) -> Bytes {
        let data = 24 + descriptors.len() * (16 + NAME);
        let header = [0, NAME as u32, descriptors.len() as u32, 24, 24, data as u32];
        let mut bytes: Vec<u8> = header.iter().flat_map(|word| word.to_ne_bytes()).collect();
        for (name, offset) in descriptors {
            bytes.extend([0, 0, *offset, 0].iter().flat_map(|word| word.to_ne_bytes()));
            let mut field = [0; NAME];
            field[..name.len()].copy_from_slice(name.as_bytes());
            bytes.extend(field);
        }
        Bytes(bytes)
    }

    #[test]
    fn values_are_found_by_their_names() {
        let mut descriptors: Vec<(&str, u32)> = NAMES.iter().copied().zip((0..).step_by(8)).collect();
        descriptors.reverse();
        descriptors.insert(2, ("exits_of_another_kind", 800));
        let found = find(&file(&descriptors)).unwrap().unwrap();
        let data = 24 + 7 * (16 + NAME as u64);
        assert_eq!(found, [0, 8, 16, 24, 32, 40].map(|offset| data + offset));
    }

    #[test]
    fn a_file_that_lacks_a_value_or_is_invalid_is_not_used() {
        let some: Vec<(&str, u32)> = NAMES[1..].iter().map(|name| (*name, 0)).collect();
        assert_eq!(find(&file(&some)).unwrap(), None);
        let mut vast = file(&some);
        vast.0[8..12].copy_from_slice(&u32::MAX.to_ne_bytes());
        assert_eq!(find(&vast).unwrap(), None);
        let all: Vec<(&str, u32)> = NAMES.iter().map(|name| (*name, 0)).collect();
        let mut short = file(&all);
        short.0.truncate(100);
        assert!(find(&short).is_err());
    }
}
