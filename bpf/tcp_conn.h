/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * tcp-conn: what is known of a path and of a connection, and the maps that
 * hold it. A path is a namespace and where packets go: a peer on the link, or
 * the network of one behind a gateway.
 */
#ifndef TCP_CONN_H
#define TCP_CONN_H

#include "gate.h"

#define AF_INET 2
#define AF_INET6 10
#define SOL_TCP 6
#define TCP_CONGESTION 13
#define TCP_ESTABLISHED 1
#define TCP_CLOSE 7
/* include/net/tcp.h */
#define TCP_ECN_OK 1
/* include/linux/netdevice.h */
#define IFF_LOOPBACK 8
/* include/uapi/linux/route.h */
#define RTF_GATEWAY 2
#define CA_NAME 16

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

/* include/linux/netdevice.h */
struct net_device {
	unsigned int flags;
};

/* include/net/dst.h */
struct dst_entry {
	struct net_device *dev;
	unsigned long _metrics;
};

/* include/net/route.h */
struct rtable {
	__u8 rt_gw_family;
};

/* include/net/ip6_fib.h */
struct rt6_info {
	__u32 rt6i_flags;
};

/* include/net/sock.h */
struct sock___route {
	struct dst_entry *sk_dst_cache;
};

/* include/net/inet_sock.h, include/net/inet_connection_sock.h */
struct inet_sock {
	struct sock sk;
};

struct tcp_congestion_ops {
	char name[CA_NAME];
};

struct inet_connection_sock {
	struct inet_sock icsk_inet;
	const struct tcp_congestion_ops *icsk_ca_ops;
	__u32 icsk_rto_min;	/* ticks */
	__u8 icsk_ca_setsockopt:1;
	__u8 icsk_ca_dst_locked:1;
};

/* include/linux/tcp.h */
struct tcp_options_received {
	__u16 sack_ok:3;
};

struct tcp_sock {
	struct inet_connection_sock inet_conn;
	__u32 snd_wnd;
	__u32 delivered;
	__u32 delivered_ce;
	__u32 app_limited;
	__u32 srtt_us;
	__u32 total_retrans;
	__u32 data_segs_out;
	__u32 dsack_dups;
	struct tcp_options_received rx_opt;
};

#pragma clang attribute pop

/* Mirrored by TCPConn.Scenario in Sources/Tuners/TCPConn.swift. */
enum tcp_conn_scenario {
	TCP_CONN_NEED = 1,	/* an algorithm that may not be used yet */
	TCP_CONN_TRIAL = 2,	/* one is tried on a path */
	TCP_CONN_CHOSEN = 3,	/* it has proved better, and is chosen */
	TCP_CONN_KEPT = 4,	/* it has not */
	TCP_CONN_SOONER = 5,	/* time-outs come sooner on a path from now on */
	TCP_CONN_LATER = 6,	/* and no longer, as most was sent again in vain */
};

/*
 * The arms of the bandit. Mirrored by TCPConn.Algorithm in
 * Sources/Tuners/TCPConn.swift; their names are in tcp_conn_choice.h.
 */
enum tcp_conn_arm {
	ARM_OTHER,		/* the default, where it is none of these */
	ARM_BBR,
	ARM_CUBIC,
	ARM_HTCP,
	ARM_DCTCP,
	ARM_COUNT,
};

/* A power of two, so that a mask is all that the verifier has to see. */
#define ARM_SLOTS 8

/* What is wrong on a path. Mirrored by TCPConn.Reason. */
enum tcp_conn_reason {
	REASON_NONE,
	REASON_LOSS,		/* segments are lost though no queue stands */
	REASON_QUEUE,		/* a standing queue makes the round trip long */
	REASON_MARKS,		/* the path marks packets instead of losing them */
	REASON_CLEAN,		/* nothing: the default may do again */
	REASON_WORSE,		/* what was chosen does badly by now */
};

/* Mirrored by TCPConn.Value in Sources/Tuners/TCPConn.swift. */
enum tcp_conn_value {
	TCP_CONN_FROM,		/* enum tcp_conn_arm: what is chosen */
	TCP_CONN_TO,		/* the other one */
	TCP_CONN_REASON,
	TCP_CONN_PEER_HIGH,	/* address, network byte order; an */
	TCP_CONN_PEER_LOW,	/* IPv4 address is ::ffff:a.b.c.d */
	TCP_CONN_PREFIX,	/* bits of it that count */
	TCP_CONN_RTT_MIN,	/* microseconds */
	TCP_CONN_FROM_RATE,	/* kbit/s */
	TCP_CONN_FROM_RTT,	/* microseconds */
	TCP_CONN_FROM_LOSS,	/* of a million segments */
	TCP_CONN_TO_RATE,
	TCP_CONN_TO_RTT,
	TCP_CONN_TO_LOSS,
	TCP_CONN_OTHER_NAME,	/* of ARM_OTHER on this path, 16 characters */
	TCP_CONN_OTHER_NAME_REST,
	TCP_CONN_IN_VAIN,	/* of a million times, how often what was sent again had arrived */
};

