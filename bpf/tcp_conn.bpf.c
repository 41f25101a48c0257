// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * tcp-conn: measures connections, and gives them the congestion control that
 * does best on their path. All of it happens here, on the socket; user space
 * hears what was chosen, and is asked for an algorithm that may not be used yet.
 */
#include "tcp_conn_timeout.h"

/* Connections that are watched ask for these callbacks. */
#define CALLBACKS (BPF_SOCK_OPS_RTT_CB_FLAG | BPF_SOCK_OPS_RTO_CB_FLAG | \
		   BPF_SOCK_OPS_STATE_CB_FLAG)

static const struct tcp_conn_path new_path = { .trial = NO_TRIAL };

/* Gives the connection an algorithm; false when the kernel refuses. */
static __always_inline bool move(struct bpf_sock_ops *ctx, struct tcp_conn *conn,
				 struct tcp_conn_path *path, __u32 arm)
{
	char name[CA_NAME];

	if (arm == path->own)
		__builtin_memcpy(name, path->own_name, CA_NAME);
	else
		__builtin_memcpy(name, names[slot(arm)], CA_NAME);
	if (bpf_setsockopt(ctx, SOL_TCP, TCP_CONGESTION, name, CA_NAME))
		return false;
	conn->arm = arm;
	conn->skip = arm == ARM_DCTCP ? WARM_UP_DCTCP : WARM_UP;
	conn->begun_ns = bpf_ktime_get_ns();
	return true;
}

/* Whether it is the application or the peer that holds the connection back. */
static __always_inline bool is_held(struct bpf_sock_ops *ctx, struct tcp_sock *tp)
{
	__u32 in_flight = ctx->snd_nxt - ctx->snd_una, window = tp->snd_wnd;

	return tp->app_limited || in_flight >= window - window / 8;
}

/* Starts the counting of a round, and forgets what came before. */
static __always_inline void begin(struct bpf_sock_ops *ctx, struct tcp_conn *conn,
				  struct tcp_sock *tp, __u64 now)
{
	conn->last_ns = now;
	conn->last_bytes = ctx->bytes_acked;
	conn->last_segments = tp->data_segs_out;
	conn->last_retransmitted = tp->total_retrans;
	conn->last_marked = tp->delivered_ce;
	conn->held = is_held(ctx, tp);
}

/*
 * Begins to watch a connection. `fresh`: it has only been established, and gets
 * what its path does best with.
 */
static __always_inline void watch(struct bpf_sock_ops *ctx, struct bpf_sock *bsk,
				  struct tcp_sock *tp, struct dst_entry *dst, bool fresh)
{
	struct sock *sk = &tp->inet_conn.icsk_inet.sk;
	__u64 now = bpf_ktime_get_ns();
	struct tcp_conn_path *path;
	struct tcp_conn *conn;
	char name[CA_NAME];
	__u32 own, arm;

	conn = bpf_sk_storage_get(&tcp_conn_sockets, bsk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!conn)
		return;
	/* A socket may have been another connection. */
	__builtin_memset(conn, 0, sizeof(*conn));
	path_key(sk, dst, &conn->key);
	path = bpf_map_lookup_elem(&tcp_conn_paths, &conn->key);
	if (!path) {
		bpf_map_update_elem(&tcp_conn_paths, &conn->key, &new_path, BPF_NOEXIST);
		path = bpf_map_lookup_elem(&tcp_conn_paths, &conn->key);
		if (!path)
			return;
	}
	read_algorithm(tp, name);
	own = arm_of(name);
	if (!path->known || path->own != own) {
		/* A path seen for the first time, or another default since. */
		path->own = own;
		path->chosen = own;
		path->trial = NO_TRIAL;
		path->reason = REASON_NONE;
		__builtin_memcpy(path->own_name, name, CA_NAME);
		path->known = 1;
	}
	path->connections++;
	path->seen_ns = now;
	conn->arm = own;
	conn->skip = WARM_UP;
	conn->begun_ns = now;
	conn->first_retransmitted = fresh ? tp->total_retrans : 0;
	conn->last_twice = tp->dsack_dups;
	conn->low_rto = !fresh && has_low_rto_min(tp);
	begin(ctx, conn, tp, now);
	bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | CALLBACKS);
	if (!fresh || dry_run)
		return;
	if (has_low_rto(path, now) && may_send_again_sooner(ctx, tp, dst, path, now))
		lower_rto_min(ctx, tp, conn, path);
	arm = path->chosen;
	if (is_on_trial(path, now) && path->testers < MOST_TESTERS) {
		arm = path->trial;
		path->testers++;
		conn->tester = 1;
	}
	if (arm == ARM_DCTCP && !(ctx->ecn_flags & TCP_ECN_OK))
		return;
	if (arm != own)
		move(ctx, conn, path, arm);
}

