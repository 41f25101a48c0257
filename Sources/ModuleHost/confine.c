// SPDX-License-Identifier: Apache-2.0
/*
 * Gives up everything that a tuner does not need: what it may do is read files,
 * compute, start threads, and talk over the socket that is there already.
 */
#define _GNU_SOURCE
#include "host.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/sched.h>
#include <linux/sched/types.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__)
#define ARCHITECTURE AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define ARCHITECTURE AUDIT_ARCH_AARCH64
#else
#error "the filter of system calls is not written for this processor"
#endif

#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41	/* include/uapi/linux/prctl.h */
#endif

/* Allowed whatever their arguments. */
static const int allowed[] = {
	/* memory */
	SYS_brk, SYS_mmap, SYS_mprotect, SYS_munmap, SYS_mremap, SYS_madvise, SYS_membarrier,
	/* files that are open, and looking at others */
	SYS_read, SYS_readv, SYS_pread64, SYS_preadv, SYS_write, SYS_writev, SYS_lseek, SYS_close,
	SYS_fstat, SYS_newfstatat, SYS_statx, SYS_statfs, SYS_fstatfs, SYS_faccessat,
	SYS_readlinkat, SYS_getdents64, SYS_getcwd, SYS_fadvise64,
	/* the socket */
	SYS_sendto, SYS_recvfrom,
	/* threads, and waiting */
	SYS_futex, SYS_set_robust_list, SYS_set_tid_address, SYS_sched_yield,
	SYS_sched_getaffinity, SYS_sched_getparam, SYS_sched_getscheduler, SYS_gettid,
	SYS_exit, SYS_exit_group, SYS_restart_syscall, SYS_ppoll, SYS_epoll_create1,
	SYS_epoll_ctl, SYS_epoll_pwait, SYS_eventfd2, SYS_timerfd_create, SYS_timerfd_settime,
	SYS_timerfd_gettime, SYS_nanosleep, SYS_clock_nanosleep,
	/* signals to itself */
	SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_rt_sigreturn, SYS_rt_sigpending, SYS_sigaltstack,
	/* what time it is, who and where one is */
	SYS_clock_gettime, SYS_clock_getres, SYS_gettimeofday, SYS_getpid, SYS_getppid,
	SYS_getuid, SYS_geteuid, SYS_getgid, SYS_getegid, SYS_uname, SYS_sysinfo, SYS_getrusage,
	SYS_getrandom, SYS_getcpu,
#ifdef SYS_rseq
	SYS_rseq,
#endif
#ifdef SYS_faccessat2
	SYS_faccessat2,
#endif
	/* Older names, where there are such. */
#ifdef __x86_64__
	SYS_stat, SYS_lstat, SYS_access, SYS_readlink, SYS_getdents, SYS_poll, SYS_epoll_create,
	SYS_epoll_wait, SYS_eventfd, SYS_time, SYS_getrlimit, SYS_arch_prctl,
#else
	SYS_getrlimit,
#endif
};

/* Calls that depend on an argument, and what depends. */
struct condition {
	int call;
	unsigned int argument;
	/* None of these bits may be set, */
	unsigned int forbidden;
	/* all of these must be. */
	unsigned int required;
};

#define WRITES (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC)

static const struct condition conditions[] = {
	{ SYS_openat, 2, WRITES, 0 },
#ifdef SYS_open
	{ SYS_open, 1, WRITES, 0 },
#endif
	/* A thread, not a process. */
	{ SYS_clone, 0, CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWUSER | CLONE_NEWPID, CLONE_THREAD },
	/* To ask, not to set: there is no new limit. */
	{ SYS_prlimit64, 2, ~0U, 0 },
};

struct program {
	struct sock_filter filter[512];
	unsigned short length;
};

static void add(struct program *program, unsigned short code, unsigned int value,
		unsigned char if_true, unsigned char if_false)
{
	program->filter[program->length++] =
		(struct sock_filter)BPF_JUMP(code, value, if_true, if_false);
}

static void load(struct program *program, unsigned int offset)
{
	add(program, BPF_LD | BPF_W | BPF_ABS, offset, 0, 0);
}

static void answer(struct program *program, unsigned int value)
{
	add(program, BPF_RET | BPF_K, value, 0, 0);
}

/* The lower half of an argument: both processors are little-endian. */
static unsigned int argument(unsigned int number)
{
	return offsetof(struct seccomp_data, args) + 8 * number;
}

#define REFUSE (SECCOMP_RET_ERRNO | EPERM)

/* Allows a call with an argument of that value, and refuses it with another. */
static void allow_only(struct program *program, int call, unsigned int number,
		       unsigned int value)
{
	add(program, BPF_JMP | BPF_JEQ | BPF_K, call, 0, 4);
	load(program, argument(number));
	add(program, BPF_JMP | BPF_JEQ | BPF_K, value, 0, 1);
	answer(program, SECCOMP_RET_ALLOW);
	answer(program, REFUSE);
}

