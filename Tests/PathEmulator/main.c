// SPDX-License-Identifier: Apache-2.0
/*
 * path-emulator: a network path between two network namespaces, for tests and
 * benchmarks of TCP on kernels without netem. It creates a TUN device in each
 * namespace and carries IP packets from one to the other with a delay and, if
 * asked for, a rate limit with a tail-drop queue, random loss and ECN marks.
 * Each direction has its own queue and its own sequence of losses. The devices
 * vanish when the program ends. It needs CAP_NET_ADMIN and CAP_SYS_ADMIN, and
 * keeps delays best with CAP_SYS_NICE, for a real-time priority.
 *
 * usage: path-emulator --left NETNS --right NETNS [OPTION...]
 *
 *   --left NETNS, --right NETNS
 *	The namespaces: a path (/run/netns/a), a name (a: /run/netns/a), or
 *	"init" for the one the program is started in.
 *   --left-if NAME, --right-if NAME
 *	Names of the devices (path0). Their MTU is 1500.
 *   --left-addr ADDRESS/PREFIX, --right-addr ADDRESS/PREFIX
 *	An IPv4 or IPv6 address of the device. May be given several times.
 *   --delay-ms D
 *	Delay in each direction, so half of the round-trip time (0).
 *   --rate-mbit R
 *	Bottleneck in each direction in 10^6 bit/s, counting IP packets with
 *	their headers. 0: unlimited (0).
 *   --queue-bytes Q
 *	What may wait in front of the bottleneck (67108864). Without a rate
 *	limit nothing waits.
 *   --loss-percent P
 *	Chance of each packet to be lost, before the bottleneck (0).
 *   --ecn-threshold-bytes E
 *	Mark ECN-capable packets that arrive when more than this is queued.
 *	Without a rate limit nothing is marked.
 *   --seed N
 *	Makes the sequence of losses the same in every run.
 *   --duration-s S
 *	End after this time.
 *   --until-eof
 *	End when standard input does.
 *
 * Delays, rates, losses and durations may have a fraction. With a rate limit,
 * loss or ECN marks, each packet on the path is at most 1500 bytes; without
 * them, packets of up to 64 KiB that TCP has not yet cut into segments are
 * carried whole, which is faster.
 *
 * It prints "ready" when both devices are up, runs until SIGTERM, SIGINT or
 * the death of its parent process, and then prints one line of JSON with the
 * counters of each direction, left_to_right and right_to_left: what was
 * forwarded (as the wire would carry it), lost, dropped for want of queue (or
 * of the 256 MiB that a direction may hold in all) and marked, the most bytes
 * that were queued, and what should be 0: packets that the far device did not
 * accept (write_failed), and packets that the near device dropped because they
 * came faster than this program could read them (dropped_device).
 *
 * Exit status: 0, 64 for a wrong command line, 1 for any other failure.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "emulator.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/signalfd.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define EXIT_USAGE		64
#define DEFAULT_QUEUE_BYTES	(64u << 20)
/* Leaves room for what is on its way behind the queue. */
#define MAX_QUEUE_BYTES		(MEMORY_BYTES / 2)

struct options {
	struct device left, right;
	struct conditions conditions;
	double rate_mbit;
	double duration_s;		/* negative: until told to end */
	uint64_t seed;
	bool seeded, until_eof;
};

enum option_id {
	LEFT, RIGHT, LEFT_IF, RIGHT_IF, LEFT_ADDR, RIGHT_ADDR, DELAY, RATE,
	QUEUE, LOSS, ECN, SEED, DURATION, UNTIL_EOF,
};

static const struct option long_options[] = {
	{ "left", required_argument, NULL, LEFT },
	{ "right", required_argument, NULL, RIGHT },
	{ "left-if", required_argument, NULL, LEFT_IF },
	{ "right-if", required_argument, NULL, RIGHT_IF },
	{ "left-addr", required_argument, NULL, LEFT_ADDR },
	{ "right-addr", required_argument, NULL, RIGHT_ADDR },
	{ "delay-ms", required_argument, NULL, DELAY },
	{ "rate-mbit", required_argument, NULL, RATE },
	{ "queue-bytes", required_argument, NULL, QUEUE },
	{ "loss-percent", required_argument, NULL, LOSS },
	{ "ecn-threshold-bytes", required_argument, NULL, ECN },
	{ "seed", required_argument, NULL, SEED },
	{ "duration-s", required_argument, NULL, DURATION },
	{ "until-eof", no_argument, NULL, UNTIL_EOF },
	{ NULL, 0, NULL, 0 },
};

void fail(const char *what, int error)
{
	fprintf(stderr, "path-emulator: %s: %s\n", what, strerror(error));
	exit(EXIT_FAILURE);
}

static void __attribute__((noreturn, format(printf, 1, 2)))
fail_usage(const char *format, ...)
{
	va_list arguments;

	fputs("path-emulator: ", stderr);
	va_start(arguments, format);
	vfprintf(stderr, format, arguments);
	va_end(arguments);
	fputc('\n', stderr);
	exit(EXIT_USAGE);
}