/* Whether something else is tried on a local path, or was found and is needed still. */
static __always_inline bool has_choice(struct tcp_sock *tp, struct dst_entry *dst)
{
	__u64 now = bpf_ktime_get_ns();
	struct tcp_conn_path *path;
	struct tcp_conn_key key;

	path_key(&tp->inet_conn.icsk_inet.sk, dst, &key);
	path = bpf_map_lookup_elem(&tcp_conn_paths, &key);
	if (!path || !path->known)
		return false;
	return is_on_trial(path, now) || has_low_rto(path, now) ||
	       (path->chosen != path->own &&
		loss(record_of(path, path->chosen)) >= LOCAL_LOSS);
}

/*
 * A connection that is not watched: either it has only been established, or it
 * is older than the daemon.
 */
static __always_inline void meet(struct bpf_sock_ops *ctx, bool fresh)
{
	struct bpf_sock *bsk = ctx->sk;
	struct dst_entry *dst;
	struct tcp_sock *tp;
	__u32 rtt = ctx->srtt_us >> 3;

	if (!bsk)
		return;
	tp = may_watch(bsk, &dst);
	if (!tp)
		return;
	/* Losses alone make a local path worth watching. */
	if (rtt && rtt < LOCAL_RTT && !(fresh && has_choice(tp, dst))) {
		if (fresh)
			bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags |
						  BPF_SOCK_OPS_RETRANS_CB_FLAG);
		return;
	}
	watch(ctx, bsk, tp, dst, fresh);
}

/* A local connection sends again: more than a congested network would have it. */
static __always_inline void sends_again(struct bpf_sock_ops *ctx)
{
	__u32 sent = ctx->data_segs_out, again = ctx->total_retrans;
	struct bpf_sock *bsk = ctx->sk;
	struct dst_entry *dst;
	struct tcp_sock *tp;

	if (!bsk || again < 32 || again < (__u64)sent * LOCAL_LOSS / MILLION)
		return;
	if (bpf_sk_storage_get(&tcp_conn_sockets, bsk, 0, 0))
		return;
	tp = may_watch(bsk, &dst);
	if (tp)
		watch(ctx, bsk, tp, dst, false);
}

/* Counts a round; true where the network was what held the connection back. */
static __always_inline bool count_round(struct bpf_sock_ops *ctx, struct tcp_conn *conn,
					struct tcp_conn_path *path, struct tcp_sock *tp,
					__u64 now)
{
	__u32 segments = tp->data_segs_out - conn->last_segments;
	__u32 retransmitted = tp->total_retrans - conn->last_retransmitted;
	__u32 marked = tp->delivered_ce - conn->last_marked;
	bool by_network = !conn->held && !is_held(ctx, tp);
	__u32 rtt = ctx->srtt_us >> 3, rtt_min = ctx->rtt_min;

	if (rtt_min && (!path->min_rtt || rtt_min <= path->min_rtt ||
			now - path->min_rtt_ns > 600 * NSEC_PER_SEC)) {
		path->min_rtt = rtt_min;
		path->min_rtt_ns = now;
	}
	if (path->segments > 1 << 20) {
		path->segments /= 2;
		path->retransmitted /= 2;
		path->marked /= 2;
	}
	path->segments += segments;
	path->retransmitted += retransmitted;
	path->marked += marked;
	path->seen_ns = now;
	watch_rto_min(ctx, tp, conn, path, retransmitted, now);
	if (conn->skip) {
		conn->skip = now - conn->begun_ns < LONG_NS ? conn->skip - 1 : 0;
		by_network = false;
	}
	if (by_network) {
		conn->rounds++;
		conn->sample_ns += now - conn->last_ns;
		conn->sample_bytes += ctx->bytes_acked - conn->last_bytes;
		conn->sample_rtt += rtt;
		conn->sample_segments += segments;
		conn->sample_retransmitted += retransmitted;
	}
	begin(ctx, conn, tp, now);
	return by_network;
}

