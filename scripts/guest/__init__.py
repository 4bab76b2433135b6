"""Boots a Linux guest against our vhost-user daemons and checks what it sees.

The command is ../qemu-guest.py. The modules, from the ground:

errors, report, process, cpio, packages
image       the guest's kernel and initramfs, with init.sh
qemu        finds a QEMU binary that has a device
qmp, agent  the two connections to a guest: to QEMU's monitor and to init.sh
machine     a running guest
daemon      a vhost-user daemon under test; trace: strace on it; messages: what it is sent
device      what has to be known of a device kind
lab         what a check works with
checks      checks, and the suite of a device kind
blk, rng, console   the suites

A new device kind is one file like rng.py, and its name in SUITES of qemu-guest.py.
"""
