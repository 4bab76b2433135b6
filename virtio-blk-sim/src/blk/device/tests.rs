//! Tests of the device alone: features, configuration space, cache mode, and requests in flight.
//! [`guests`] tests what a hostile guest can post, [`properties`] what holds for any chain.

mod guests;
mod properties;

use std::io;
use std::mem::offset_of;
use std::sync::Arc;

use virtio_bindings::virtio_blk::{self as vb, virtio_blk_config as Space};

use super::test_rig::{Posted, Rig, disk_content, header, range};
use super::*;
use crate::memory::{GuestAddress, GuestRam};
use crate::virtqueue::Chain;

fn device(change: impl FnOnce(&mut DeviceConfig)) -> BlockDevice {
    let mut config = DeviceConfig::new(1000);
    change(&mut config);
    BlockDevice::new(config).unwrap()
}

fn negotiated(features: Features) -> BlockDevice {
    let device = device(|_| ());
    device.negotiate(features | Features::VERSION_1).unwrap();
    device
}

fn config_bytes<const N: usize>(device: &BlockDevice, offset: usize) -> [u8; N] {
    let mut bytes = [0xee; N];
    device.read_config(offset as u64, &mut bytes);
    bytes
}

fn writeback(device: &BlockDevice) -> u8 {
    config_bytes::<1>(device, offset_of!(Space, wce))[0]
}

#[test]
fn offers_the_features_of_the_configuration() {
    let always = Features::VERSION_1
        | Features::INDIRECT_DESC
        | Features::EVENT_IDX
        | Features::SEG_MAX
        | Features::BLK_SIZE
        | Features::TOPOLOGY
        | Features::FLUSH
        | Features::CONFIG_WCE;
    assert_eq!(device(|_| ()).offered(), always | Features::DISCARD | Features::WRITE_ZEROES);
    assert_eq!(device(|config| config.read_only = true).offered(), always | Features::RO);
    let plain = device(|config| {
        config.discard = false;
        config.write_zeroes = false;
        config.num_queues = 4;
    });
    assert_eq!(plain.offered(), always | Features::MQ);
}

#[test]
fn accepts_only_a_subset_of_the_offered_features() {
    let device = device(|_| ());
    for foreign in [Features::MQ, Features::RO, Features::from_bits(1 << 7), Features::from_bits(1 << 63)] {
        assert_eq!(
            device.negotiate(Features::VERSION_1 | foreign | Features::FLUSH),
            Err(FeatureError::NotOffered(foreign))
        );
        assert_eq!(device.negotiated(), Features::NONE);
    }
    let some = Features::VERSION_1 | Features::FLUSH;
    device.negotiate(some).unwrap();
    assert_eq!(device.negotiated(), some);
    device.negotiate(Features::MQ | some).unwrap_err();
    assert_eq!(device.negotiated(), some, "refused features must change nothing");
    device.reset();
    assert_eq!(device.negotiated(), Features::NONE);
}

#[test]
fn a_legacy_driver_is_served_where_its_byte_order_is_known() {
    for (accepted, write_through) in [(Features::FLUSH, false), (Features::NONE, true)] {
        let device = device(|_| ());
        if crate::queue::SERVES_LEGACY {
            device.negotiate(accepted).unwrap();
            assert_eq!((device.negotiated(), device.is_write_through()), (accepted, write_through));
        } else {
            assert_eq!(device.negotiate(accepted), Err(FeatureError::Legacy));
        }
    }
}

/// A frontend passes on a driver's write before it passes on the features.
#[test]
fn a_cache_mode_that_is_written_before_the_features_counts_if_they_allow_it() {
    let with = Features::VERSION_1 | Features::FLUSH | Features::CONFIG_WCE;
    for (features, expected) in [(with, 0), (with.without(Features::CONFIG_WCE), 1)] {
        let device = device(|_| ());
        device.write_config(offset_of!(Space, wce) as u64, &[0]);
        device.negotiate(features).unwrap();
        assert_eq!(writeback(&device), expected);
        assert_eq!(device.is_write_through(), expected == 0);
        // From now on the features decide.
        device.write_config(offset_of!(Space, wce) as u64, &[1 - expected]);
        let changed = features.contains(Features::CONFIG_WCE);
        assert_eq!(writeback(&device), if changed { 1 - expected } else { expected });
    }
}

