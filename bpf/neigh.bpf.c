// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * neigh: neighbour tables that fill up, entries that are evicted and made
 * again, and unsolicited ARP. A table is one a family for the whole kernel,
 * whichever namespace an entry belongs to.
 */
#include "bpftune.bpf.h"
#include <linux/ip.h>

#define AF_INET 2
#define AF_INET6 10

/* include/uapi/linux/neighbour.h */
#define NUD_NONE 0x00
#define NUD_INCOMPLETE 0x01
#define NUD_REACHABLE 0x02
#define NUD_STALE 0x04
#define NUD_DELAY 0x08
#define NUD_PROBE 0x10
#define NUD_USABLE (NUD_REACHABLE | NUD_STALE | NUD_DELAY | NUD_PROBE)

/* include/uapi/linux/if.h */
#define IFF_UP 1

/* include/linux/netdevice.h */
#define LINK_STATE_NOCARRIER (1 << 2)

#define IFNAMSIZ 16

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

/* include/linux/types.h */
typedef struct {
	int counter;
} atomic_t;

/* include/net/neighbour.h */
struct neigh_table {
	int family;
	int gc_thresh1;
	int gc_thresh2;
	int gc_thresh3;
	atomic_t entries;
	atomic_t gc_entries;
};

/* include/linux/inetdevice.h */
struct ipv4_devconf {
	int data[32];
};

struct in_ifaddr {
	struct in_ifaddr *ifa_next;
	unsigned char ifa_prefixlen;
};

struct in_device {
	struct in_ifaddr *ifa_list;
	struct ipv4_devconf cnf;
};

/* include/linux/netdevice.h */
struct net_device {
	char name[IFNAMSIZ];
	unsigned int flags;
	unsigned long state;
	int ifindex;
	possible_net_t nd_net;
	struct in_device *ip_ptr;
};

/* include/linux/skbuff.h */
struct sk_buff {
	unsigned int truesize;
};

struct sk_buff_head {
	struct sk_buff *prev;	/* the last one */
	__u32 qlen;
};

/* include/net/neighbour.h */
struct neigh_parms {
	int data[14];		/* 13 before 6.0 */
};

struct neighbour {
	struct neigh_table *tbl;
	struct neigh_parms *parms;
	unsigned long updated;
	unsigned int arp_queue_len_bytes;
	struct sk_buff_head arp_queue;
	__u8 nud_state;
	struct net_device *dev;
	__u8 primary_key[0];
};

#pragma clang attribute pop

/* Mirrored by Neigh.Scenario in Sources/Tuners/Neigh.swift. */
enum neigh_scenario {
	NEIGH_FILLING = 1,
	NEIGH_REPORT = 2,	/* on request: how the table stands */
	NEIGH_CHURN = 3,
	NEIGH_UNSOLICITED = 4,
	NEIGH_PROBES = 5,
	NEIGH_WAITED = 6,	/* packets were lost while an address was asked for */
};

/* Mirrored by Neigh.Value in Sources/Tuners/Neigh.swift. */
enum neigh_value {
	NEIGH_FAMILY,		/* AF_INET or AF_INET6 */
	NEIGH_ENTRIES,		/* all entries */
	NEIGH_GC_ENTRIES,	/* those that the thresholds are held against */
	NEIGH_THRESH1,
	NEIGH_THRESH2,
	NEIGH_THRESH3,
	NEIGH_RATE,		/* entries added a second, lately */
	NEIGH_REFUSED,		/* entries refused, since the program was loaded */
	NEIGH_NEED,		/* addresses in the prefixes of the device */
	NEIGH_COUNT,		/* entries made again, learned unasked for, probed; packets lost */
	NEIGH_AWAY,		/* milliseconds that one was away, at most; or its queue full */
	NEIGH_ACCEPTS,		/* arp_accept is on */
	NEIGH_NAME_LOW,		/* name of the device */
	NEIGH_NAME_HIGH,
	NEIGH_QUEUE,		/* bytes that may wait for the address of one neighbour */
	NEIGH_LOST,		/* bytes that were lost, with what describes the packets */
};

