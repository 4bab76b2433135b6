//! The rows of the table.

use virtio_bindings::virtio_blk as vb;

use super::rows::{
    CAPACITY, DISCARD, FLUSH, GET_ID, IN, IOERR, OK, OUT, Row, SERIAL, SILENCE, UNSUPP, WRITE_ZEROES, disk,
    payload, ranges, read, write,
};
use super::{DeviceConfig, Features, Posted, header, range};

/// Rows have the form `case "name": posted chain => status`, followed by other expected effects.
/// Everything that is not mentioned must be unchanged: data, disk, and all other memory.
macro_rules! rows {
    ($($case:literal $name:literal: $posted:expr => $status:ident $(.$seen:ident($($what:expr),*))*;)*) => {
        vec![$(Row::chain($case, $name, $posted, $status)$(.$seen($($what),*))*,)*]
    };
}

pub(crate) fn table() -> Vec<Row> {
    let chains = [framing(), types(), transfers(), others(), discards(), discards_of_both_kinds()];
    chains.into_iter().flatten().collect()
}

fn joined(kind: u32, sector: u64, data: &[u8]) -> Vec<u8> {
    [&header(kind, sector), data].concat()
}

fn get_id() -> Posted {
    Posted::request(GET_ID, 0)
}

fn flush() -> Posted {
    Posted::request(FLUSH, 0)
}

fn framing() -> Vec<Row> {
    let get = &header(IN, 3);
    let put = &joined(OUT, 3, &payload(512));
    let bytewise = || get.iter().fold(Posted::new(), |posted, byte| posted.readable(&[*byte]));
    rows! {
        39 "header and nothing else": Posted::request(IN, 0) => SILENCE;
        39 "header and data, no status": Posted::request(OUT, 0).readable(&payload(512)) => SILENCE;
        40 "nothing readable": Posted::new().writable(512).status() => IOERR;
        41 "header of 15 bytes": Posted::new().readable(&get[..15]).writable(512).status() => IOERR;
        41 "header of 1 byte": Posted::new().readable(&get[..1]).status() => IOERR;
        42 "header in two pieces":
            Posted::new().readable(&get[..7]).readable(&get[7..]).writable(512).status()
            => OK .data(&disk(3, 1));
        42 "header in sixteen pieces": bytewise().writable(512).status() => OK .data(&disk(3, 1));
        43 "header with data": Posted::new().readable(put).status() => OK .disk(3, &payload(512));
        43 "half of the header, the rest with data, more data":
            Posted::new().readable(&put[..8]).readable(&put[8..100]).readable(&put[100..]).status()
            => OK .disk(3, &payload(512));
        44 "status at the end of the data": Posted::request(IN, 3).writable(513) => OK .data(&disk(3, 1));
        44 "status after two pieces of data": Posted::request(IN, 3).writable(1000).writable(25)
            => OK .data(&disk(3, 2));
        45 "status piece of 3 bytes": Posted::request(IN, 3).writable(510).writable(3)
            => OK .data(&disk(3, 1));
        45 "status piece of 4 bytes on a flush": flush().writable(4) => OK;
        45 "status piece of 2 bytes on a write": Posted::request(OUT, 3).readable(&payload(512)).writable(2)
            => IOERR;
        46 "read-only status on a write": Posted::request(OUT, 0).readable(&payload(512)).readable(&[0xff])
            => SILENCE;
        46 "read-only status on a flush": flush().readable(&[0xff]) => SILENCE;
        47 "writable header": Posted::new().writable(16).writable(512).status() => IOERR;
    }
}

