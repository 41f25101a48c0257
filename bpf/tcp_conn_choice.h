/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * tcp-conn: the choice. Each algorithm that a path has seen is an arm with a
 * record. Nothing is tried while nothing is wrong; then one other arm is, on
 * one connection or two, until the records can be compared. What lost is left
 * alone for an hour, then two, four and so on.
 *
 * Processors update a path's records without a lock: a sample that gets lost
 * is one sample.
 */
#ifndef TCP_CONN_CHOICE_H
#define TCP_CONN_CHOICE_H

#include "tcp_conn.h"

#define NO_TRIAL ARM_COUNT
/* A sample is that many rounds and that long, or two rounds of a long time. */
#define SAMPLE_ROUNDS 4
#define SAMPLE_NS (100 * NSEC_PER_MSEC)
#define LONG_NS (500 * NSEC_PER_MSEC)
/* Milliseconds that a rate is the mean of, at most; one sample is no more than half. */
#define RATE_MS 4000
/* Samples before a path is judged, a trial lost, and a trial decided. */
#define EVIDENCE_PROBLEM 2
#define EVIDENCE_LOST 2
#define EVIDENCE_DECIDED 4
/* Rounds after a start or a change that say more of before than of now. */
#define WARM_UP 4
/* dctcp begins with the worst estimate of marks: 1 - 1/16 of it is left a round. */
#define WARM_UP_DCTCP 32
#define TRIAL_MOST_NS (120 * NSEC_PER_SEC)
/* Before another trial of what nobody could decide, as connections are thin or few. */
#define LAPSED_NS (600 * NSEC_PER_SEC)
#define MOST_TESTERS 2
#define MOST_DEFEATS 255
#define HOUR_NS (3600 * NSEC_PER_SEC)
#define MILLION 1000000U
/* Microseconds: round trips below are those of a local network, where nothing
 * is gained; unless so many of a million are lost. */
#define LOCAL_RTT 1000
#define LOCAL_LOSS (MILLION / 20)

/* By `enum tcp_conn_arm`. */
static const char names[ARM_SLOTS][CA_NAME] = {
	"", "bbr", "cubic", "htcp", "dctcp",
};

/* Within an array of ARM_SLOTS, whatever the compiler thinks it knows. */
static __always_inline __u64 slot(__u64 arm)
{
#ifdef __bpf__
	asm volatile("%0 &= 7" : "+r"(arm));
#endif
	return arm & (ARM_SLOTS - 1);
}

static __always_inline struct tcp_conn_record *record_of(struct tcp_conn_path *path, __u32 arm)
{
	return &path->arms[slot(arm)];
}

/* Of a million segments, how many were sent again. */
static __always_inline __u32 loss(const struct tcp_conn_record *record)
{
	if (!record->segments)
		return 0;
	return (__u64)record->retransmitted * MILLION / record->segments;
}

/*
 * What a record is worth: its rate, less 8 % for each doubling of the round
 * trip over the shortest one, less what it lost.
 */
static __always_inline __u64 score(const struct tcp_conn_record *record, __u32 min_rtt)
{
	__u32 rtt = record->rtt, base = min_rtt < 1000 ? 1000 : min_rtt;
	__u32 lost = loss(record) / 1000, permille = 1000;
	int i;

	for (i = 0; i < 5; i++) {
		if (rtt <= base)
			break;
		if (rtt < 2 * base) {
			permille -= 80 * (__u64)(rtt - base) / base;
			break;
		}
		permille -= 80;
		base *= 2;
	}
	permille -= lost < 300 ? lost : 300;
	return (__u64)record->rate * permille / 1000;
}

/* The mean over up to eight samples. */
static __always_inline __u32 blend(__u32 old, __u64 new, __u32 evidence)
{
	__u32 n = evidence < 7 ? evidence + 1 : 8;

	return ((__u64)old * (n - 1) + new) / n;
}