static double parse_number(const char *option, const char *text, double max)
{
	char *end;
	double number = strtod(text, &end);

	if (end == text || *end || !(number >= 0 && number <= max))
		fail_usage("--%s: '%s' is not a number from 0 to %.0f", option, text, max);
	return number;
}

static uint64_t parse_integer(const char *option, const char *text, uint64_t max)
{
	char *end;
	unsigned long long number;

	errno = 0;
	number = strtoull(text, &end, 10);
	if (*text < '0' || *text > '9' || *end || errno || number > max)
		fail_usage("--%s: '%s' is not an integer from 0 to %" PRIu64,
			   option, text, max);
	return number;
}

static void parse_address(const char *option, const char *text, struct device *device)
{
	if (device->address_count == MAX_ADDRESSES)
		fail_usage("--%s: more than %d addresses", option, MAX_ADDRESSES);
	if (!address_parse(text, &device->addresses[device->address_count++]))
		fail_usage("--%s: '%s' is not an IPv4 or IPv6 address with a prefix length",
			   option, text);
}

static const char *parse_name(const char *option, const char *text)
{
	if (!*text || strlen(text) >= IFNAMSIZ || strpbrk(text, "/:% \t\n"))
		fail_usage("--%s: '%s' is not a device name", option, text);
	return text;
}

static void parse_option(struct options *options, enum option_id which,
			 const char *name, const char *value)
{
	switch (which) {
	case LEFT:
		options->left.netns = value;
		break;
	case RIGHT:
		options->right.netns = value;
		break;
	case LEFT_IF:
		options->left.name = parse_name(name, value);
		break;
	case RIGHT_IF:
		options->right.name = parse_name(name, value);
		break;
	case LEFT_ADDR:
		parse_address(name, value, &options->left);
		break;
	case RIGHT_ADDR:
		parse_address(name, value, &options->right);
		break;
	case DELAY:
		options->conditions.delay_ns = parse_number(name, value, 60000) * 1e6;
		break;
	case RATE:
		options->rate_mbit = parse_number(name, value, 1000000);
		break;
	case QUEUE:
		options->conditions.queue_bytes = parse_integer(name, value, MAX_QUEUE_BYTES);
		break;
	case LOSS:
		options->conditions.loss = parse_number(name, value, 100) / 100;
		break;
	case ECN:
		options->conditions.ecn_threshold = parse_integer(name, value, MAX_QUEUE_BYTES);
		options->conditions.marks = true;
		break;
	case SEED:
		options->seed = parse_integer(name, value, UINT64_MAX);
		options->seeded = true;
		break;
	case DURATION:
		options->duration_s = parse_number(name, value, 1e9);
		break;
	case UNTIL_EOF:
		options->until_eof = true;
		break;
	}
}

static struct options parse_options(int count, char **arguments)
{
	struct options options = {
		.left.name = "path0",
		.right.name = "path0",
		.conditions.queue_bytes = DEFAULT_QUEUE_BYTES,
		.duration_s = -1,
	};
	int which, index = 0;

	/* getopt_long names a wrong option itself, after the program's name. */
	if (count > 0)
		arguments[0] = "path-emulator";
	while ((which = getopt_long(count, arguments, "", long_options, &index)) >= 0) {
		if (which == '?')
			exit(EXIT_USAGE);
		parse_option(&options, which, long_options[index].name, optarg);
	}
	if (optind < count)
		fail_usage("unexpected argument '%s'", arguments[optind]);
	if (!options.left.netns)
		fail_usage("--left is missing");
	if (!options.right.netns)
		fail_usage("--right is missing");
	if (options.rate_mbit > 0)
		options.conditions.ns_per_byte = 8000 / options.rate_mbit;
	if (!options.seeded &&
	    getrandom(&options.seed, sizeof(options.seed), 0) != sizeof(options.seed))
		fail("random seed", errno);
	return options;
}

/*
 * Everything that ends the program arrives as a signal. SIGUSR1 comes when the
 * parent dies, but also when only the thread of it that started this program
 * ends, so that alone says nothing.
 */
static int open_signals(void)
{
	sigset_t signals;
	int fd;

	sigemptyset(&signals);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGALRM);
	sigaddset(&signals, SIGUSR1);
	sigprocmask(SIG_BLOCK, &signals, NULL);
	signal(SIGPIPE, SIG_IGN);
	fd = signalfd(-1, &signals, SFD_CLOEXEC);
	if (fd < 0)
		fail("signalfd", errno);
	if (prctl(PR_SET_PDEATHSIG, SIGUSR1))
		fail("parent death signal", errno);
	return fd;
}

static void start_timer(double duration_s)
{
	struct itimerval timer = { 0 };

	timer.it_value.tv_sec = duration_s;
	timer.it_value.tv_usec = (duration_s - timer.it_value.tv_sec) * 1e6;
	if (timer.it_value.tv_sec == 0 && timer.it_value.tv_usec == 0)
		timer.it_value.tv_usec = 1;
	if (setitimer(ITIMER_REAL, &timer, NULL))
		fail("timer", errno);
}

