// SPDX-License-Identifier: Apache-2.0
/*
 * The choice of tcp-conn (bpf/tcp_conn_choice.h) with a clock of its own: what a
 * path gets in a day of connections that last two seconds, one after the other.
 *
 *	choice-simulator PATH HOURS SEED
 *
 * Prints `chosen NAME early N switches N trials N`: `early` counts the switches
 * of the first hour, the others those of the hours after it.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tcp_conn_choice.h"

/* What an algorithm gets of a path: kbit/s, microseconds, of a million lost. */
struct share {
	__u32 rate, rtt, loss;
};

/* A path, and how far a single sample may be off, in percent. */
struct model {
	const char *name;
	__u32 min_rtt, noise, marked;
	struct share arms[ARM_COUNT];
};

static const struct model models[] = {
	{ "clean", 20000, 30, 0,
	  { [ARM_BBR] = { 95000, 21000, 0 }, [ARM_CUBIC] = { 95000, 21000, 0 } } },
	{ "lossy", 100000, 30, 0,
	  { [ARM_BBR] = { 90000, 101000, 20000 }, [ARM_CUBIC] = { 2600, 100500, 20000 },
	    [ARM_HTCP] = { 3000, 100500, 20000 } } },
	/* Short connections over a long path: some samples are all of slow start. */
	{ "uneven", 100000, 98, 0,
	  { [ARM_BBR] = { 35000, 101000, 20000 }, [ARM_CUBIC] = { 2600, 100500, 20000 },
	    [ARM_HTCP] = { 3000, 100500, 20000 } } },
	/* Lossy, but nothing does better than the default. */
	{ "equal", 20000, 30, 0,
	  { [ARM_BBR] = { 50000, 22000, 2000 }, [ARM_CUBIC] = { 50000, 22000, 2000 },
	    [ARM_HTCP] = { 50000, 22000, 2000 } } },
	/* Between what is chosen and what is not: the noise is larger. */
	{ "nearly", 20000, 30, 0,
	  { [ARM_BBR] = { 55000, 22000, 2000 }, [ARM_CUBIC] = { 50000, 22000, 2000 },
	    [ARM_HTCP] = { 52000, 22000, 2000 } } },
	{ "queue", 20000, 30, 0,
	  { [ARM_BBR] = { 48000, 25000, 0 }, [ARM_CUBIC] = { 49000, 150000, 0 } } },
	{ "marks", 20000, 20, 100000,
	  { [ARM_BBR] = { 48000, 25000, 0 }, [ARM_CUBIC] = { 40000, 30000, 0 },
	    [ARM_DCTCP] = { 48000, 24000, 0 } } },
};

static __u64 now_ns = NSEC_PER_SEC;
static struct tcp_conn_algorithms algorithms = { .usable = (1 << ARM_COUNT) - 1 };
static __u64 random_state;

__u64 bpf_ktime_get_ns(void)
{
	return now_ns;
}

void *bpf_map_lookup_elem(void *map, const void *key)
{
	(void)key;
	return map == &tcp_conn_usable ? &algorithms : NULL;
}

long bpf_map_update_elem(void *map, const void *key, const void *value, __u64 flags)
{
	(void)map, (void)key, (void)value, (void)flags;
	return 0;
}

long bpf_ringbuf_output(void *ring, void *data, __u64 size, __u64 flags)
{
	(void)ring, (void)data, (void)size, (void)flags;
	return 0;
}

void *bpf_get_current_task(void)
{
	return NULL;
}

static double uniform(void)
{
	random_state = random_state * 6364136223846793005ULL + 1442695040888963407ULL;
	return (random_state >> 11) * 0x1p-53;
}

/* `value`, give or take so many percent. */
static double about(double value, __u32 percent)
{
	return value * (1 + (2 * uniform() - 1) * percent / 100);
}

/* A sample of 150 ms and six rounds. */
static void sample(const struct model *model, struct tcp_conn_path *path, struct tcp_conn *conn)
{
	const struct share *share = &model->arms[conn->arm];
	double bytes = about(share->rate, model->noise) * 1000 / 8 * 0.15;
	__u32 segments = bytes / 1448;

	conn->rounds = 6;
	conn->sample_ns = 150 * NSEC_PER_MSEC;
	conn->sample_bytes = bytes;
	conn->sample_rtt = 6 * about(share->rtt, model->noise / 3);
	if (conn->sample_rtt < 6ULL * model->min_rtt)
		conn->sample_rtt = 6 * model->min_rtt;
	conn->sample_segments = segments;
	conn->sample_retransmitted =
		about((double)segments * share->loss / MILLION, 50) + uniform();
	path->segments += segments;
	path->retransmitted += conn->sample_retransmitted;
	path->marked += (__u64)segments * model->marked / MILLION;
	path->min_rtt = model->min_rtt;
	take_sample(conn, path);
}

int main(int argc, char **argv)
{
	struct tcp_conn_path path = {
		.own = ARM_CUBIC, .chosen = ARM_CUBIC, .trial = NO_TRIAL, .known = 1,
		.own_name = "cubic",
	};
	const struct model *model = NULL;
	struct tcp_conn_key key = {};
	__u32 early = 0, trials = 0, i;
	struct net net = {};
	__u64 end;

	if (argc != 4)
		return 64;
	for (i = 0; i < sizeof(models) / sizeof(models[0]); i++) {
		if (!strcmp(argv[1], models[i].name))
			model = &models[i];
	}
	if (!model)
		return 64;
	random_state = strtoull(argv[3], NULL, 10) * 2654435761u + 1;
	end = now_ns + strtoull(argv[2], NULL, 10) * HOUR_NS;
	while (now_ns < end) {
		struct tcp_conn conn = { .arm = path.chosen };

		/* As tcp_conn.bpf.c has it. */
		if (path.trial < NO_TRIAL && path.testers < MOST_TESTERS) {
			conn.arm = path.trial;
			path.testers++;
			conn.tester = 1;
		}
		for (i = 0; i < 12; i++) {
			__u32 trial = path.trial;

			now_ns += 150 * NSEC_PER_MSEC;
			sample(model, &path, &conn);
			if (trial < NO_TRIAL)
				conclude(&path, &key, &net, now_ns);
			else
				consider(&path, &key, &net, true, now_ns);
			trials += trial == NO_TRIAL && path.trial < NO_TRIAL;
			if (path.trial < NO_TRIAL && path.testers < MOST_TESTERS &&
			    conn.arm != path.trial && !conn.moves) {
				conn.arm = path.trial;
				conn.moves++;
				conn.tester = 1;
				path.testers++;
			} else if (path.trial == NO_TRIAL && conn.arm != path.chosen &&
				   conn.moves < 2) {
				conn.arm = path.chosen;
				conn.moves++;
				conn.tester = 0;
			}
		}
		if (conn.tester && path.testers)
			path.testers--;
		now_ns += 200 * NSEC_PER_MSEC;
		if (now_ns < HOUR_NS)
			early = path.switches;
	}
	printf("chosen %s early %u switches %u trials %u\n",
	       path.chosen == path.own ? path.own_name : names[slot(path.chosen)], early,
	       path.switches - early, trials);
	return 0;
}