fn types() -> Vec<Row> {
    const BARRIER: u32 = vb::VIRTIO_BLK_T_BARRIER;
    const SECURE_ERASE: u32 = vb::VIRTIO_BLK_T_SECURE_ERASE;
    let lists: [(_, _, &[u32]); 5] = [
        (48, "unknown type", &[3, 5, 6, 7, 9, 12, 28, 0x100, 0x0100_0000, u32::MAX]),
        (49, "SCSI command", &[vb::VIRTIO_BLK_T_SCSI_CMD]),
        (50, "barrier bit", &[BARRIER | IN, BARRIER | OUT]),
        (77, "lifetime and secure erase", &[10, SECURE_ERASE]),
        (77, "zones", &[15, 16, 17, 18, 20, 22, 24, 26]),
    ];
    let unsupported = |(case, name, kinds): (u32, &'static str, &'static [u32])| {
        let post = |&kind: &u32| Posted::request(kind, 0).writable(512).status();
        kinds.iter().map(move |kind| Row::chain(case, name, post(kind), UNSUPP))
    };
    let others = rows! {
        48 "unknown type, no data": Posted::request(99, u64::MAX).status() => UNSUPP;
        77 "secure erase with a range": ranges(SECURE_ERASE, &range(0, 1, 0)) => UNSUPP;
    };
    lists.into_iter().flat_map(unsupported).chain(others).collect()
}

fn transfers() -> Vec<Row> {
    let needed = |config: &mut DeviceConfig| {
        (config.logical_block_size, config.physical_block_size) = (4096, 4096);
        config.request_alignment = 4096;
    };
    let advised = |config: &mut DeviceConfig| {
        (config.logical_block_size, config.physical_block_size) = (4096, 4096);
    };
    let small_queue = |config: &mut DeviceConfig| config.queue_size = 32;
    // As many descriptors as the queue has: header with data, 30 more, status. seg_max is 30.
    let pieces = joined(OUT, 3, &payload(512));
    let pieces =
        pieces[..482].chunks(482).chain(pieces[482..].chunks_exact(1).take(29)).chain([&pieces[511..]]);
    let many = pieces.fold(Posted::new(), |posted, piece| posted.readable(piece)).status();
    rows! {
        53 "read of 1 byte": read(0, 1) => IOERR;
        53 "read of 511 bytes": read(0, 511) => IOERR;
        53 "read of 513 bytes": read(0, 513) => IOERR;
        53 "write of 1 byte": write(0, 1) => IOERR;
        53 "write of 513 bytes": write(0, 513) => IOERR;
        54 "write of half a block, backend cannot": write(8, 2048) => IOERR .config(needed);
        54 "read in the middle of a block, backend cannot": read(4, 4096) => IOERR .config(needed);
        54 "whole blocks": read(8, 4096) => OK .config(needed) .data(&disk(8, 8));
        54 "write of a sector of a block, backend can": write(9, 512)
            => OK .config(advised) .disk(9, &payload(512));
        55 "read of nothing": Posted::request(IN, 7).status() => OK;
        55 "write of nothing": Posted::request(OUT, 7).status() => OK;
        55 "read of nothing at the end": Posted::request(IN, CAPACITY).status() => OK;
        55 "read of nothing beyond the end": Posted::request(IN, CAPACITY + 1).status() => IOERR;
        55 "write of nothing on a read-only disk": Posted::request(OUT, 7).status()
            => IOERR .config(read_only);
        56 "read at the end": read(CAPACITY, 512) => IOERR;
        56 "write at the end": write(CAPACITY, 512) => IOERR;
        56 "read far beyond the end": read(CAPACITY + 1000, 512) => IOERR;
        56 "read of the last sector": read(CAPACITY - 1, 512) => OK .data(&disk(CAPACITY - 1, 1));
        56 "write of the last sector": write(CAPACITY - 1, 512) => OK .disk(CAPACITY - 1, &payload(512));
        57 "read over the end": read(CAPACITY - 1, 1024) => IOERR;
        57 "write over the end": write(CAPACITY - 1, 1024) => IOERR;
        58 "sector * 512 is 2^64, read": read(1 << 55, 512) => IOERR;
        58 "sector * 512 is 2^64, write": write(1 << 55, 512) => IOERR;
        58 "sector * 512 wraps to the disk": read((1 << 55) + 3, 512) => IOERR;
        58 "sector is i64::MIN": read(1 << 63, 512) => IOERR;
        58 "last sector there is": read(u64::MAX, 512) => IOERR;
        58 "last sectors there are": write(u64::MAX - 1, 1024) => IOERR;
        59 "more data segments than seg_max": many => OK .config(small_queue) .disk(3, &payload(512));
        60 "one segment of 32 KiB": read(0, 32768) => OK .data(&disk(0, 64));
        83 "failed read counts the status only": read(CAPACITY, 4096) => IOERR;
        83 "read counts data and status": read(0, 4096) => OK .data(&disk(0, 8));
        83 "write counts the status only": write(0, 4096) => OK .disk(0, &payload(4096));
    }
}

