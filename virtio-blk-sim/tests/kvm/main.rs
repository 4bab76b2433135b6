//! try
use aio::*;
use std::rc::Rc;
use std::sync::Arc;
use virtio_blk_sim::backend::Backend;
use virtio_blk_sim::device::*;
use virtio_blk_sim::guest::kvm::*;
use virtio_blk_sim::guest::*;
#[test]
fn first() {
    for (doorbell, line) in
        [(Doorbell::Pio, Line::Msi), (Doorbell::Mmio, Line::Msi), (Doorbell::Pio, Line::Level)]
    {
        for features in [Features::EVENT_IDX, Features::NONE] {
            for depth in [1u16, 8, 64] {
                let shape = KvmShape { features, slots: depth, block_bytes: 4096 };
                let device = BlockDevice::new(DeviceConfig::new(8192)).unwrap();
                let transport = Arc::new(shape.transport(device, Reset::Autoreset).unwrap());
                let mut guest =
                    KvmGuest::new(&transport, shape, &KvmOptions { doorbell, line, ..Default::default() })
                        .unwrap();
                let wires = Arc::clone(guest.wires());
                let thread = IoThread::spawn_with("device", AioContext::builder(), move |context| {
                    let a = Rc::new(transport.attach(context, Backend::memory(8192)?)?);
                    let level = wires.level(context)?;
                    let level = level.map(|(i, r)| {
                        a.set_interrupt(i);
                        r
                    });
                    Ok((a, level))
                })
                .unwrap();
                let s = guest.stats().unwrap();
                let report = guest
                    .run(&Workload {
                        pattern: Pattern::RandRw,
                        iodepth: depth,
                        stop: Stop::Requests(2000),
                        verify: true,
                        seed: 1,
                    })
                    .unwrap();
                println!(
                    "{doorbell:?} {line:?} {:?} depth {depth} {features:?} {} requests, {} kicks, {} interrupts, {:?} {:?} {} {} {:?}",
                    guest.execution(),
                    report.requests,
                    report.kicks,
                    report.interrupts,
                    report.elapsed,
                    guest.stats().unwrap() - s,
                    guest.returns(),
                    guest.wires().kick_returns(),
                    thread.run(|c| c.stats().syscalls_read)
                );
                thread.stop().unwrap();
            }
        }
    }
}