EXPORT_ENUM(neigh_scenario);
EXPORT_ENUM(neigh_value);

/* What is known of a table. */
struct table_state {
	__u64 table;		/* address of its struct neigh_table */
	__u64 mark_ns;		/* when it had mark_entries */
	__s64 mark_entries;
	__u64 rate;		/* entries a second, between the last two marks */
	__u64 refused;
	__u64 churn_ns;		/* start of the window that is counted */
	__u64 churned;		/* entries made again in it */
	__u64 away_ns;		/* the longest that one of them was away */
	__u64 apart[8];		/* the other table's in lines of its own */
};

/* 0 for ARP, 1 for neighbour discovery. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, struct table_state);
} neigh_tables SEC(".maps");

/* Entries that this CPU has added to each table. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64);
} neigh_added SEC(".maps");

/*
 * Whether there is anything to remember. Every CPU reads it for each entry, so
 * it is written seldom, and nothing that is written often stands near it.
 */
struct recent {
	__u64 before[16];
	__u64 evicted_ns;	/* when an entry was evicted last, to a second */
	__u64 full_ns;		/* when a packet found a queue full, to a second */
	__u64 behind[16];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct recent);
} neigh_recent SEC(".maps");

struct neigh_key {
	__u64 table;
	__u64 device;
	__u8 address[16];
};

/* When usable entries were evicted: nanoseconds. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct neigh_key);
	__type(value, __u64);
} neigh_evicted SEC(".maps");

struct pace {
	__u64 since_ns;
	__u64 count;
};

/* What is counted by device: its address plus the scenario. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, __u64);
	__type(value, struct pace);
} neigh_paces SEC(".maps");

/* What the queue of a neighbour lost since its address is asked for. */
struct waiting {
	__u64 updated;		/* jiffies: which time of asking */
	__u64 since_ns;		/* when the queue was full first */
	__u64 bytes;
	__u32 packets;		/* lost so far */
	__u32 queued;		/* when it was looked at last */
};

/* By the address of the struct neighbour. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, __u64);
	__type(value, struct waiting);
} neigh_waits SEC(".maps");

static __always_inline struct table_state *state_of(int family)
{
	__u32 index = family == AF_INET6;

	if (family != AF_INET && family != AF_INET6)
		return NULL;
	return bpf_map_lookup_elem(&neigh_tables, &index);
}

static __always_inline struct recent *recent_things(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&neigh_recent, &zero);
}

/* Addresses in the prefixes of the device: how many neighbours it may have. */
static __always_inline __s64 need(struct net_device *dev, int family)
{
	struct in_ifaddr *address;
	__s64 sum = 0;
	int i;

	/* Any prefix of IPv6 holds more than any table. */
	if (family == AF_INET6)
		return 1LL << 32;
	address = BPF_CORE_READ(dev, ip_ptr, ifa_list);
	for (i = 0; i < 8 && address; i++) {
		__u8 length = BPF_CORE_READ(address, ifa_prefixlen);

		sum += 1LL << (32 - (length & 63));
		address = BPF_CORE_READ(address, ifa_next);
	}
	return sum;
}

static __always_inline void fill_table(struct bpftune_event *event, struct neigh_table *tbl,
				       struct table_state *state)
{
	event->values[NEIGH_FAMILY] = BPF_CORE_READ(tbl, family);
	event->values[NEIGH_ENTRIES] = BPF_CORE_READ(tbl, entries.counter);
	event->values[NEIGH_GC_ENTRIES] = BPF_CORE_READ(tbl, gc_entries.counter);
	event->values[NEIGH_THRESH1] = BPF_CORE_READ(tbl, gc_thresh1);
	event->values[NEIGH_THRESH2] = BPF_CORE_READ(tbl, gc_thresh2);
	event->values[NEIGH_THRESH3] = BPF_CORE_READ(tbl, gc_thresh3);
	event->values[NEIGH_RATE] = state->rate;
	event->values[NEIGH_REFUSED] = state->refused;
	state->table = (__u64)tbl;	/* for the reports on request */
}

