complete -c vhost-user-blk -l socket -l socket-path -d 'Listen on a Unix socket at this path; only its owner may connect (mode 0600), unless --socket-mode or --socket-owner says otherwise' -r -F
complete -c vhost-user-blk -l fd -d 'Serve frontends on this inherited file descriptor: a socket that listens, or one that is connected to the only frontend; then the program exits when that disconnects' -r
complete -c vhost-user-blk -l config -d 'Serve the disks that this file describes (TOML). Of the other options, only those of the log and of the metrics have a meaning then' -r -F
complete -c vhost-user-blk -l log-level -d 'Write log messages of this level and of those before it' -r -f -a "off\t''
error\t''
warn\t''
info\t''"
complete -c vhost-user-blk -l log-format -d 'Write log messages as lines of text, or each as one JSON object with its level, time and fields (device, queue, sector, errno)' -r -f -a "text\t''
json\t''"
complete -c vhost-user-blk -l log-file -d 'Write log messages to the end of this file instead of stderr' -r -F
complete -c vhost-user-blk -l metrics -d 'Serve metrics as OpenMetrics text on a Unix socket at this path (mode 0600), to HTTP clients (curl --unix-socket PATH http://vub/metrics) and to those that send an empty line' -r -F
complete -c vhost-user-blk -l metrics-file -d 'Write metrics as OpenMetrics text to this file now and then, for the textfile collector of node_exporter. The file is replaced by rename(2)' -r -F
complete -c vhost-user-blk -l metrics-interval -d 'How often --metrics-file is written' -r
complete -c vhost-user-blk -l socket-mode -d 'Mode of the socket, in octal: who may connect [default: 600]' -r
complete -c vhost-user-blk -l socket-owner -d 'Give the socket to this user, user:group, or :group (names or numbers). A group alone needs no root if the server is a member of it' -r
complete -c vhost-user-blk -l image -l blk-file -d 'Serve this disk image or block device. It is locked as by QEMU: only one program may write to it, several may read it' -r -F
complete -c vhost-user-blk -l lock -d 'When the image is locked: from the start of this program to its end, or only while a guest\'s queues run. With `running`, the source and the destination of a live migration on one host can both be started; a queue waits until the other program has given the image back' -r
complete -c vhost-user-blk -l format -d 'Format of the image. raw: serve it as it is. qcow2: needs a build with the feature imago. auto: what the header says; without a header raw, which needs --read-only. By default it is raw, and refused if it has the header of another format (qcow2, VMDK, VHDX, VHD, VDI, QED, Parallels, DMG, Bochs, cloop). A guest can write such a header to its raw disk, which is then refused at the next start unless raw is given' -r
complete -c vhost-user-blk -l allow-backing -d 'Let a qcow2 image use the files of this directory as backing files or as its data file; may be given several times. Without it, no file that the image names is opened' -r -F
complete -c vhost-user-blk -l null -d 'Serve a disk of this size that stores nothing, to measure the cost of everything except the disk' -r
complete -c vhost-user-blk -l memory -d 'Serve a disk of this size in memory; its contents are lost at exit' -r
complete -c vhost-user-blk -l serial -d 'Serial number of the disk, up to 20 characters' -r
complete -c vhost-user-blk -l block-size -d 'Logical block size that the guest sees, in bytes [default: 512, or what --direct requires]' -r
complete -c vhost-user-blk -l queues -d 'Number of request queues, 1 to 256' -r
complete -c vhost-user-blk -l queue-size -d 'Largest useful queue size in entries, a power of two from 4 to 1024; it sets SEG_MAX, the maximum number of data segments per request that the guest sees. Requests of up to 1022 segments are served in any case' -r
complete -c vhost-user-blk -l engine -d 'How the image\'s I/O is done, as `aio` of QEMU\'s -blockdev. auto: with --direct io_uring, or threads if the I/O thread has none; else also calls in the I/O thread, as long as they are short. io_uring: the I/O thread\'s. threads: a few for each queue. linux-aio: QEMU\'s native; needs --direct' -r
complete -c vhost-user-blk -l mapping -d 'I/O thread of each queue, such as 0,0,1; queues beyond the end of the list are assigned round robin' -r
complete -c vhost-user-blk -l iops -d 'Limit on requests per second, all queues together' -r
complete -c vhost-user-blk -l bps -d 'Limit on bytes per second, all queues together' -r
complete -c vhost-user-blk -l control -d 'Let programs add, remove and change disks over a Unix socket at this path; only its owner may connect (mode 0600)' -r -F
complete -c vhost-user-blk -l monitor -d 'System call that the event loops wait in: poll, epoll or io_uring [default: the best one this kernel supports]' -r
complete -c vhost-user-blk -l reset -d 'How the eventfds of kicks are reset: classic (one read(2) per kick), autoreset (the best method available), or one method: edge, ring-read, ring-read-multishot, kernel-flag' -r
complete -c vhost-user-blk -l busy-poll -d 'Busy-poll the queues for up to this many nanoseconds before sleeping; QEMU\'s IOThreads use 32768' -r
complete -c vhost-user-blk -l linger -d 'After handling requests, keep polling the queues for twice as long as the work took, but at most this many nanoseconds, before sleeping; 0 turns this off' -r
complete -c vhost-user-blk -l threads -d 'Number of I/O threads to spread the queues over, at most one per queue; 0 serves all queues from the main thread' -r
complete -c vhost-user-blk -l user -d 'After everything is open, become this user (a name or a number), with its group, without supplementary groups and capabilities. Needs root' -r
complete -c vhost-user-blk -l group -d 'After everything is open, become this group (a name or a number) [default: that of --user]' -r
complete -c vhost-user-blk -l pid-file -d 'Write the process id to this file when the disk is served, and keep it locked. A file that nobody has locked is replaced' -r -F
complete -c vhost-user-blk -l stats -d 'Print statistics every this many seconds, if any requests were served in that time' -r
complete -c vhost-user-blk -l sandbox -d 'After start-up, drop all rights that serving does not need: seccomp (any other system call kills the process), landlock and no_new_privs. Strictest with --monitor epoll, which does not need the system calls of io_uring. Not with --config or --control: opening a disk later needs the rights that this takes away' -r
complete -c vhost-user-blk -l read-only -d 'Refuse every request that would change the disk'
complete -c vhost-user-blk -l direct -d 'Bypass the page cache (open the image with O_DIRECT)'
complete -c vhost-user-blk -l print-capabilities -d 'Print what this program can do as JSON, as QEMU\'s conventions for vhost-user programs define it, and exit. Everything else on the command line is ignored then'
complete -c vhost-user-blk -s h -l help -d 'Print help'
complete -c vhost-user-blk -s V -l version -d 'Print version'