fn read_only(config: &mut DeviceConfig) {
    config.read_only = true;
}

fn others() -> Vec<Row> {
    let id = SERIAL.as_bytes();
    let one = &range(0, 1, 0);
    rows! {
        51 "readable data on a read": Posted::request(IN, 0).readable(&payload(512)).status() => IOERR;
        51 "both kinds of data on a read": Posted::request(IN, 0).readable(&[9]).writable(512).status()
            => IOERR;
        52 "writable data on a write": Posted::request(OUT, 0).writable(512).status() => IOERR;
        52 "both kinds of data on a write": write(0, 512).writable(1) => IOERR;
        61 "write on a read-only disk": write(0, 512) => IOERR .config(read_only);
        61 "discard on a read-only disk": ranges(DISCARD, one) => IOERR .config(read_only);
        61 "write zeroes on a read-only disk": ranges(WRITE_ZEROES, one) => IOERR .config(read_only);
        61 "read on a read-only disk": read(3, 512) => OK .config(read_only) .data(&disk(3, 1));
        61 "write by a driver that ignores RO": write(0, 512)
            => IOERR .config(read_only) .refuse(Features::RO);
        62 "flush with a sector": Posted::request(FLUSH, u64::MAX).status() => OK;
        62 "flush with readable data": flush().readable(&payload(100)).status() => OK;
        62 "flush with writable data": flush().writable(512).status() => OK;
        63 "flush without the feature": flush().status() => OK .refuse(Features::FLUSH);
        64 "flush on a read-only disk": flush().status() => OK .config(read_only);
        65 "5 bytes for the id": get_id().writable(5).status() => OK .data(&id[..5]);
        65 "no bytes for the id": get_id().status() => OK;
        66 "20 bytes for the id": get_id().writable(20).status() => OK .data(id);
        66 "64 bytes for the id": get_id().writable(64).status() => OK .data(id);
        66 "21 bytes with the status": get_id().writable(21) => OK .data(id);
        66 "id with a sector": Posted::request(GET_ID, u64::MAX).writable(20).status() => OK .data(id);
        67 "readable buffer for the id": get_id().readable(&[1; 20]).status() => IOERR;
    }
}