/// The offsets come from the kernel's own struct.
#[test]
fn the_configuration_space_is_laid_out_as_specified() {
    let device = device(|config| {
        config.capacity_sectors = 0x0000_8102_0304_0506;
        config.logical_block_size = 1024;
        config.physical_block_size = 8192;
        config.optimal_io_size = 65536;
        config.queue_size = 512;
        config.num_queues = 3;
    });
    let mut expected = [0_u8; 96];
    let mut put = |offset: usize, bytes: &[u8]| expected[offset..offset + bytes.len()].copy_from_slice(bytes);
    put(offset_of!(Space, capacity), &0x0000_8102_0304_0506_u64.to_le_bytes());
    put(offset_of!(Space, seg_max), &510_u32.to_le_bytes());
    put(offset_of!(Space, blk_size), &1024_u32.to_le_bytes());
    put(offset_of!(Space, physical_block_exp), &[3]);
    put(offset_of!(Space, min_io_size), &8_u16.to_le_bytes());
    put(offset_of!(Space, opt_io_size), &64_u32.to_le_bytes());
    put(offset_of!(Space, wce), &[1]);
    put(offset_of!(Space, num_queues), &3_u16.to_le_bytes());
    put(offset_of!(Space, max_discard_sectors), &MAX_DISCARD_SECTORS.to_le_bytes());
    put(offset_of!(Space, max_discard_seg), &(MAX_RANGES as u32).to_le_bytes());
    put(offset_of!(Space, discard_sector_alignment), &2_u32.to_le_bytes());
    put(offset_of!(Space, max_write_zeroes_sectors), &MAX_WRITE_ZEROES_SECTORS.to_le_bytes());
    put(offset_of!(Space, max_write_zeroes_seg), &(MAX_RANGES as u32).to_le_bytes());
    put(offset_of!(Space, write_zeroes_may_unmap), &[1]);
    assert_eq!(config_bytes::<96>(&device, 0), expected);
    assert_eq!(
        CONFIG_SPACE_SIZE,
        offset_of!(Space, zoned),
        "the space must end before `zoned`, which is newer than virtio 1.2"
    );

    // A read of any part must return that part of the whole.
    for offset in 0..expected.len() {
        for len in 0..=expected.len() - offset {
            let mut part = vec![0xee; len];
            device.read_config(offset as u64, &mut part);
            assert_eq!(part, expected[offset..offset + len], "{len} bytes at {offset}");
        }
    }
}

#[test]
fn a_read_only_disk_has_no_discard_limits() {
    let device = device(|config| config.read_only = true);
    assert_eq!(config_bytes::<24>(&device, offset_of!(Space, max_discard_sectors)), [0; 24]);
}

#[test]
fn only_the_writeback_byte_can_be_written() {
    let device = negotiated(Features::CONFIG_WCE);
    let before: [u8; CONFIG_SPACE_SIZE] = config_bytes(&device, 0);
    for offset in (0..200).chain([u64::MAX - 1, u64::MAX]).filter(|&offset| offset != 32) {
        device.write_config(offset, &[0]);
        assert_eq!(config_bytes(&device, 0), before, "offset {offset}");
    }
    device.write_config(32, &[]);
    device.write_config(0, &[0; 32]);
    assert_eq!(config_bytes(&device, 0), before);
    device.write_config(32, &[0]);
    assert_eq!(writeback(&device), 0);
    // A write over the whole space changes only that byte.
    device.write_config(0, &[0xff; 100]);
    assert_eq!(config_bytes(&device, 0), before);
}

#[test]
fn the_cache_mode_needs_its_feature_and_ends_with_reset() {
    let device = negotiated(Features::FLUSH);
    device.write_config(32, &[0]);
    assert_eq!(writeback(&device), 1);
    device.negotiate(Features::VERSION_1 | Features::CONFIG_WCE).unwrap();
    device.write_config(32, &[0]);
    assert_eq!(writeback(&device), 0);
    device.reset();
    assert_eq!(writeback(&device), 1);
}

