//! A row of the table: what the guest posts, and what it gets. The tests of the transports run the
//! same rows.

use virtio_bindings::virtio_blk as vb;

use super::{DeviceConfig, Features, Posted, Serial, disk_content};

pub(crate) const IN: u32 = vb::VIRTIO_BLK_T_IN;
pub(crate) const OUT: u32 = vb::VIRTIO_BLK_T_OUT;
pub(crate) const FLUSH: u32 = vb::VIRTIO_BLK_T_FLUSH;
pub(crate) const GET_ID: u32 = vb::VIRTIO_BLK_T_GET_ID;
pub(crate) const DISCARD: u32 = vb::VIRTIO_BLK_T_DISCARD;
pub(crate) const WRITE_ZEROES: u32 = vb::VIRTIO_BLK_T_WRITE_ZEROES;

pub(crate) const OK: Option<u8> = Some(0);
pub(crate) const IOERR: Option<u8> = Some(1);
pub(crate) const UNSUPP: Option<u8> = Some(2);
/// There is no status byte to answer in.
pub(crate) const SILENCE: Option<u8> = None;

/// Size of the disk in sectors.
pub(crate) const CAPACITY: u64 = 64;
pub(crate) const SERIAL: &str = "sim-0123456789abcdef";

pub(crate) struct Row {
    pub(crate) case: u32,
    pub(crate) name: &'static str,
    pub(crate) config: fn(&mut DeviceConfig),
    pub(crate) refuse: Features,
    pub(crate) posted: Posted,
    pub(crate) status: Option<u8>,
    /// The expected data at the start of the writable part. The rest must be unchanged, except for
    /// the status.
    pub(crate) data: Vec<u8>,
    /// Expected changes of the disk: a byte offset, and the bytes there.
    pub(crate) disk: Vec<(usize, Vec<u8>)>,
}

impl Row {
    /// A chain that changes nothing except the status.
    pub(crate) fn chain(case: u32, name: &'static str, posted: Posted, status: Option<u8>) -> Self {
        let (data, disk) = (Vec::new(), Vec::new());
        Self { case, name, config: |_| (), refuse: Features::NONE, posted, status, data, disk }
    }

    /// Changes the configuration of the device.
    pub(crate) fn config(self, config: fn(&mut DeviceConfig)) -> Self {
        Self { config, ..self }
    }

    /// Features that the driver does not accept.
    pub(crate) fn refuse(self, refuse: Features) -> Self {
        Self { refuse, ..self }
    }

    /// The data that the guest finds before the status.
    pub(crate) fn data(self, data: &[u8]) -> Self {
        Self { data: data.to_vec(), ..self }
    }

    /// The expected content of the disk at a sector.
    pub(crate) fn disk(mut self, sector: u64, bytes: &[u8]) -> Self {
        self.disk.push((sector as usize * 512, bytes.to_vec()));
        self
    }

    pub(crate) fn zeroes(self, sector: u64, sectors: usize) -> Self {
        self.disk(sector, &vec![0; sectors * 512])
    }

    /// Returns the configuration of the device for this row.
    pub(crate) fn device_config(&self) -> DeviceConfig {
        let mut config = DeviceConfig::new(CAPACITY);
        config.serial = Serial::new(SERIAL).unwrap();
        (self.config)(&mut config);
        config
    }

    /// Returns the expected writable part, if it was filled with `background` before.
    pub(crate) fn writable(&self, background: u8) -> Vec<u8> {
        let mut writable = self.data.clone();
        writable.resize(self.posted.writable_len(), background);
        if let (Some(status), Some(last)) = (self.status, writable.last_mut()) {
            *last = status;
        }
        writable
    }

    /// Returns the expected used length: exactly the bytes that were written.
    pub(crate) fn written(&self) -> u32 {
        self.data.len() as u32 + u32::from(self.status.is_some())
    }

    /// Returns the expected content of the whole disk afterwards.
    pub(crate) fn disk_after(&self) -> Vec<u8> {
        let mut content = disk_content(CAPACITY);
        for (at, bytes) in &self.disk {
            content[*at..at + bytes.len()].copy_from_slice(bytes);
        }
        content
    }
}

/// Returns the initial content of some sectors.
pub(crate) fn disk(sector: u64, sectors: u64) -> Vec<u8> {
    disk_content(CAPACITY)[sector as usize * 512..(sector + sectors) as usize * 512].to_vec()
}

/// The data that the guest writes. Does not occur on the disk before.
pub(crate) fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|at| 201 + (at % 37) as u8).collect()
}

pub(crate) fn read(sector: u64, len: usize) -> Posted {
    Posted::request(IN, sector).writable(len).status()
}

pub(crate) fn write(sector: u64, len: usize) -> Posted {
    Posted::request(OUT, sector).readable(&payload(len)).status()
}

pub(crate) fn ranges(kind: u32, list: &[u8]) -> Posted {
    Posted::request(kind, 0).readable(list).status()
}