fn discards() -> Vec<Row> {
    const UNMAP: u32 = vb::VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
    let good = &range(8, 2, 0);
    let two = &[range(8, 2, 0), range(1, 1, 0)].concat();
    let eight: &Vec<u8> = &(0..8).flat_map(|at| range(at, 1, 0)).collect();
    let cut = joined(WRITE_ZEROES, 0, &[range(8, 2, 0), range(60, 4, UNMAP)].concat());
    let cut = [&cut[..24], &cut[24..33], &cut[33..46], &cut[46..]];
    let cut = cut.iter().fold(Posted::new(), |posted, piece| posted.readable(piece)).status();
    let second_unmaps = &[range(8, 2, 0), range(0, 1, UNMAP)].concat();
    let not_offered = |config: &mut DeviceConfig| (config.discard, config.write_zeroes) = (false, false);
    rows! {
        69 "discard of 2 ranges": ranges(DISCARD, two) => OK .zeroes(8, 2) .zeroes(1, 1);
        69 "write zeroes of 8 ranges": ranges(WRITE_ZEROES, eight) => OK .zeroes(0, 8);
        69 "ranges cut into pieces": cut => OK .zeroes(8, 2) .zeroes(60, 4);
        72 "discard of the whole disk": ranges(DISCARD, &range(0, CAPACITY as u32, 0)) => OK .zeroes(0, 64);
        72 "discard of no sectors at the end": ranges(DISCARD, &range(CAPACITY, 0, 0)) => OK;
        72 "discard with writable data": Posted::request(DISCARD, 0).readable(good).writable(2) => IOERR;
        74 "discard with unmap": ranges(DISCARD, &range(8, 2, UNMAP)) => UNSUPP;
        74 "second range of a discard with unmap": ranges(DISCARD, second_unmaps) => UNSUPP;
        74 "write zeroes with unmap": ranges(WRITE_ZEROES, second_unmaps) => OK .zeroes(8, 2) .zeroes(0, 1);
        75 "discard without the feature": ranges(DISCARD, good) => UNSUPP .refuse(Features::DISCARD);
        75 "write zeroes without the feature": ranges(WRITE_ZEROES, good)
            => UNSUPP .refuse(Features::WRITE_ZEROES);
        75 "discard where it is not offered": ranges(DISCARD, good) => UNSUPP .config(not_offered);
        75 "write zeroes where it is not offered": ranges(WRITE_ZEROES, good) => UNSUPP .config(not_offered);
        76 "discard of nothing": Posted::request(DISCARD, 0).status() => IOERR;
        76 "write zeroes of nothing": Posted::request(WRITE_ZEROES, 0).status() => IOERR;
    }
}

/// Errors in a list of ranges are the same for discard and for write zeroes. No range of such a
/// list is executed.
fn discards_of_both_kinds() -> Vec<Row> {
    let good = range(8, 2, 0);
    let after_good = |bad: &[u8]| [&good, bad].concat();
    let mut lists = vec![
        (68, "8 bytes of ranges", good[..8].to_vec(), IOERR),
        (68, "15 bytes of ranges", good[..15].to_vec(), IOERR),
        (70, "17 bytes of ranges", after_good(&[0]), IOERR),
        (70, "24 bytes of ranges", after_good(&[0; 8]), IOERR),
        (69, "9 ranges", (0..9).flat_map(|at| range(at, 1, 0)).collect(), UNSUPP),
        (69, "1000 ranges", range(0, 1, 0).repeat(1000), UNSUPP),
    ];
    let longest = range(0, u32::MAX, 0);
    lists.push((71, "second range of 2^32-1 sectors", after_good(&longest), IOERR));
    lists.push((71, "range of 2^32-1 sectors", longest, IOERR));
    let end = CAPACITY as u32;
    for (sector, sectors) in
        [(CAPACITY, 1), (0, end + 1), (CAPACITY + 1, 0), (1 << 55, 1), (u64::MAX, 1), (u64::MAX - 1, 4)]
    {
        let bad = range(sector, sectors, 0);
        lists.push((72, "second range beyond the end", after_good(&bad), IOERR));
        lists.push((72, "range beyond the end", bad, IOERR));
    }
    for flags in [2, 3, 1 << 31, u32::MAX] {
        let bad = range(8, 2, flags);
        lists.push((73, "reserved flags in the second range", after_good(&bad), UNSUPP));
        lists.push((73, "reserved flags", bad, UNSUPP));
        // UNSUPP is a MUST in the specification, so it takes precedence over other errors.
        let worse = [range(CAPACITY, 1, 0), range(0, u32::MAX, flags)].concat();
        lists.push((73, "reserved flags, and out of range", worse, UNSUPP));
    }
    let both = |(case, name, list, status): (u32, &'static str, Vec<u8>, Option<u8>)| {
        [DISCARD, WRITE_ZEROES].map(|kind| Row::chain(case, name, ranges(kind, &list), status))
    };
    lists.into_iter().flat_map(both).collect()
}