/* Once a round trip: measure, and now and then judge. */
static __always_inline void went_round(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *bsk = ctx->sk;
	__u64 now = bpf_ktime_get_ns();
	struct tcp_conn_path *path;
	struct tcp_conn *conn;
	struct tcp_sock *tp;
	char name[CA_NAME];
	struct net *net;
	bool ecn = ctx->ecn_flags & TCP_ECN_OK;

	if (!bsk)
		return;
	conn = bpf_sk_storage_get(&tcp_conn_sockets, bsk, 0, 0);
	if (!conn) {
		meet(ctx, false);
		return;
	}
	if (conn->alone)
		return;
	tp = bpf_skc_to_tcp_sock(bsk);
	path = bpf_map_lookup_elem(&tcp_conn_paths, &conn->key);
	if (!tp || !path)
		return;
	if (!count_round(ctx, conn, path, tp, now))
		return;
	if (path->trial == conn->arm)
		path->trial_seen_ns = now;
	if (!is_sample(conn))
		return;

	net = tp->inet_conn.icsk_inet.sk.__sk_common.skc_net.net;
	read_algorithm(tp, name);
	/* The application has chosen since, or an administrator has. */
	if (conn->moves || conn->arm != path->own ?
	    !is_name(name, conn->arm == path->own ? path->own_name : names[slot(conn->arm)]) :
	    is_chosen_by_others(tp)) {
		conn->alone = 1;
		return;
	}
	take_sample(conn, path);
	if (is_closed(net_cookie(net), net->ns.inum))
		return;
	if (path->trial < NO_TRIAL)
		conclude(path, &conn->key, net, now);
	else
		consider(path, &conn->key, net, ecn, now);
	if (dry_run || conn->moves >= 2)
		return;

	if (path->trial < NO_TRIAL) {
		/* One that has not been heard of for a while has ended. */
		if (now - path->trial_seen_ns > 5 * NSEC_PER_SEC && path->trial_seen_ns)
			path->testers = 0;
		if (conn->arm == path->trial || conn->moves || path->testers >= MOST_TESTERS)
			return;
		if (path->trial == ARM_DCTCP && !ecn)
			return;
		if (move(ctx, conn, path, path->trial)) {
			conn->moves++;
			conn->tester = 1;
			path->testers++;
		}
	} else if (conn->arm != path->chosen) {
		if (path->chosen == ARM_DCTCP && !ecn)
			return;
		/* Back from a trial; or off what has lost, if it loses here too. */
		if (move(ctx, conn, path, path->chosen))
			conn->moves++;
		conn->tester = 0;
	}
}

/*
 * A thin connection that loses much waits no longer each time. Near peers are left
 * to a lower least time-out, which is the shorter wait and still doubles.
 */
static __always_inline void timed_out(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *bsk = ctx->sk;
	struct tcp_conn_path *path;
	struct tcp_conn *conn;
	__u64 now = bpf_ktime_get_ns();
	struct tcp_sock *tp;
	int one = 1;

	if (!bsk || dry_run || ctx->packets_out >= 4 ||
	    !loses_much(ctx->data_segs_out, ctx->total_retrans))
		return;
	conn = bpf_sk_storage_get(&tcp_conn_sockets, bsk, 0, 0);
	if (!conn || conn->alone || is_closed(conn->key.netns_cookie, conn->key.netns_inode))
		return;
	path = bpf_map_lookup_elem(&tcp_conn_paths, &conn->key);
	tp = bpf_skc_to_tcp_sock(bsk);
	if (!path || !tp || conn->low_rto || conn->thin || now < path->high_rto_ns ||
	    may_send_again_sooner(ctx, tp, route(&tp->inet_conn.icsk_inet.sk), path, now))
		return;
	if (bpf_setsockopt(ctx, SOL_TCP, TCP_THIN_LINEAR_TIMEOUTS, &one, sizeof(one)))
		return;
	conn->thin = 1;
	path->thin++;
}

static __always_inline void ended(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *bsk = ctx->sk;
	struct tcp_conn_path *path;
	struct tcp_conn *conn;

	if (!bsk)
		return;
	conn = bpf_sk_storage_get(&tcp_conn_sockets, bsk, 0, 0);
	if (!conn)
		return;
	path = bpf_map_lookup_elem(&tcp_conn_paths, &conn->key);
	if (!path || conn->alone)
		return;
	take_sample(conn, path);
	if (conn->tester && path->testers)
		path->testers--;
	/* The socket may become another connection: not before that is established. */
	conn->alone = 1;
}

SEC("sockops")
int tcp_conn_sock_ops(struct bpf_sock_ops *ctx)
{
	switch (ctx->op) {
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		meet(ctx, true);
		break;
	case BPF_SOCK_OPS_RTT_CB:
		went_round(ctx);
		break;
	case BPF_SOCK_OPS_RETRANS_CB:
		sends_again(ctx);
		break;
	case BPF_SOCK_OPS_RTO_CB:
		timed_out(ctx);
		break;
	case BPF_SOCK_OPS_STATE_CB:
		if (ctx->args[1] == TCP_CLOSE)
			ended(ctx);
		break;
	}
	return 1;
}

char _license[] SEC("license") = "Dual BSD/GPL";
