// SPDX-License-Identifier: Apache-2.0
/*
 * Tuners that do what a tuner must not, one at a time, on the signal of the
 * sample igmp-groups, and one that has strategies. What FAULT_NAME stands for is
 * in name.so.
 */
#include <bpftune_tuner.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

BPFTUNE_EMBED(object, "igmp-groups.bpf.o");

static struct bpftune_tunable tunables[] = {
	{ "net.ipv4.igmp_max_memberships", BPFTUNE_SCALAR, BPFTUNE_PER_NAMESPACE, 0, 1280 },
};

static const char *scenarios[] = { "need to allow more multicast groups" };

static const struct bpftune_signal signals[] = {
	{ "socket joins a group", { "group_join" } },
	{ "group refused", { "group_joined" } },
};

static struct bpftune_tuner tuner;
static const struct bpftune_reply *answer;
static struct bpftune_adjustment adjustment = { .reason = "for the test" };

static void spoil(void);

static void event(const struct bpftune_observation *seen, const struct bpftune_reply *reply)
{
	answer = reply;
	adjustment.assumed = seen->values[0];
	adjustment.wanted = 2 * seen->values[0];
	spoil();
	reply->adjust(reply, &adjustment);
}

/* So that the file has the name of the tuner. */
#define CALLED(text) tuner.name = text

static void prepare(void);

const struct bpftune_tuner *bpftune_tuner(void)
{
	tuner = (struct bpftune_tuner){
		.abi = BPFTUNE_TUNER_ABI,
		.description = "misbehaves",
		.tunables = tunables,
		.tunable_count = 1,
		.scenarios = scenarios,
		.scenario_count = 1,
		.signals = signals,
		.signal_count = 2,
		.object = object,
		.object_size = object_end - object,
		.event = event,
	};
	prepare();
	return &tuner;
}

__attribute__((unused)) static void hang(void)
{
	for (;;)
		sleep(1000);
}

#ifdef FAULT_CRASH
static void prepare(void) { CALLED("crash"); }
static void spoil(void) { *(volatile int *)0 = 1; }
#endif

#ifdef FAULT_HANG
static void prepare(void) { CALLED("hang"); }
static void spoil(void) { hang(); }
#endif

#ifdef FAULT_ABORT
static void prepare(void) { CALLED("abort"); }
static void spoil(void) { abort(); }
#endif

#ifdef FAULT_EXIT
static void prepare(void) { CALLED("exit"); }
static void spoil(void) { exit(3); }
#endif

#ifdef FAULT_UNKNOWN_TUNABLE
static void prepare(void) { CALLED("unknown-tunable"); }
static void spoil(void) { adjustment.tunable = 7; }
#endif

#ifdef FAULT_OUT_OF_BOUNDS
static void prepare(void) { CALLED("out-of-bounds"); }
static void spoil(void) { adjustment.wanted = 1281; }
#endif

#ifdef FAULT_LONG_TEXT
static void prepare(void) { CALLED("long-text"); }
static void spoil(void)
{
	static char text[300];

	memset(text, 'x', sizeof(text) - 1);
	adjustment.reason = text;
}
#endif

#ifdef FAULT_CONTROLS
static void prepare(void) { CALLED("controls"); }
static void spoil(void) { adjustment.reason = "\033[2Jgone"; }
#endif

#ifdef FAULT_BYTES
static void prepare(void) { CALLED("bytes"); }
static void spoil(void) { adjustment.reason = "\xff\xfe"; }
#endif

#ifdef FAULT_TALKS
static void prepare(void) { CALLED("talks"); }
static void spoil(void)
{
	for (;;)
		answer->adjust(answer, &adjustment);
}
#endif

#ifdef FAULT_INIT_HANGS
static int never(const struct bpftune_reply *reply)
{
	(void)reply;
	hang();
	return 0;
}

static void prepare(void)
{
	CALLED("init-hangs");
	tuner.init = never;
}
static void spoil(void) { }
#endif

#ifdef FAULT_UNWILLING
static int no(const struct bpftune_reply *reply)
{
	reply->leave(reply, "there is no multicast here");
	return 1;
}

static void prepare(void)
{
	CALLED("unwilling");
	tuner.init = no;
}
static void spoil(void) { }
#endif

#ifdef FAULT_OTHER_ABI
static void prepare(void)
{
	CALLED("other-abi");
	tuner.abi = 99;
}
static void spoil(void) { }
#endif