static void write_filter(struct program *program)
{
	unsigned int i;

	load(program, offsetof(struct seccomp_data, arch));
	add(program, BPF_JMP | BPF_JEQ | BPF_K, ARCHITECTURE, 1, 0);
	answer(program, SECCOMP_RET_KILL_PROCESS);
	load(program, offsetof(struct seccomp_data, nr));
	for (i = 0; i < sizeof(allowed) / sizeof(*allowed); i++) {
		add(program, BPF_JMP | BPF_JEQ | BPF_K, allowed[i], 0, 1);
		answer(program, SECCOMP_RET_ALLOW);
	}
	for (i = 0; i < sizeof(conditions) / sizeof(*conditions); i++) {
		const struct condition *c = &conditions[i];

		add(program, BPF_JMP | BPF_JEQ | BPF_K, c->call, 0, c->required ? 5 : 4);
		load(program, argument(c->argument));
		add(program, BPF_JMP | BPF_JSET | BPF_K, c->forbidden, c->required ? 2 : 1, 0);
		if (c->required)
			add(program, BPF_JMP | BPF_JSET | BPF_K, c->required, 0, 1);
		answer(program, SECCOMP_RET_ALLOW);
		answer(program, REFUSE);
	}
	/* Of abort(3), to itself. */
	allow_only(program, SYS_tgkill, 0, getpid());
	/* The names of threads and of memory; nothing else of a process. */
	add(program, BPF_JMP | BPF_JEQ | BPF_K, SYS_prctl, 0, 6);
	load(program, argument(0));
	add(program, BPF_JMP | BPF_JEQ | BPF_K, PR_SET_NAME, 2, 0);
	add(program, BPF_JMP | BPF_JEQ | BPF_K, PR_GET_NAME, 1, 0);
	add(program, BPF_JMP | BPF_JEQ | BPF_K, PR_SET_VMA, 0, 1);
	answer(program, SECCOMP_RET_ALLOW);
	answer(program, REFUSE);
	/* Their arguments cannot be seen; without them libc takes the older calls. */
#ifdef SYS_clone3
	add(program, BPF_JMP | BPF_JEQ | BPF_K, SYS_clone3, 0, 1);
	answer(program, SECCOMP_RET_ERRNO | ENOSYS);
#endif
#ifdef SYS_openat2
	add(program, BPF_JMP | BPF_JEQ | BPF_K, SYS_openat2, 0, 1);
	answer(program, SECCOMP_RET_ERRNO | ENOSYS);
#endif
	answer(program, REFUSE);
}

static int filter_calls(void)
{
	struct program program = { .length = 0 };
	struct sock_fprog code = { .filter = program.filter };

	write_filter(&program);
	code.len = program.length;
	return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &code, 0, 0);
}

/* All but these two, and standard input and output, which lead nowhere. */
static int close_others(int one, int other)
{
	int low = one < other ? one : other, high = one < other ? other : one;
	int nowhere = open("/dev/null", O_RDWR), number;

	for (number = 0; number < 3; number++) {
		if (number == one || number == other)
			return -1;
		if (nowhere < 0)
			close(number);
		else
			dup2(nowhere, number);
	}
	if (low > 3 && syscall(SYS_close_range, 3, low - 1, 0))
		return -1;
	if (high > low + 1 && syscall(SYS_close_range, low + 1, high - 1, 0))
		return -1;
	return syscall(SYS_close_range, high + 1, ~0U, 0);
}

static int limit(int resource, rlim_t most)
{
	struct rlimit limit = { .rlim_cur = most, .rlim_max = most }, now;

	if (getrlimit(resource, &now))
		return -1;
	/* No higher than it is. */
	if (now.rlim_max < most)
		return 0;
	return setrlimit(resource, &limit);
}

static int give_up_capabilities(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct none[2] = { 0 };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return -1;
	prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	return syscall(SYS_capset, &header, none);
}

const char *confine(int socket, int module)
{
	struct sched_attr ordinary = { .size = sizeof(ordinary) };

	/* Ctrl-C and systemd's stop reach it, too: it is the daemon that ends it. */
	signal(SIGINT, SIG_IGN);
	signal(SIGTERM, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	if (close_others(socket, module))
		return "cannot close descriptors";
	/* The daemon's thread comes before all others; a tuner does not. */
	if (syscall(SYS_sched_setattr, 0, &ordinary, 0))
		return "cannot take the default scheduling policy";
	if (limit(RLIMIT_CORE, 0) || limit(RLIMIT_AS, 1UL << 30) || limit(RLIMIT_NOFILE, 64))
		return "cannot set limits";
	if (give_up_capabilities())
		return "cannot give up capabilities";
	/* Also when the daemon is killed. */
	if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0))
		return "cannot be ended with the daemon";
	if (filter_calls())
		return "cannot filter system calls";
	return NULL;
}