static __always_inline void fill_device(struct bpftune_event *event, struct net_device *dev,
					int family)
{
	event->values[NEIGH_NEED] = need(dev, family);
	bpf_core_read(&event->values[NEIGH_NAME_LOW], IFNAMSIZ, &dev->name);
}

/* Folds by table, whichever namespaces the entries belong to. */
static __always_inline bool fold_by_table(struct bpftune_event_header *header, int family,
					  __s64 limit)
{
	struct bpftune_event_header table = *header;
	bool send;

	table.netns_cookie = 0;
	table.netns_inode = family;
	send = fold(&table, limit);
	header->folded = table.folded;
	return send;
}

/* How many entries are added, at least, between two looks at the rate. */
#define MARK 16
/* What user space is given to answer in, before the table is full. */
#define ANSWER (20 * NSEC_PER_MSEC)

/*
 * Whether the table has to grow now: three quarters of the way to where forced
 * garbage collection begins, or so fast that it would be full before user
 * space has answered.
 */
static __always_inline bool filling(struct table_state *state, __s64 entries, __s64 soft,
				    __s64 hard)
{
	__s64 more = entries - state->mark_entries;
	__u64 now;

	if (entries >= (soft < hard ? soft : hard) * 3 / 4)
		return true;
	if (more >= 0 && more < MARK)
		return false;
	now = bpf_ktime_get_ns();
	state->rate = more > 0 && now > state->mark_ns
			      ? more * NSEC_PER_SEC / (now - state->mark_ns) : 0;
	state->mark_entries = entries;
	state->mark_ns = now;
	if (entries < 2 * MARK || !state->rate)
		return false;
	return (hard - entries) * NSEC_PER_SEC / state->rate < ANSWER;
}

/*
 * Whether this CPU looks at the table: the number of entries stands beside the
 * lock of the table, which other CPUs wait for, and to read it costs them more
 * than all else here. With 128 CPUs, half of a table could come between two
 * looks, and there is a look at three eighths of it.
 */
#define LOOKS 256
#define SELDOM 64

static __always_inline bool looks(__u32 family, int hard)
{
	__u32 index = family == AF_INET6, interval = hard / LOOKS;
	__u64 *added = bpf_map_lookup_elem(&neigh_added, &index);

	if (!added || interval < 2)
		return true;
	if (interval > SELDOM)
		interval = SELDOM;
	if (++*added < interval)
		return false;
	*added = 0;
	return true;
}

/* Usable again soon after it was evicted: counted, and reported when many are. */
#define CHURN_WINDOW (10 * NSEC_PER_SEC)
#define CHURN_MEMORY (60 * NSEC_PER_SEC)
#define CHURN_MANY 64

