"""Boots a Linux guest against our vhost-user daemons and checks what it sees; see ../qemu-guest.py.

The modules, from the ground: errors, process, cpio, packages; image (kernel and initramfs), qemu (the
binary); qmp, agent, machine (a running guest); daemon; lab (what a check works with), checks (what
a check and a device kind are); blk, rng, console (one device kind each).

A new device kind is one file like rng.py, and its name in the list of qemu-guest.py.
"""