/*
 * The mean over the last four seconds or so: one second without an
 * acknowledgement counts for as much as it takes, however many samples of a
 * tenth there are between two such.
 */
static __always_inline void blend_rate(struct tcp_conn_record *record, __u64 bytes, __u64 ns)
{
	__u64 old = record->time, new = ns / NSEC_PER_MSEC;

	if (new > RATE_MS / 2)
		new = RATE_MS / 2;
	if (!new)
		new = 1;
	if (old > RATE_MS - new)
		old = RATE_MS - new;
	record->rate = (record->rate * old + bytes * 8 * MILLION / ns * new) / (old + new);
	record->time = old + new;
}

static __always_inline bool is_sample(const struct tcp_conn *conn)
{
	if (conn->rounds >= SAMPLE_ROUNDS)
		return conn->sample_ns >= SAMPLE_NS;
	return conn->rounds >= 2 && conn->sample_ns >= LONG_NS;
}

static __always_inline void clear_sample(struct tcp_conn *conn)
{
	conn->rounds = 0;
	conn->sample_ns = 0;
	conn->sample_bytes = 0;
	conn->sample_rtt = 0;
	conn->sample_segments = 0;
	conn->sample_retransmitted = 0;
}

/* What was measured; not how often it has lost, and when. */
static __always_inline void clear_record(struct tcp_conn_record *record)
{
	record->rate = 0;
	record->time = 0;
	record->rtt = 0;
	record->segments = 0;
	record->retransmitted = 0;
	record->evidence = 0;
}

/* Adds what the connection has measured to the record of its algorithm. */
static __always_inline void take_sample(struct tcp_conn *conn, struct tcp_conn_path *path)
{
	struct tcp_conn_record *record = record_of(path, conn->arm);

	if (conn->rounds >= 2 && conn->sample_ns) {
		blend_rate(record, conn->sample_bytes, conn->sample_ns);
		record->rtt = blend(record->rtt, conn->sample_rtt / conn->rounds,
				    record->evidence);
		if (record->segments > 1 << 18) {
			record->segments /= 2;
			record->retransmitted /= 2;
		}
		record->segments += conn->sample_segments;
		record->retransmitted += conn->sample_retransmitted;
		if (record->evidence < 1 << 20)
			record->evidence++;
	}
	clear_sample(conn);
}

/* What is wrong with the algorithm that is chosen; REASON_NONE if nothing. */
static __always_inline __u32 problem(struct tcp_conn_path *path)
{
	const struct tcp_conn_record *record = record_of(path, path->chosen);
	bool queue = record->rtt > 2 * path->min_rtt + 10000;
	__u32 lost = loss(record);
	bool is_lossy;

	if (record->evidence < EVIDENCE_PROBLEM)
		return REASON_NONE;
	/* A local path, though a busy machine made it look longer at first. */
	if (path->min_rtt < LOCAL_RTT && lost < LOCAL_LOSS)
		return REASON_NONE;
	/* While it does better than the default ever did, that would be no help. */
	if (path->chosen != path->own && path->won &&
	    score(record, path->min_rtt) < path->won / 3 &&
	    score(record, path->min_rtt) < score(record_of(path, path->own), path->min_rtt))
		return REASON_WORSE;
	if (path->chosen != ARM_DCTCP && path->segments > 1000 &&
	    path->marked * 100 > path->segments)
		return REASON_MARKS;
	/* bbr takes losses as they come: only many of them are worth a look. */
	is_lossy = record->retransmitted >= 3 &&
		   lost > (path->chosen == ARM_BBR ? MILLION / 50 : MILLION / 2000);
	/* What a full queue loses is not the path's fault. */
	if (is_lossy && record->rtt < path->min_rtt + path->min_rtt / 2 + 2000)
		return REASON_LOSS;
	if (queue && path->chosen != ARM_BBR)
		return REASON_QUEUE;
	if (path->chosen != path->own && !is_lossy && !queue)
		return REASON_CLEAN;
	return REASON_NONE;
}

