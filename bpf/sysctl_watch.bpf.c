// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * sysctl watch: every write to a tunable, by anyone but the daemon itself.
 */
#include "bpftune.bpf.h"

/* Mirrored by SysctlWatch.Scenario in Sources/Tuners/SysctlWatch.swift. */
enum sysctl_watch_scenario {
	SYSCTL_WRITTEN = 1,
	SYSCTL_FLOOD = 2,	/* so many that the rest are not sent */
};

EXPORT_ENUM(sysctl_watch_scenario);

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

struct writer {
	__u64 netns_cookie;
	__u64 netns_inode;
};

struct pace {
	__u64 since_ns;
	__u64 count;
};

/* Writes from each namespace in the current second. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, struct writer);
	__type(value, struct pace);
} sysctl_paces SEC(".maps");

/*
 * Writes that found the ring full: the last of each tunable in each namespace, as
 * the record that would have been sent. User space takes them from here when it
 * hears of losses.
 */
struct missed_key {
	struct writer writer;
	struct sysctl_name name;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct missed_key);
	__type(value, struct bpftune_sysctl_event);
} missed_writes SEC(".maps");

static const struct bpftune_sysctl_event no_write = {};

/* Nobody writes as many by hand, nor does sysctl(8) at boot. */
#define WRITES_MANY 200

/*
 * A container must not fill the ring by writing its own tunables in a loop.
 * Whether this write is one too many.
 */
static __always_inline bool too_many(struct bpftune_event_header *header)
{
	struct writer writer = {
		.netns_cookie = header->netns_cookie,
		.netns_inode = header->netns_inode,
	};
	struct pace first = { .since_ns = header->ktime_ns, .count = 1 };
	struct pace *pace = bpf_map_lookup_elem(&sysctl_paces, &writer);

	if (!pace || header->ktime_ns - pace->since_ns > NSEC_PER_SEC) {
		bpf_map_update_elem(&sysctl_paces, &writer, &first, BPF_ANY);
		return false;
	}
	__sync_fetch_and_add(&pace->count, 1);
	return pace->count > WRITES_MANY;
}

/* Whether it is one of those that every device has. */
static __always_inline bool is_watched_anywhere(struct bpf_sysctl *ctx)
{
	struct sysctl_name any = { .bytes = "*/" };

	if (bpf_sysctl_get_name(ctx, any.bytes + 2, sizeof(any.bytes) - 2,
				BPF_F_SYSCTL_BASE_NAME) < 0)
		return false;
	return bpf_map_lookup_elem(&watched_sysctls, &any);
}

static __always_inline void fill_write(struct bpftune_sysctl_event *event,
				       struct bpf_sysctl *ctx,
				       const struct sysctl_name *name)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	BPF_CORE_READ_INTO(&event->comm, task, comm);
	__builtin_memcpy(event->name, name->bytes, sizeof(event->name));
	bpf_sysctl_get_current_value(ctx, event->old_value, sizeof(event->old_value));
	bpf_sysctl_get_new_value(ctx, event->new_value, sizeof(event->new_value));
}

/* Keeps it for later. The loss is counted last: it is what has this looked at. */
static __always_inline void keep_missed(struct bpf_sysctl *ctx,
					const struct bpftune_event_header *header,
					const struct sysctl_name *name)
{
	struct bpftune_sysctl_event *event;
	struct missed_key key = {
		.writer.netns_cookie = header->netns_cookie,
		.writer.netns_inode = header->netns_inode,
		.name = *name,
	};

	bpf_map_update_elem(&missed_writes, &key, &no_write, BPF_NOEXIST);
	event = bpf_map_lookup_elem(&missed_writes, &key);
	if (event) {
		fill_write(event, ctx, name);
		event->header = *header;
	}
	count_lost();
}

SEC("cgroup/sysctl")
int sysctl_watch(struct bpf_sysctl *ctx)
{
	struct bpftune_sysctl_event *event;
	struct bpftune_event_header header;
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
	fill_header(&header, current_net(), SYSCTL_WRITTEN);
	header.pid = tgid;
	if (too_many(&header)) {
		header.scenario = SYSCTL_FLOOD;
		if (!fold(&header, 0))
			return 1;
	}

	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event) {
		keep_missed(ctx, &header, &name);
		return 1;
	}
	__builtin_memset(event, 0, sizeof(*event));
	event->header = header;
	fill_write(event, ctx, &name);
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
