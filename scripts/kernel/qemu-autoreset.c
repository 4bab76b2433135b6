/*
 * EFD_AUTORESET for a program that does not know it, as a preloaded library. Used by
 * `scripts/kernel-lab.sh qemu` for qemu-storage-daemon.
 *
 * - eventfd() adds the flag, if the kernel knows it.
 * - read() and eventfd_read() of such a descriptor return a count of 1 without a system call.
 *   That is right for a program that reads only what poll(2) or epoll_wait(2) has reported, and that
 *   wants to know no more than that it was reported: event_notifier_test_and_clear() of QEMU and
 *   vu_kick_cb() of libvhost-user.
 * - Descriptors that recvmsg() brings are probed. Who sends them must leave them alone until it has
 *   the answer to a later message, or the probe may be wrong. Our client does.
 *
 * Copies by dup() and fcntl() are followed, and close() forgets. A descriptor is forgotten before it
 * is closed, so that another thread that gets the same number is not affected.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define EFD_AUTORESET (1 << 6)
#define DESCRIPTORS 4096

static atomic_uchar resets_itself[DESCRIPTORS];

static int is_marked(int fd)
{
	return (unsigned)fd < DESCRIPTORS &&
	       atomic_load_explicit(&resets_itself[fd], memory_order_relaxed);
}

/* Descriptors above the table are never marked, so they are not made with the flag either. */
static int mark(int fd, int marked)
{
	if ((unsigned)fd < DESCRIPTORS)
		atomic_store_explicit(&resets_itself[fd], marked, memory_order_relaxed);
	return fd;
}

int eventfd(unsigned int initval, int flags)
{
	int fd = -1;

	if (!(flags & EFD_SEMAPHORE))
		fd = syscall(SYS_eventfd2, initval, flags | EFD_AUTORESET);
	if (fd >= 0 && fd < DESCRIPTORS)
		return mark(fd, 1);
	if (fd >= 0)
		syscall(SYS_close, fd);
	return mark(syscall(SYS_eventfd2, initval, flags), 0);
}

ssize_t read(int fd, void *buffer, size_t size)
{
	const uint64_t count = 1;

	if (!is_marked(fd))
		return syscall(SYS_read, fd, buffer, size);
	if (size < sizeof(count)) {
		errno = EINVAL;
		return -1;
	}
	memcpy(buffer, &count, sizeof(count));
	return sizeof(count);
}

ssize_t __read_chk(int fd, void *buffer, size_t size, size_t room)
{
	if (size > room)
		__builtin_trap();
	return read(fd, buffer, size);
}

int eventfd_read(int fd, eventfd_t *value)
{
	return read(fd, value, sizeof(*value)) == sizeof(*value) ? 0 : -1;
}

static int is_readable(int fd)
{
	struct pollfd polled = { .fd = fd, .events = POLLIN };

	return syscall(SYS_poll, &polled, 1, 0) == 1 && (polled.revents & POLLIN);
}

/* fdinfo says what is an eventfd, but only 0002 shows the flag there. For 0001, see what poll does. */
static int probe(int fd)
{
	char path[64], text[512] = "";
	unsigned long long before;
	const char *count;
	uint64_t value = 1;
	int info, first, second;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	info = open(path, O_RDONLY | O_CLOEXEC);
	if (info < 0)
		return 0;
	if (syscall(SYS_read, info, text, sizeof(text) - 1) < 0)
		text[0] = 0;
	syscall(SYS_close, info);
	if (strstr(text, "eventfd-autoreset: 1"))
		return 1;
	count = strstr(text, "eventfd-count:");
	if (!count || sscanf(count, "eventfd-count: %llx", &before) != 1 || before > UINT32_MAX)
		return 0;
	syscall(SYS_write, fd, &value, sizeof(value));
	first = is_readable(fd);
	second = is_readable(fd);
	if (first && second)
		syscall(SYS_read, fd, &value, sizeof(value));
	value = before;
	if (value)
		syscall(SYS_write, fd, &value, sizeof(value));
	return first && !second;
}

ssize_t recvmsg(int socket, struct msghdr *message, int flags)
{
	ssize_t received = syscall(SYS_recvmsg, socket, message, flags);
	struct cmsghdr *part;
	int saved = errno;

	if (received < 0)
		return received;
	for (part = CMSG_FIRSTHDR(message); part; part = CMSG_NXTHDR(message, part)) {
		size_t at, length = part->cmsg_len - CMSG_LEN(0);

		if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS)
			continue;
		for (at = 0; at + sizeof(int) <= length; at += sizeof(int)) {
			int fd;

			memcpy(&fd, CMSG_DATA(part) + at, sizeof(fd));
			mark(fd, 0);
			mark(fd, probe(fd));
		}
	}
	errno = saved;
	return received;
}

int close(int fd)
{
	mark(fd, 0);
	return syscall(SYS_close, fd);
}

int close_range(unsigned int first, unsigned int last, int flags)
{
	unsigned int fd;

	for (fd = first; fd <= last && fd < DESCRIPTORS && !(flags & CLOSE_RANGE_CLOEXEC); fd++)
		mark(fd, 0);
	return syscall(SYS_close_range, first, last, flags);
}

int dup(int fd)
{
	return mark(syscall(SYS_dup, fd), is_marked(fd));
}

int dup3(int fd, int wanted, int flags)
{
	return mark(syscall(SYS_dup3, fd, wanted, flags), is_marked(fd));
}

int dup2(int fd, int wanted)
{
	return mark(syscall(SYS_dup2, fd, wanted), is_marked(fd));
}

int fcntl64(int fd, int command, ...)
{
	va_list arguments;
	void *argument;
	int result;

	va_start(arguments, command);
	argument = va_arg(arguments, void *);
	va_end(arguments);
	result = syscall(SYS_fcntl, fd, command, argument);
	return command == F_DUPFD || command == F_DUPFD_CLOEXEC ? mark(result, is_marked(fd)) : result;
}

int fcntl(int, int, ...) __attribute__((alias("fcntl64")));