static __always_inline void made_again(struct neighbour *n, struct recent *recent, int family)
{
	struct table_state *state = state_of(family);
	struct neigh_key key = { .table = (__u64)n->tbl, .device = (__u64)n->dev };
	struct bpftune_event event;
	__u64 now, *evicted, away;
	__u64 cookie;

	now = bpf_ktime_get_ns();
	if (now - recent->evicted_ns > CHURN_MEMORY + NSEC_PER_SEC) {
		recent->evicted_ns = 0;
		return;
	}
	if (!state)
		return;
	bpf_probe_read_kernel(key.address, family == AF_INET6 ? 16 : 4, &n->primary_key);
	evicted = bpf_map_lookup_elem(&neigh_evicted, &key);
	if (!evicted)
		return;
	away = now - *evicted;
	bpf_map_delete_elem(&neigh_evicted, &key);
	if (away > CHURN_MEMORY)
		return;
	if (now - state->churn_ns > CHURN_WINDOW) {
		state->churn_ns = now;
		state->churned = 0;
		state->away_ns = 0;
	}
	if (away > state->away_ns)
		state->away_ns = away;
	__sync_fetch_and_add(&state->churned, 1);
	if (state->churned < CHURN_MANY)
		return;

	__builtin_memset(&event, 0, sizeof(event));
	fill_header(&event.header, BPF_CORE_READ(n, dev, nd_net.net), NEIGH_CHURN);
	cookie = event.header.netns_cookie;
	/* The two tables of a namespace are folded apart. */
	event.header.netns_cookie = cookie << 1 | (family == AF_INET6);
	if (!fold(&event.header, 0))
		return;
	event.header.netns_cookie = cookie;
	fill_table(&event, n->tbl, state);
	fill_device(&event, n->dev, family);
	event.values[NEIGH_COUNT] = state->churned;
	event.values[NEIGH_AWAY] = state->away_ns / NSEC_PER_MSEC;
	state->churned = 0;
	emit(&event, sizeof(event));
}

/* An entry was made; without one, the table or the memory was full. */
SEC("tp_btf/neigh_create")
int BPF_PROG(neigh_create, struct neigh_table *tbl, struct net_device *dev, const void *pkey,
	     const struct neighbour *n, bool exempt_from_gc)
{
	int family, soft, hard = tbl->gc_thresh3;
	struct table_state *state;
	struct bpftune_event event;
	__s64 entries;

	/* Those are held against no threshold. */
	if (exempt_from_gc)
		return 0;
	family = tbl->family;
	if (n && !looks(family, hard))
		return 0;
	state = state_of(family);
	if (!state)
		return 0;
	soft = tbl->gc_thresh2;
	entries = tbl->gc_entries.counter;
	if (!n && entries >= hard)
		__sync_fetch_and_add(&state->refused, 1);
	if (!filling(state, entries, soft, hard))
		return 0;

	__builtin_memset(&event, 0, sizeof(event));
	fill_header(&event.header, BPF_CORE_READ(dev, nd_net.net), NEIGH_FILLING);
	/* gc_thresh2 is written last: until then the answer is under way. */
	if (!fold_by_table(&event.header, family, soft))
		return 0;
	fill_table(&event, tbl, state);
	fill_device(&event, dev, family);
	emit(&event, sizeof(event));
	return 0;
}

/* An entry goes: remembered if it was usable, and its device still is. */
SEC("tp_btf/neigh_cleanup_and_release")
int BPF_PROG(neigh_evict, struct neighbour *n, int rc)
{
	struct neigh_key key = { .table = (__u64)n->tbl, .device = (__u64)n->dev };
	struct recent *recent = recent_things();
	int family = n->tbl->family;
	__u64 now;

	if (!recent || !(n->nud_state & NUD_USABLE))
		return 0;
	if (family != AF_INET && family != AF_INET6)
		return 0;
	if (!(n->dev->flags & IFF_UP) || n->dev->state & LINK_STATE_NOCARRIER)
		return 0;
	now = bpf_ktime_get_ns();
	if (now - recent->evicted_ns > NSEC_PER_SEC)
		recent->evicted_ns = now;
	bpf_probe_read_kernel(key.address, family == AF_INET6 ? 16 : 4, &n->primary_key);
	bpf_map_update_elem(&neigh_evicted, &key, &now, BPF_ANY);
	return 0;
}

/* So many a second on one device are worth a report. */
#define FLOOD_MANY 64
#define PROBES_MANY 500

