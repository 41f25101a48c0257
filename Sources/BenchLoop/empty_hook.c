// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include "empty_hook.h"

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <linux/bpf.h>
#include <unistd.h>

int empty_hook_attach(const char *tracepoint)
{
	/* r0 = 0; exit */
	const struct bpf_insn program[] = {
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K },
		{ .code = BPF_JMP | BPF_EXIT },
	};
	LIBBPF_OPTS(bpf_prog_load_opts, options, .expected_attach_type = BPF_TRACE_RAW_TP);
	int type = libbpf_find_vmlinux_btf_id(tracepoint, BPF_TRACE_RAW_TP);
	int fd, link, error;

	if (type < 0) {
		errno = -type;
		return -1;
	}
	options.attach_btf_id = type;
	fd = bpf_prog_load(BPF_PROG_TYPE_TRACING, "empty_hook", "Dual BSD/GPL", program, 2,
			   &options);
	if (fd < 0)
		return -1;
	link = bpf_raw_tracepoint_open(NULL, fd);
	error = errno;
	close(fd);
	errno = error;
	return link < 0 ? -1 : link;
}