/* The arms that may help, the most likely first; ARM_COUNT: none. */
static __always_inline __u32 remedy(struct tcp_conn_path *path, __u32 reason, int which)
{
	bool bbr = path->chosen == ARM_BBR;

	switch (reason) {
	case REASON_LOSS:
		if (bbr)
			return which ? ARM_COUNT : ARM_CUBIC;
		return which ? ARM_HTCP : ARM_BBR;
	case REASON_QUEUE:
		return which ? ARM_COUNT : ARM_BBR;
	case REASON_MARKS:
		/* Without dctcp, one that heeds marks; or else one that does not. */
		if (which)
			return bbr ? ARM_CUBIC : ARM_BBR;
		return ARM_DCTCP;
	case REASON_CLEAN:
	case REASON_WORSE:
		return which ? ARM_COUNT : path->own;
	}
	return ARM_COUNT;
}

/* Whether the arm under trial has done enough better than the chosen one. */
static __always_inline bool has_won(struct tcp_conn_path *path)
{
	const struct tcp_conn_record *trial = record_of(path, path->trial);
	const struct tcp_conn_record *chosen = record_of(path, path->chosen);
	__u64 ours = score(trial, path->min_rtt), theirs = score(chosen, path->min_rtt);

	switch (path->trial_reason) {
	case REASON_QUEUE:
		return (__u64)trial->rtt * 10 <= (__u64)chosen->rtt * 7 &&
		       (__u64)trial->rate * 100 >= (__u64)chosen->rate * 95;
	case REASON_MARKS:
		return ours * 100 >= theirs * (path->trial == ARM_BBR ? 105 : 103);
	case REASON_CLEAN:
		/* With nothing between them, the machine's default it is. */
		return ours * 100 >= theirs * 95;
	case REASON_WORSE:
		return ours > theirs;
	}
	return ours * 100 >= theirs * 110;
}

static __always_inline void report(struct tcp_conn_path *path, const struct tcp_conn_key *key,
				   struct net *net, __u32 scenario, __u32 from, __u32 to,
				   __u32 reason)
{
	const struct tcp_conn_record *one = record_of(path, from), *other = record_of(path, to);
	struct bpftune_event event = {};

	fill_header(&event.header, net, scenario);
	if (!fold(&event.header, to))
		return;
	event.values[TCP_CONN_FROM] = from;
	event.values[TCP_CONN_TO] = to;
	event.values[TCP_CONN_REASON] = reason;
	__builtin_memcpy(&event.values[TCP_CONN_PEER_HIGH], key->address, 16);
	event.values[TCP_CONN_PREFIX] = key->prefix;
	event.values[TCP_CONN_RTT_MIN] = path->min_rtt;
	event.values[TCP_CONN_FROM_RATE] = one->rate;
	event.values[TCP_CONN_FROM_RTT] = one->rtt;
	event.values[TCP_CONN_FROM_LOSS] = loss(one);
	event.values[TCP_CONN_TO_RATE] = other->rate;
	event.values[TCP_CONN_TO_RTT] = other->rtt;
	event.values[TCP_CONN_TO_LOSS] = loss(other);
	__builtin_memcpy(&event.values[TCP_CONN_OTHER_NAME], path->own_name, CA_NAME);
	emit(&event, sizeof(event));
}

/* Not again for an hour, twice as long after each defeat. */
static __always_inline void defeat(struct tcp_conn_record *record, __u64 now)
{
	record->next_ns = now + (HOUR_NS << (record->defeats < 4 ? record->defeats : 4));
	if (record->defeats < MOST_DEFEATS)
		record->defeats++;
}

/*
 * Whether an arm may be tried: its time has come, or what beat it has done so
 * much worse since that it would not do so again.
 */