EXPORT_ENUM(tcp_conn_scenario);
EXPORT_ENUM(tcp_conn_arm);
EXPORT_ENUM(tcp_conn_reason);
EXPORT_ENUM(tcp_conn_value);

/*
 * Read by Sources/Tuners/TCPConnPaths.swift, field by field: what moves here
 * moves there.
 */
struct tcp_conn_key {
	__u64 netns_cookie;
	__u32 netns_inode;
	__u32 prefix;		/* bits; an IPv4 address counts from 96 on */
	__u8 address[16];
};

/* What an algorithm has done on a path. */
struct tcp_conn_record {
	__u64 next_ns;		/* not tried again before */
	__u32 rate;		/* kbit/s that the peer has acknowledged */
	__u32 rtt;		/* microseconds, smoothed */
	__u32 segments;		/* sent, and of those again */
	__u32 retransmitted;
	__u32 evidence;		/* how many samples; 0: not known */
	__u16 defeats;		/* how often another was better */
	__u16 time;		/* milliseconds that the rate is the mean of */
};

struct tcp_conn_path {
	struct tcp_conn_record arms[ARM_SLOTS];
	char own_name[CA_NAME];
	__u64 seen_ns;
	__u64 min_rtt_ns;	/* when it was seen */
	__u64 switched_ns;
	__u64 trial_ns;		/* when it began */
	__u64 trial_seen_ns;	/* when it was measured last */
	__u64 segments;		/* of all connections, halved now and then */
	__u64 retransmitted;
	__u64 marked;		/* arrived with a mark of congestion */
	__u32 min_rtt;		/* microseconds */
	__u32 won;		/* score at which the chosen one was chosen */
	__u32 connections;
	__u32 switches;
	__u32 thin;		/* connections that got linear time-outs */
	__u8 own;		/* the arm of a connection left alone */
	__u8 chosen;
	__u8 trial;		/* ARM_COUNT: none */
	__u8 testers;		/* connections that carry the trial */
	__u8 reason;		/* of the trial, or of the choice */
	__u8 trial_reason;
	__u8 known;
	__u8 told_rto;		/* user space knows that time-outs come sooner */
	__u32 low_rto;		/* connections that got a lower least time-out */
	__u32 again;		/* times that they sent something again, lately */
	__u32 in_vain;		/* and those when most of it had arrived */
	__u64 lossy_ns;		/* when a connection had lost much */
	__u64 high_rto_ns;	/* new ones get no lower least time-out until then */
};

_Static_assert(sizeof(struct tcp_conn_key) == 32, "key layout");
_Static_assert(sizeof(struct tcp_conn_record) == 32, "record layout");
_Static_assert(sizeof(struct tcp_conn_path) == 392, "path layout");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct tcp_conn_key);
	__type(value, struct tcp_conn_path);
} tcp_conn_paths SEC(".maps");

/* A connection since it was last looked at, and since the last sample. */
struct tcp_conn {
	struct tcp_conn_key key;
	__u64 begun_ns;		/* when it got its algorithm */
	__u64 last_ns;
	__u64 last_bytes;
	__u32 last_segments;
	__u32 last_retransmitted;
	__u32 last_marked;
	__u32 rounds;		/* in this sample */
	__u64 sample_ns;
	__u64 sample_bytes;
	__u64 sample_rtt;	/* sum of those of the rounds */
	__u32 sample_segments;
	__u32 sample_retransmitted;
	__u8 arm;
	__u8 skip;		/* rounds before measuring begins */
	__u8 moves;		/* between algorithms, after it was established */
	__u8 tester;
	__u8 held;		/* at the last round, by the application or the peer */
	__u8 alone;		/* the application has chosen: leave it alone */
	__u8 low_rto;		/* its least time-out has been lowered */
	__u8 thin;		/* it has linear time-outs */
	__u8 awaited;		/* rounds in which the peer may tell that it was in vain */
	__u32 first_retransmitted;	/* by the handshake */
	__u32 last_twice;
	__u32 again;		/* segments while that is awaited */
	__u32 twice;
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct tcp_conn);
} tcp_conn_sockets SEC(".maps");

/*
 * Which arms may be used, and which this kernel has not, by bit; filled in by
 * user space when one is needed. The kernel has one list for all namespaces.
 */
struct tcp_conn_algorithms {
	__u32 usable;
	__u32 absent;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tcp_conn_algorithms);
} tcp_conn_usable SEC(".maps");

#endif