#ifdef FAULT_NO_OBJECT
static void prepare(void)
{
	CALLED("no-object");
	tuner.object = "no ELF";
	tuner.object_size = 6;
}
static void spoil(void) { }
#endif

#ifdef FAULT_ESCAPES
static void prepare(void)
{
	CALLED("escapes");
	tunables[0].name = "net.ipv4./../kernel.core_pattern";
}
static void spoil(void) { }
#endif

#ifdef FAULT_TAKES_OTHERS
static void prepare(void)
{
	CALLED("takes-others");
	tunables[0].name = "net.core.somaxconn";
}
static void spoil(void) { }
#endif

#ifdef FAULT_SCORE
static const char *strategies[] = { "one", "another" };

static double evaluate(uint32_t strategy, const struct bpftune_namespace *where)
{
	(void)strategy;
	(void)where;
	return __builtin_nan("");
}

static void prepare(void)
{
	CALLED("score");
	tuner.strategies = strategies;
	tuner.strategy_count = 2;
	tuner.evaluate = evaluate;
}
static void spoil(void) { adjustment.wanted = adjustment.assumed; }
#endif

/* Two ways to tune, of which the second is better: it allows more groups. */
#ifdef FAULT_STRATEGIES
static const char *strategies[] = { "by one", "by three" };
static double allowed;

static double evaluate(uint32_t strategy, const struct bpftune_namespace *where)
{
	(void)where;
	return allowed + strategy;
}

static void careful(const struct bpftune_observation *seen, const struct bpftune_reply *reply)
{
	adjustment.assumed = seen->values[0];
	allowed = seen->strategy ? 3 : 1;
	adjustment.wanted = seen->values[0] + allowed;
	reply->adjust(reply, &adjustment);
}

static void prepare(void)
{
	CALLED("strategies");
	tuner.strategies = strategies;
	tuner.strategy_count = 2;
	tuner.evaluate = evaluate;
	tuner.event = careful;
}
static void spoil(void) { }
#endif

/* Tries what its process must not, and says what the kernel let it do. */
#ifdef FAULT_BREAKS_OUT
static void prepare(void) { CALLED("breaks-out"); }

static void note(char *text, const char *what, int done)
{
	if (done)
		strcat(strcat(text, " "), what);
}

static void spoil(void)
{
	static char text[BPFTUNE_TEXT] = "it could:";

	note(text, "write", open("/proc/sys/net/ipv4/igmp_max_memberships", O_RDWR) >= 0);
	note(text, "create", open("/run/bpftune-test-escape", O_CREAT | O_WRONLY, 0600) >= 0);
	note(text, "chmod", chmod("/etc/hostname", 0644) == 0);
	note(text, "mkdir", mkdir("/run/bpftune-test-escape", 0700) == 0);
	note(text, "unlink", unlink("/run/bpftune-test-escape") == 0 || errno != EPERM);
	note(text, "socket", socket(AF_INET, SOCK_DGRAM, 0) >= 0);
	note(text, "fork", fork() >= 0);
	note(text, "exec", execl("/bin/true", "true", (char *)0) == 0 || errno != EPERM);
	note(text, "bpf", syscall(SYS_bpf, 0, 0, 0) >= 0 || errno != EPERM);
	note(text, "kill", syscall(SYS_kill, getppid(), 0) == 0);
	note(text, "tgkill", syscall(SYS_tgkill, getppid(), getppid(), 0) == 0);
	note(text, "mount", mount("none", "/mnt", "tmpfs", 0, NULL) == 0 || errno != EPERM);
	note(text, "unshare", syscall(SYS_unshare, 0x40000000) == 0);
	note(text, "setns", syscall(SYS_setns, 0, 0) == 0 || errno != EPERM);
	note(text, "ptrace", syscall(SYS_ptrace, 16, getppid(), 0, 0) == 0);
	note(text, "io_uring", syscall(SYS_io_uring_setup, 1, 0) >= 0 || errno != EPERM);
	note(text, "userfaultfd", syscall(SYS_userfaultfd, 0) >= 0);
	note(text, "process_vm", syscall(SYS_process_vm_readv, getppid(), 0, 0, 0, 0, 0) >= 0);
	note(text, "setpriority", syscall(SYS_setpriority, 0, 0, -20) == 0);
	note(text, "read", open("/etc/hostname", O_RDONLY) < 0);
	adjustment.reason = text;
}
#endif