/* Counts by device and scenario; how many in this second, 0 while few. */
static __always_inline __u64 many(struct net_device *dev, enum neigh_scenario scenario,
				  __u64 limit)
{
	struct pace first = { .since_ns = bpf_ktime_get_ns(), .count = 1 };
	__u64 key = (__u64)dev + scenario, count;
	struct pace *pace;

	pace = bpf_map_lookup_elem(&neigh_paces, &key);
	if (!pace || first.since_ns - pace->since_ns > NSEC_PER_SEC) {
		bpf_map_update_elem(&neigh_paces, &key, &first, BPF_ANY);
		return 0;
	}
	__sync_fetch_and_add(&pace->count, 1);
	count = pace->count;
	return count < limit ? 0 : count;
}

static __always_inline void report_pace(struct neighbour *n, enum neigh_scenario scenario,
					__u64 count)
{
	struct net_device *dev = n->dev;
	struct net *net = BPF_CORE_READ(dev, nd_net.net);
	int family = n->tbl->family;
	struct table_state *state = state_of(family);
	struct bpftune_event event = {};
	__u64 cookie;

	if (!state)
		return;
	fill_header(&event.header, net, scenario);
	cookie = event.header.netns_cookie;
	/* The devices of a namespace are folded apart. */
	event.header.netns_cookie = cookie << 16 ^ dev->ifindex << 1 ^ (family == AF_INET6);
	if (!fold(&event.header, 0))
		return;
	event.header.netns_cookie = cookie;
	fill_table(&event, n->tbl, state);
	fill_device(&event, dev, family);
	event.values[NEIGH_COUNT] = count;
	event.values[NEIGH_ACCEPTS] =
		BPF_CORE_READ(dev, ip_ptr, cnf.data[IPV4_DEVCONF_ARP_ACCEPT - 1]) ||
		BPF_CORE_READ(net, ipv4.devconf_all, data[IPV4_DEVCONF_ARP_ACCEPT - 1]);
	emit(&event, sizeof(event));
}

/*
 * The bytes that may wait for one address: unres_qlen_bytes. The kernel's
 * index of it has no name that the program could ask for; four others follow
 * it in every kernel (include/net/neighbour.h).
 */
static __always_inline __u32 queue_limit(struct neigh_parms *parms)
{
	__u32 index = bpf_core_field_size(parms->data) / sizeof(int) - 5;
	int limit = 0;

	bpf_core_read(&limit, sizeof(limit), &parms->data[index & 15]);
	return limit;
}

/*
 * A packet waits for an address that is being asked for. When the queue has no
 * room for the next like it, the kernel drops the oldest then; so from one
 * look to the next, what is not there any more was lost. Seldom run: not for a
 * neighbour whose address is known.
 */
SEC("tp_btf/neigh_event_send_done")
int BPF_PROG(neigh_wait, struct neighbour *n, int rc)
{
	__u32 queued = n->arp_queue.qlen, held = n->arp_queue_len_bytes, size;
	struct recent *recent = recent_things();
	struct waiting first = {}, *wait;
	__u64 key = (__u64)n;

	if (!rc || n->nud_state != NUD_INCOMPLETE || !queued)
		return 0;
	size = BPF_CORE_READ(n, arp_queue.prev, truesize);
	if (held + size <= queue_limit(n->parms))
		return 0;
	if (!recent)
		return 0;
	first.since_ns = bpf_ktime_get_ns();
	if (first.since_ns - recent->full_ns > NSEC_PER_SEC)
		recent->full_ns = first.since_ns;
	wait = bpf_map_lookup_elem(&neigh_waits, &key);
	if (!wait || wait->updated != n->updated) {
		first.updated = n->updated;
		first.queued = queued;
		bpf_map_update_elem(&neigh_waits, &key, &first, BPF_ANY);
		return 0;
	}
	if (wait->queued + 1 > queued) {
		wait->packets += wait->queued + 1 - queued;
		wait->bytes += (wait->queued + 1 - queued) * size;
	}
	wait->queued = queued;
	return 0;
}

/* So many lost packets are worth a report. */
#define LOST_MANY 8
/* An address is asked for no longer than that. */
#define WAIT_MEMORY (60 * NSEC_PER_SEC)