/*
 * One thread for both directions leaves the other processors to the programs
 * under test. It has little to do for each packet, but must do it on time, so
 * it goes before all of them where that is permitted.
 */
static void be_punctual(void)
{
	struct sched_param priority = { .sched_priority = 1 };

	if (sched_setscheduler(0, SCHED_FIFO, &priority) && errno != EPERM)
		fail("real-time priority", errno);
	/* Timeouts end when they say, not 50 us later. */
	if (prctl(PR_SET_TIMERSLACK, 1))
		fail("timer slack", errno);
}

/* SIGUSR1 only has the loop look at its parent again. */
static bool signal_ends(int signals)
{
	struct signalfd_siginfo info;

	return read(signals, &info, sizeof(info)) == sizeof(info) &&
	       info.ssi_signo != SIGUSR1;
}

static bool at_eof(void)
{
	char ignored[4096];
	ssize_t got = read(STDIN_FILENO, ignored, sizeof(ignored));

	return got == 0 || (got < 0 && errno != EINTR && errno != EAGAIN);
}

/* Forwards packets until it is time to end. */
static void run(struct path paths[2], int signals, bool until_eof, pid_t parent)
{
	struct pollfd polled[] = {
		{ .fd = paths[0].in, .events = POLLIN },
		{ .fd = paths[1].in, .events = POLLIN },
		{ .fd = signals, .events = POLLIN },
		{ .fd = until_eof ? STDIN_FILENO : -1, .events = POLLIN },
	};
	unsigned int rounds = 0;

	while (getppid() == parent) {
		uint64_t time, next;
		struct timespec wait = { 0 };
		bool busy;

		do {
			time = monotonic_ns();
			next = UINT64_MAX;
			busy = path_step(&paths[0], time, &next);
			busy |= path_step(&paths[1], time, &next);
			/* However busy, look at the signals now and then. */
		} while (busy && ++rounds % 256);

		if (!busy && next != UINT64_MAX) {
			wait.tv_sec = (next - time) / NS_PER_S;
			wait.tv_nsec = (next - time) % NS_PER_S;
		}
		if (ppoll(polled, 4, busy || next != UINT64_MAX ? &wait : NULL, NULL) < 0) {
			if (errno != EINTR)
				fail("ppoll", errno);
			continue;
		}
		paths[0].readable = polled[0].revents;
		paths[1].readable = polled[1].revents;
		if (polled[2].revents && signal_ends(signals))
			return;
		if (polled[3].revents && at_eof())
			return;
	}
}

static void print_counters(const char *name, const struct counters *counters)
{
	printf("\"%s\":{\"forwarded_packets\":%" PRIu64 ",\"forwarded_bytes\":%" PRIu64
	       ",\"dropped_loss\":%" PRIu64 ",\"dropped_queue\":%" PRIu64
	       ",\"marked\":%" PRIu64 ",\"max_queue_bytes\":%" PRIu64
	       ",\"write_failed\":%" PRIu64 ",\"dropped_device\":%" PRIu64 "}",
	       name, counters->forwarded_packets, counters->forwarded_bytes,
	       counters->dropped_loss, counters->dropped_queue, counters->marked,
	       counters->max_queue_bytes, counters->write_failed,
	       counters->dropped_device);
}

static void flush_output(void)
{
	if (fflush(stdout))
		fail("standard output", errno);
}

int main(int count, char **arguments)
{
	pid_t parent = getppid();
	struct options options = parse_options(count, arguments);
	const struct conditions *conditions = &options.conditions;
	bool large_packets = conditions->ns_per_byte == 0 && conditions->loss == 0 &&
			     !conditions->marks;
	int signals = open_signals();
	int home_netns = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	struct path paths[2];

	if (home_netns < 0)
		fail("/proc/self/ns/net", errno);
	device_open(&options.left, home_netns, large_packets);
	device_open(&options.right, home_netns, large_packets);
	for (int i = 0; i < 2; i++) {
		paths[i] = (struct path){
			.in = i ? options.right.fd : options.left.fd,
			.out = i ? options.left.fd : options.right.fd,
			.conditions = *conditions,
			.random = options.seed + i * 0x632be59bd9b4e019,
		};
		path_prepare(&paths[i]);
	}
	be_punctual();
	if (options.duration_s >= 0)
		start_timer(options.duration_s);
	puts("ready");
	flush_output();

	run(paths, signals, options.until_eof, parent);

	paths[0].counters.dropped_device = device_dropped(&options.left);
	paths[1].counters.dropped_device = device_dropped(&options.right);
	putchar('{');
	print_counters("left_to_right", &paths[0].counters);
	putchar(',');
	print_counters("right_to_left", &paths[1].counters);
	puts("}");
	flush_output();
	return EXIT_SUCCESS;
}
