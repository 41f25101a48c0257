// SPDX-License-Identifier: Apache-2.0
/*
 * igmp-groups: a tuner from outside, in C. Lets sockets join more multicast
 * groups where net.ipv4.igmp_max_memberships refuses them.
 */
#include <bpftune_tuner.h>
#include <stdio.h>

BPFTUNE_EMBED(igmp_groups_object, "igmp-groups.bpf.o");

/* Index into the tunables. */
enum {
	LIMIT,
};

static const struct bpftune_tunable tunables[] = {
	[LIMIT] = {
		.name = "net.ipv4.igmp_max_memberships",
		.arity = BPFTUNE_SCALAR,
		.scope = BPFTUNE_PER_NAMESPACE,
		.minimum = 0,
		/* The kernel looks through a socket's groups one by one. */
		.maximum = 1280,
	},
};

/* As the enum of igmp-groups.bpf.c has them. */
enum {
	GROUP_REFUSED,
};

static const char *const scenarios[] = {
	[GROUP_REFUSED] = "need to allow more multicast groups",
};

enum {
	VALUE_LIMIT,
};

static const struct bpftune_signal signals[] = {
	{ .name = "socket joins a group", .programs = { "group_join" } },
	{ .name = "group refused", .programs = { "group_joined" } },
};

static void event(const struct bpftune_observation *seen, const struct bpftune_reply *reply)
{
	struct bpftune_adjustment adjustment = {
		.tunable = LIMIT,
		.scenario = GROUP_REFUSED,
		.assumed = seen->values[VALUE_LIMIT],
	};
	int64_t limit = seen->values[VALUE_LIMIT], most = tunables[LIMIT].maximum;
	char reason[BPFTUNE_TEXT];

	if (seen->scenario != GROUP_REFUSED)
		return;
	if (limit >= most) {
		reply->leave(reply, "the limit is as high as it goes");
		return;
	}
	adjustment.wanted = limit < 1 ? 1 : limit * 2 < most ? limit * 2 : most;
	snprintf(reason, sizeof(reason),
		 "refused a socket its multicast group, for it is in %lld already (%u refusals)",
		 (long long)limit, seen->folded + 1);
	adjustment.reason = reason;
	reply->adjust(reply, &adjustment);
}

static struct bpftune_tuner tuner = {
	.abi = BPFTUNE_TUNER_ABI,
	.scope = BPFTUNE_PER_NAMESPACE,
	.name = "igmp-groups",
	.description = "lets sockets join the multicast groups that they need",
	.tunables = tunables,
	.tunable_count = sizeof(tunables) / sizeof(*tunables),
	.scenarios = scenarios,
	.scenario_count = sizeof(scenarios) / sizeof(*scenarios),
	.signals = signals,
	.signal_count = sizeof(signals) / sizeof(*signals),
	.object = igmp_groups_object,
	.event = event,
};

const struct bpftune_tuner *bpftune_tuner(void)
{
	tuner.object_size = igmp_groups_object_end - igmp_groups_object;
	return &tuner;
}