/// Virtio 1.2 section 5.2.6.2: when a completed write is stable.
#[test]
fn writes_are_durable_if_the_driver_cannot_flush_or_turned_the_cache_off() {
    assert!(device(|_| ()).is_write_through(), "nothing negotiated");
    assert!(negotiated(Features::NONE).is_write_through(), "the driver cannot flush");
    assert!(!negotiated(Features::FLUSH).is_write_through());
    let switchable = negotiated(Features::CONFIG_WCE);
    assert!(!switchable.is_write_through());
    switchable.write_config(32, &[0]);
    assert!(switchable.is_write_through());

    let strict = device(|config| config.writeback = false);
    strict.negotiate(Features::VERSION_1 | Features::FLUSH).unwrap();
    assert!(strict.is_write_through(), "the configuration turns the cache off");
}

#[test]
fn configurations_that_cannot_work_are_refused() {
    let refused = |change: fn(&mut DeviceConfig)| {
        let mut config = DeviceConfig::new(1000);
        change(&mut config);
        BlockDevice::new(config).unwrap_err()
    };
    assert_eq!(refused(|c| c.logical_block_size = 0), ConfigError::BlockSize("logical", 0));
    assert_eq!(refused(|c| c.logical_block_size = 1000), ConfigError::BlockSize("logical", 1000));
    assert_eq!(refused(|c| c.logical_block_size = 1024), ConfigError::BlockSize("physical", 512));
    assert_eq!(refused(|c| c.request_alignment = 256), ConfigError::BlockSize("smallest backend", 256));
    assert_eq!(
        refused(|c| c.request_alignment = 4096),
        ConfigError::BlockSizeTooSmall { logical: 512, needed: 4096 }
    );
    assert_eq!(refused(|c| c.capacity_sectors = 1 << 54), ConfigError::Capacity(1 << 54));
    let sectors = |sectors| {
        let config = DeviceConfig::new(sectors);
        BlockDevice::new(DeviceConfig { logical_block_size: 4096, physical_block_size: 4096, ..config })
    };
    assert_eq!(sectors(2049).unwrap_err(), ConfigError::PartOfBlock { sectors: 2049, logical: 4096 });
    let disk = sectors(2048).unwrap();
    assert_eq!(disk.resize(4095), Err(ConfigError::PartOfBlock { sectors: 4095, logical: 4096 }));
    assert_eq!(disk.capacity_sectors(), 2048);
    for size in [0, 1, 2, 100, 2048] {
        let config = DeviceConfig { queue_size: size, ..DeviceConfig::new(8) };
        assert_eq!(BlockDevice::new(config).unwrap_err(), ConfigError::QueueSize(size));
    }
    assert_eq!(refused(|c| c.num_queues = 0), ConfigError::NumQueues(0));
    assert_eq!(refused(|c| c.num_queues = 257), ConfigError::NumQueues(257));
    BlockDevice::new(DeviceConfig::new(0)).unwrap();
    BlockDevice::new(DeviceConfig::new(i64::MAX as u64 / 512)).unwrap();
}

