// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * sysctl watch: every write to a tunable, by anyone but the daemon itself.
 */
#include "bpftune.bpf.h"

/* The daemon's own thread group id, as the kernel counts (not a container). */
const volatile __u32 own_tgid = 0;

struct sysctl_name {
	char bytes[BPFTUNE_SYSCTL_NAME];
};

/*
 * The names of the tunables, "net/ipv4/tcp_wmem", filled in by user space, and
 * of those that every device has only the last part: "*" "/drop_gratuitous_arp".
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 512);
	__type(key, struct sysctl_name);
	__type(value, __u32);
} watched_sysctls SEC(".maps");

/* Whether it is one of those that every device has. */
static __always_inline bool is_watched_anywhere(struct bpf_sysctl *ctx)
{
	struct sysctl_name any = { .bytes = "*/" };

	if (bpf_sysctl_get_name(ctx, any.bytes + 2, sizeof(any.bytes) - 2,
				BPF_F_SYSCTL_BASE_NAME) < 0)
		return false;
	return bpf_map_lookup_elem(&watched_sysctls, &any);
}

SEC("cgroup/sysctl")
int sysctl_watch(struct bpf_sysctl *ctx)
{
	struct bpftune_sysctl_event *event;
	struct task_struct *task = (void *)bpf_get_current_task();
	struct sysctl_name name = {};
	__u32 tgid;

	if (!ctx->write)
		return 1;
	if (bpf_sysctl_get_name(ctx, name.bytes, sizeof(name.bytes), 0) < 0)
		return 1;
	if (!bpf_map_lookup_elem(&watched_sysctls, &name) && !is_watched_anywhere(ctx))
		return 1;
	tgid = current_tgid();
	if (tgid == own_tgid)
		return 1;

	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event) {
		count_lost();
		return 1;
	}
	__builtin_memset(event, 0, sizeof(*event));
	fill_header(&event->header, current_net(), 0);
	event->header.pid = tgid;
	BPF_CORE_READ_INTO(&event->comm, task, comm);
	__builtin_memcpy(event->name, name.bytes, sizeof(event->name));
	bpf_sysctl_get_current_value(ctx, event->old_value, sizeof(event->old_value));
	bpf_sysctl_get_new_value(ctx, event->new_value, sizeof(event->new_value));
	bpf_ringbuf_submit(event, 0);
	return 1;
}

/* Run once on behalf of the daemon: tells it the thread group id above. */
SEC("raw_tp/sys_enter")
int sysctl_watch_whoami(void *ctx)
{
	return current_tgid();
}

char _license[] SEC("license") = "Dual BSD/GPL";
