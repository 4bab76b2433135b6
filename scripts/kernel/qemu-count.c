/*
 * A plugin of QEMU's TCG (-plugin) that counts the instructions of a guest: in the kernel, in
 * programs below 4 GB, which is where our static client is, and in programs above, which is where
 * a server that was linked in the usual way is. It also counts the system calls of both. Whenever
 * the guest calls personality(2), which nothing but our client does, it appends its counters to a file.
 * The guest is not disturbed, and the clock of -icount does not see the plugin.
 *
 *   -plugin qemu-count.so,symbols=FILE,out=FILE
 *
 * symbols is the kernel's System.map. The kernel must be at the addresses of that file (nokaslr),
 * and have one CPU. The declarations are those of QEMU's plugin interface that all its versions
 * have; QEMU checks the version, so the library is built for the one that this QEMU wants.
 */
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef PLUGIN_VERSION
#define PLUGIN_VERSION 1
#endif

struct qemu_plugin_tb;
struct qemu_plugin_insn;
typedef void on_translation(uint64_t id, struct qemu_plugin_tb *tb);
typedef void on_execution(unsigned int cpu, void *data);

size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *tb);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *tb, size_t index);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *insn);
void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id, on_translation *callback);
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *tb, on_execution *callback,
					  int flags, void *data);
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *insn, on_execution *callback,
					    int flags, void *data);

__attribute__((visibility("default"))) int qemu_plugin_version = PLUGIN_VERSION;

enum side { CLIENT, SERVER, KERNEL, SIDES };

static uint64_t instructions[SIDES];
static enum side caller;	/* whose instruction was the last one outside the kernel */
static FILE *out;

static struct call {
	uint64_t address;
	char name[40];
	uint64_t count[2];
} calls[1024];
static size_t known;
static const struct call *mark;

static int by_address(const void *a, const void *b)
{
	uint64_t first = ((const struct call *)a)->address, second = ((const struct call *)b)->address;

	return (first > second) - (first < second);
}

static void in_client(unsigned int cpu, void *count)
{
	(void)cpu;
	instructions[CLIENT] += (uintptr_t)count;
	caller = CLIENT;
}

static void in_server(unsigned int cpu, void *count)
{
	(void)cpu;
	instructions[SERVER] += (uintptr_t)count;
	caller = SERVER;
}

static void in_kernel(unsigned int cpu, void *count)
{
	(void)cpu;
	instructions[KERNEL] += (uintptr_t)count;
}

static void in_call(unsigned int cpu, void *data)
{
	struct call *call = data;
	size_t at;

	(void)cpu;
	call->count[caller]++;
	if (call != mark)
		return;
	fprintf(out, "mark client=%" PRIu64 " server=%" PRIu64 " kernel=%" PRIu64,
		instructions[CLIENT], instructions[SERVER], instructions[KERNEL]);
	for (at = 0; at < known; at++) {
		if (calls[at].count[CLIENT])
			fprintf(out, " client:%s=%" PRIu64, calls[at].name, calls[at].count[CLIENT]);
		if (calls[at].count[SERVER])
			fprintf(out, " server:%s=%" PRIu64, calls[at].name, calls[at].count[SERVER]);
	}
	fputc('\n', out);
	fflush(out);
}

static void translated(uint64_t id, struct qemu_plugin_tb *tb)
{
	size_t at, count = qemu_plugin_tb_n_insns(tb);
	uint64_t begin = qemu_plugin_tb_vaddr(tb);
	on_execution *side = begin >> 63 ? in_kernel : begin >> 32 ? in_server : in_client;

	(void)id;
	qemu_plugin_register_vcpu_tb_exec_cb(tb, side, 0, (void *)(uintptr_t)count);
	for (at = 0; side == in_kernel && at < count; at++) {
		struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, at);
		struct call key = { .address = qemu_plugin_insn_vaddr(insn) }, *call;

		call = bsearch(&key, calls, known, sizeof(key), by_address);
		if (call)
			qemu_plugin_register_vcpu_insn_exec_cb(insn, in_call, 0, call);
	}
}

static void read_symbols(const char *path)
{
	FILE *symbols = fopen(path, "r");
	char line[512];
	size_t at;

	while (symbols && fgets(line, sizeof(line), symbols) && known < sizeof(calls) / sizeof(*calls)) {
		struct call *call = &calls[known];

		if (sscanf(line, "%" SCNx64 " %*c __x64_sys_%39s", &call->address, call->name) == 2)
			known++;
	}
	if (symbols)
		fclose(symbols);
	qsort(calls, known, sizeof(*calls), by_address);
	for (at = 0; at < known; at++)
		if (!strcmp(calls[at].name, "personality"))
			mark = &calls[at];
}

__attribute__((visibility("default")))
int qemu_plugin_install(uint64_t id, const void *info, int argc, char **argv)
{
	int at;

	(void)info;
	for (at = 0; at < argc; at++) {
		if (!strncmp(argv[at], "symbols=", 8))
			read_symbols(argv[at] + 8);
		else if (!strncmp(argv[at], "out=", 4))
			out = fopen(argv[at] + 4, "w");
	}
	if (!mark || !out) {
		fprintf(stderr, "qemu-count: no symbols with __x64_sys_personality, or no file to write to\n");
		return -1;
	}
	qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
	return 0;
}