static __always_inline bool is_due(struct tcp_conn_path *path,
				   const struct tcp_conn_record *record, __u64 now)
{
	const struct tcp_conn_record *chosen = record_of(path, path->chosen);

	if (now >= record->next_ns)
		return true;
	return record->defeats <= 2 && record->evidence >= EVIDENCE_DECIDED &&
	       now - path->trial_ns > 10 * NSEC_PER_SEC &&
	       score(record, path->min_rtt) * 100 > score(chosen, path->min_rtt) * 130;
}

/* Whether something is tried; a trial that nobody could end is none any more. */
static __always_inline bool is_on_trial(const struct tcp_conn_path *path, __u64 now)
{
	return path->trial < NO_TRIAL && now - path->trial_ns <= TRIAL_MOST_NS;
}

static __always_inline void end_trial(struct tcp_conn_path *path)
{
	path->trial = NO_TRIAL;
	path->testers = 0;
}

/* Ends the trial, if the records say how. */
static __always_inline void conclude(struct tcp_conn_path *path, const struct tcp_conn_key *key,
				     struct net *net, __u64 now)
{
	struct tcp_conn_record *trial = record_of(path, path->trial);
	struct tcp_conn_record *chosen = record_of(path, path->chosen);
	__u32 from = path->chosen, to = path->trial, reason = path->trial_reason;
	bool is_lost = trial->evidence >= EVIDENCE_LOST &&
		       score(trial, path->min_rtt) * 2 < score(chosen, path->min_rtt);

	if (!is_lost && trial->evidence < EVIDENCE_DECIDED) {
		if (!is_on_trial(path, now)) {
			trial->next_ns = now + LAPSED_NS;
			end_trial(path);
		}
		return;
	}
	if (!is_lost && has_won(path)) {
		path->chosen = to;
		path->reason = reason;
		path->switched_ns = now;
		path->switches++;
		path->won = score(trial, path->min_rtt);
		defeat(chosen, now);
		report(path, key, net, TCP_CONN_CHOSEN, from, to, reason);
	} else {
		defeat(trial, now);
		report(path, key, net, TCP_CONN_KEPT, from, to, reason);
	}
	end_trial(path);
}

/* Begins a trial, where something is wrong and an arm is left that may help. */
static __always_inline void consider(struct tcp_conn_path *path, const struct tcp_conn_key *key,
				     struct net *net, bool ecn, __u64 now)
{
	struct tcp_conn_algorithms *algorithms;
	struct tcp_conn_record *record;
	__u32 zero = 0, arm, reason = problem(path);
	int i;

	if (reason == REASON_NONE)
		return;
	/* After a switch the path is left alone, unless it does badly since. */
	if (path->switched_ns &&
	    now - path->switched_ns < (reason == REASON_WORSE ? 60 * NSEC_PER_SEC : HOUR_NS))
		return;
	algorithms = bpf_map_lookup_elem(&tcp_conn_usable, &zero);
	if (!algorithms)
		return;
	for (i = 0; i < 2; i++) {
		arm = remedy(path, reason, i);
		if (arm >= ARM_COUNT || arm == path->chosen || (algorithms->absent >> arm & 1))
			continue;
		if (arm == ARM_DCTCP && !ecn)
			continue;
		record = record_of(path, arm);
		if (reason != REASON_WORSE && !is_due(path, record, now))
			continue;
		if (arm != path->own && !(algorithms->usable >> arm & 1)) {
			report(path, key, net, TCP_CONN_NEED, path->chosen, arm, reason);
			return;
		}
		clear_record(record);
		report(path, key, net, TCP_CONN_TRIAL, path->chosen, arm, reason);
		if (dry_run) {
			path->switched_ns = now;
			return;
		}
		path->trial = arm;
		path->trial_reason = reason;
		path->trial_ns = now;
		path->trial_seen_ns = 0;
		path->testers = 0;
		return;
	}
}

#endif