#[test]
fn serial_numbers_are_padded_and_checked() {
    assert_eq!(Serial::new("abc").unwrap().as_bytes(), b"abc\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    assert_eq!(Serial::new("12345678901234567890").unwrap().as_bytes(), b"12345678901234567890");
    assert_eq!(Serial::new("123456789012345678901"), Err(ConfigError::SerialTooLong(21)));
    assert_eq!(Serial::new("a\nb"), Err(ConfigError::SerialCharacters));
    assert_eq!(Serial::new("ä"), Err(ConfigError::SerialCharacters));
}

/// The addresses and lengths of the rest of a request's data.
fn rest(request: &mut PendingRequest) -> Vec<(usize, usize)> {
    request.iovecs().iter().map(|iovec| (iovec.iov_base.addr(), iovec.iov_len)).collect()
}

#[test]
fn iovecs_are_the_data_without_header_and_status_whatever_the_framing() {
    let mut rig = Rig::new(DeviceConfig::new(64));
    let out = [header(vb::VIRTIO_BLK_T_OUT, 5), vec![1; 100]].concat();
    let mut request = rig.begin_pending(&Posted::new().readable(&out).readable(&[2; 412]).status());
    assert_eq!((request.offset(), request.remaining()), (5 * 512, 512));
    let all = rest(&mut request);
    assert_eq!(all.iter().map(|&(_, len)| len).collect::<Vec<_>>(), [100, 412]);

    // The rest after a partial transfer, in the middle of a segment and at the end of one.
    request.advance(40);
    assert_eq!(rest(&mut request), [(all[0].0 + 40, 60), all[1]]);
    assert_eq!(request.offset(), 5 * 512 + 40);
    request.advance(60);
    assert_eq!(rest(&mut request), [all[1]]);
    request.advance(412);
    assert_eq!((rest(&mut request), request.remaining()), (vec![], 0));
    assert_eq!(rig.complete(request.finish(Ok(()))), 1);

    let mut request = rig.begin_pending(&Posted::request(vb::VIRTIO_BLK_T_IN, 0).writable(500).writable(13));
    assert_eq!(rest(&mut request).iter().map(|&(_, len)| len).collect::<Vec<_>>(), [500, 12]);
    request.advance(512);
    assert_eq!(rig.complete(request.finish(Ok(()))), 513);
}

#[test]
fn iovecs_stay_in_place_while_the_request_moves() {
    let mut rig = Rig::new(DeviceConfig::new(64));
    let mut request = rig.begin_pending(&Posted::request(vb::VIRTIO_BLK_T_IN, 0).writable(512).status());
    let (array, first) = (request.iovecs().as_ptr(), request.iovecs()[0].iov_base);
    let mut elsewhere = vec![request];
    elsewhere.reserve(1000);
    let mut request = elsewhere.pop().unwrap();
    assert_eq!((request.iovecs().as_ptr(), request.iovecs()[0].iov_base), (array, first));
    rig.complete(request.finish_without_data());
}

#[test]
fn short_transfers_go_on_where_they_stopped() {
    let mut rig = Rig::new(DeviceConfig::new(64));
    let mut request = rig.begin_pending(&Posted::request(vb::VIRTIO_BLK_T_IN, 3).writable(1024).status());
    for done in [1, 510, 512] {
        assert_eq!(request.put_data(&[7; 1]), 1);
        request = match request.transferred(done) {
            Transfer::Short(request) => request,
            Transfer::Complete(finished) => {
                assert_eq!(done, 512, "only the last transfer may complete the request");
                assert_eq!(finished.status(), Some(Status::Ok));
                assert_eq!(rig.complete(finished), 1025);
                return;
            }
        };
    }
    panic!("1024 bytes were transferred, but the request goes on");
}

#[test]
fn a_transfer_of_nothing_is_an_error_and_not_a_loop() {
    let mut rig = Rig::new(DeviceConfig::new(64));
    let request = rig.begin_pending(&Posted::request(vb::VIRTIO_BLK_T_IN, 3).writable(1024).status());
    let Transfer::Short(request) = request.transferred(512) else { panic!("512 of 1024 is short") };
    let Transfer::Complete(finished) = request.transferred(0) else { panic!("0 cannot go on") };
    assert_eq!(finished.status(), Some(Status::IoErr));
    assert_eq!(rig.complete(finished), 513, "the bytes read before must be counted");
}

#[test]
fn success_with_missing_data_is_an_io_error() {
    let mut rig = Rig::new(DeviceConfig::new(64));
    for kind in [vb::VIRTIO_BLK_T_IN, vb::VIRTIO_BLK_T_OUT] {
        let posted = Posted::request(kind, 0);
        let posted =
            if kind == vb::VIRTIO_BLK_T_IN { posted.writable(512) } else { posted.readable(&[1; 512]) };
        let mut request = rig.begin_pending(&posted.status());
        request.advance(511);
        let finished = request.finish(Ok(()));
        assert_eq!(finished.status(), Some(Status::IoErr));
        rig.complete(finished);
    }
}

#[test]
fn more_segments_than_the_kernel_accepts_become_a_short_transfer() {
    let memory = GuestRam::new(1 << 20).unwrap().memory().clone();
    let piece = |at: u64| (GuestAddress(4096 + at * 16), 8);
    let writable: Vec<_> = (0..1280).map(piece).chain([(GuestAddress(64), 1)]).collect();
    let chain = Chain::from_buffers(Arc::clone(&memory), 9, &[(GuestAddress(0), 16)], &writable).unwrap();
    let Started::Pending(mut request) = RequestSlot::new(chain).begin(&device(|_| ())) else {
        panic!("an In of 20 sectors is fine")
    };
    assert_eq!((request.head(), request.remaining(), request.iovecs().len()), (9, 10240, 1024));
    request.advance(8192);
    assert_eq!(request.iovecs().len(), 256);
    request.put_zeros();
    assert_eq!(request.finish(Ok(())).written(), 10241);
}

#[test]
fn data_is_copied_only_in_the_direction_of_the_request() {
    let mut rig = Rig::new(DeviceConfig::new(64));
    let mut request = rig.begin_pending(&Posted::request(vb::VIRTIO_BLK_T_IN, 0).writable(512).status());
    assert_eq!(request.take_data(&mut [0; 512]), 0);
    assert_eq!(
        request.put_data(&disk_content(2)),
        512,
        "only the data may be filled; the status byte follows it"
    );
    rig.complete(request.finish(Ok(())));
    let posted = Posted::request(vb::VIRTIO_BLK_T_OUT, 0).readable(&[1; 512]).status();
    let mut request = rig.begin_pending(&posted);
    assert_eq!(request.put_data(&[0; 512]), 0);
    assert_eq!(request.take_data(&mut [0; 1024]), 512);
    rig.complete(request.finish(Ok(())));
    let mut request = rig.begin_pending(&Posted::request(vb::VIRTIO_BLK_T_FLUSH, 0).status());
    assert_eq!(
        (request.put_data(&[0; 1]), request.take_data(&mut [0; 1]), request.iovecs().len()),
        (0, 0, 0)
    );
    assert_eq!((request.remaining(), request.offset()), (0, 0));
    let finished = request.finish(Err(io::Error::from_raw_os_error(libc::ENOSPC)));
    assert_eq!(finished.status(), Some(Status::IoErr));
    rig.complete(finished);
}

#[test]
fn each_range_keeps_its_own_unmap_flag() {
    let mut rig = Rig::new(DeviceConfig::new(64));
    let list = [range(1, 2, 1), range(3, 0, 0), range(60, 4, 1)].concat();
    let request =
        rig.begin_pending(&Posted::request(vb::VIRTIO_BLK_T_WRITE_ZEROES, 0).readable(&list).status());
    let Operation::WriteZeroes { ranges, durable: false } = request.operation() else {
        panic!("{request:?}")
    };
    let expected = [(1, 2, true), (3, 0, false), (60, 4, true)];
    let expected = expected.map(|(sector, sectors, unmap)| SectorRange { sector, sectors, unmap });
    assert_eq!(ranges[..], expected);
    assert_eq!((ranges[2].offset(), ranges[2].len_bytes()), (60 * 512, 4 * 512));
    rig.complete(request.finish(Ok(())));
}

#[test]
fn ranges_longer_than_offered_are_refused() {
    let mut rig = Rig::new(DeviceConfig::new(1 << 40));
    for (kind, max) in [
        (vb::VIRTIO_BLK_T_DISCARD, MAX_DISCARD_SECTORS),
        (vb::VIRTIO_BLK_T_WRITE_ZEROES, MAX_WRITE_ZEROES_SECTORS),
    ] {
        for (sectors, error) in
            [(max, None), (max + 1, Some(RequestError::RangeTooLong { sectors: max + 1, max }))]
        {
            let posted = Posted::request(kind, 0).readable(&range(1, sectors, 0)).status();
            let answer = rig.run(&posted, |request| request.finish(Ok(())));
            assert_eq!((answer.error, answer.status()), (error, Some(error.is_some().into())));
        }
    }
}

/// The state that an earlier request left in a slot must not affect the next one.
#[test]
fn a_reused_slot_keeps_nothing_of_the_previous_request() {
    let mut rig = Rig::new(DeviceConfig::new(64));
    let Started::Finished(refused) = rig.begin(&Posted::request(77, 0).status()) else { panic!("type 77") };
    assert_eq!(refused.error(), Some(&RequestError::UnknownType(77)));
    rig.complete(refused);
    let mut request = rig.begin_pending(&Posted::request(vb::VIRTIO_BLK_T_IN, 2).writable(512).status());
    request.put_zeros();
    let finished = request.finish(Ok(()));
    assert_eq!((finished.error(), finished.written()), (None, 513));
    rig.complete(finished);
    let request = rig.begin_pending(&Posted::request(vb::VIRTIO_BLK_T_IN, 2).writable(512).status());
    assert_eq!((request.remaining(), request.offset()), (512, 1024));
    rig.complete(request.finish_without_data());
}