/* The address was found: what was lost meanwhile would have arrived. */
static __always_inline void waited(struct neighbour *n, struct recent *recent, int family)
{
	struct table_state *state = state_of(family);
	struct bpftune_event event;
	struct waiting *wait;
	__u64 key = (__u64)n, now, cookie;
	__u32 limit;

	now = bpf_ktime_get_ns();
	if (now - recent->full_ns > WAIT_MEMORY) {
		recent->full_ns = 0;
		return;
	}
	wait = bpf_map_lookup_elem(&neigh_waits, &key);
	if (!wait || !state)
		return;
	if (wait->updated == n->updated && wait->packets >= LOST_MANY) {
		limit = queue_limit(n->parms);
		__builtin_memset(&event, 0, sizeof(event));
		fill_header(&event.header, BPF_CORE_READ(n, dev, nd_net.net), NEIGH_WAITED);
		cookie = event.header.netns_cookie;
		event.header.netns_cookie =
			cookie << 16 ^ n->dev->ifindex << 1 ^ (family == AF_INET6);
		if (fold(&event.header, limit)) {
			event.header.netns_cookie = cookie;
			fill_table(&event, n->tbl, state);
			fill_device(&event, n->dev, family);
			event.values[NEIGH_COUNT] = wait->packets;
			event.values[NEIGH_AWAY] = (now - wait->since_ns) / NSEC_PER_MSEC;
			event.values[NEIGH_QUEUE] = limit;
			event.values[NEIGH_LOST] = wait->bytes;
			emit(&event, sizeof(event));
		}
	}
	bpf_map_delete_elem(&neigh_waits, &key);
}

/*
 * An entry whose address was found may be one that was evicted shortly before.
 * A new entry that becomes stale at once was learned from ARP that nobody here
 * had asked for: with arp_accept from gratuitous ARP, without it only from
 * requests for an address of this host (arp_process in net/ipv4/arp.c). One
 * that was probed and is reachable was asked only whether it is still there.
 */
SEC("tp_btf/neigh_update")
int BPF_PROG(neigh_learn, struct neighbour *n, const __u8 *lladdr, __u8 new, __u32 flags,
	     __u32 nlmsg_pid)
{
	struct recent *recent = recent_things();
	int family;
	__u64 count;

	if (recent && (recent->evicted_ns || recent->full_ns) && new & NUD_USABLE &&
	    !(n->nud_state & NUD_USABLE)) {
		family = n->tbl->family;
		if (recent->evicted_ns)
			made_again(n, recent, family);
		if (recent->full_ns && n->nud_state == NUD_INCOMPLETE)
			waited(n, recent, family);
	}
	if (nlmsg_pid)
		return 0;
	if (new == NUD_STALE && n->nud_state == NUD_NONE && n->tbl->family == AF_INET) {
		count = many(n->dev, NEIGH_UNSOLICITED, FLOOD_MANY);
		if (count)
			report_pace(n, NEIGH_UNSOLICITED, count);
	} else if (new == NUD_REACHABLE && n->nud_state == NUD_PROBE) {
		count = many(n->dev, NEIGH_PROBES, PROBES_MANY);
		if (count)
			report_pace(n, NEIGH_PROBES, count);
	}
	return 0;
}

static __always_inline void report_table(__u32 index)
{
	struct table_state *state = bpf_map_lookup_elem(&neigh_tables, &index);
	struct bpftune_event event = {};

	if (!state || !state->table)
		return;
	fill_header(&event.header, current_net(), NEIGH_REPORT);
	fill_table(&event, (struct neigh_table *)state->table, state);
	emit(&event, sizeof(event));
}

/* Run once on behalf of the daemon: reports how each table stands. */
SEC("raw_tp/sys_enter")
int neigh_report(void *ctx)
{
	report_table(0);
	report_table(1);
	return 0;
}

char _license[] SEC("license") = "Dual BSD/GPL";
