// SPDX-License-Identifier: Apache-2.0
#include "host.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What is too long becomes longer than allowed, for the daemon to see. */
static void copy(char *to, size_t size, const char *from)
{
	size_t length = from ? strnlen(from, size) : 0;

	memcpy(to, from ? from : "", length < size ? length + 1 : size);
}

static void copy_tunables(struct bpftune_said_description *said,
			  const struct bpftune_tuner *tuner)
{
	for (size_t i = 0; i < tuner->tunable_count; i++) {
		const struct bpftune_tunable *from = &tuner->tunables[i];
		struct bpftune_said_tunable *to = &said->tunables[i];

		copy(to->name, sizeof(to->name), from->name);
		to->arity = from->arity;
		to->scope = from->scope;
		to->minimum = from->minimum;
		to->maximum = from->maximum;
	}
}

static void copy_signals(struct bpftune_said_description *said,
			 const struct bpftune_tuner *tuner)
{
	for (size_t i = 0; i < tuner->signal_count; i++) {
		const struct bpftune_signal *from = &tuner->signals[i];
		struct bpftune_said_signal *to = &said->signals[i];

		copy(to->name, sizeof(to->name), from->name);
		for (int p = 0; p < BPFTUNE_MOST_PROGRAMS && from->programs[p]; p++)
			copy(to->programs[p], BPFTUNE_NAME, from->programs[p]);
	}
}

static void copy_names(char (*to)[BPFTUNE_NAME], const char *const *from, size_t count)
{
	for (size_t i = 0; i < count; i++)
		copy(to[i], BPFTUNE_NAME, from[i]);
}

static void send_object(const unsigned char *bytes, size_t size)
{
	static struct bpftune_said_object said = { .message.kind = BPFTUNE_SAYS_OBJECT };

	while (size) {
		size_t now = size < sizeof(said.bytes) ? size : sizeof(said.bytes);

		memcpy(said.bytes, bytes, now);
		say(&said, offsetof(struct bpftune_said_object, bytes) + now);
		bytes += now;
		size -= now;
	}
}

static void refuse(const char *what, size_t count, size_t most)
{
	char text[BPFTUNE_TEXT];

	snprintf(text, sizeof(text), "it has %zu %s, and %zu is the most", count, what, most);
	say_text(BPFTUNE_SAYS_FAILED, text);
	exit(1);
}

void describe(const struct bpftune_tuner *tuner)
{
	static struct bpftune_said_description said = {
		.message.kind = BPFTUNE_SAYS_DESCRIPTION,
	};
	const struct {
		const char *what;
		size_t count, most;
	} counts[] = {
		{ "tunables", tuner->tunable_count, BPFTUNE_MOST_TUNABLES },
		{ "scenarios", tuner->scenario_count, BPFTUNE_MOST_SCENARIOS },
		{ "signals", tuner->signal_count, BPFTUNE_MOST_SIGNALS },
		{ "strategies", tuner->strategy_count, BPFTUNE_MOST_STRATEGIES },
		{ "bytes of BPF object", tuner->object_size, BPFTUNE_MOST_OBJECT },
	};

	for (size_t i = 0; i < sizeof(counts) / sizeof(*counts); i++)
		if (counts[i].count > counts[i].most)
			refuse(counts[i].what, counts[i].count, counts[i].most);
	if (!tuner->event) {
		say_text(BPFTUNE_SAYS_FAILED, "it has no function for events");
		exit(1);
	}
	said.scope = tuner->scope;
	said.object_size = tuner->object_size;
	said.tunable_count = tuner->tunable_count;
	said.scenario_count = tuner->scenario_count;
	said.signal_count = tuner->signal_count;
	said.strategy_count = tuner->strategy_count;
	said.hears_namespaces = tuner->namespace_changed != NULL;
	said.evaluates = tuner->evaluate != NULL;
	copy(said.name, sizeof(said.name), tuner->name);
	copy(said.description, sizeof(said.description), tuner->description);
	copy_tunables(&said, tuner);
	copy_names(said.scenarios, tuner->scenarios, tuner->scenario_count);
	copy_signals(&said, tuner);
	copy_names(said.strategies, tuner->strategies, tuner->strategy_count);
	say(&said, sizeof(said));
	send_object(tuner->object, tuner->object_size);
}
