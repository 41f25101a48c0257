/* SPDX-License-Identifier: Apache-2.0 */
/* libbpf, and the little around it that Swift cannot say. */
#ifndef BPFTUNE_BPF_SHIM_H
#define BPFTUNE_BPF_SHIM_H

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <stddef.h>
#include <stdint.h>

/* Keep libbpf's warnings, of this thread, instead of printing them. */
void bpftune_bpf_capture_log(void);

/* What libbpf has warned about since the last clear; a C string. */
const char *bpftune_bpf_log(void);
void bpftune_bpf_log_clear(void);

/* An object from memory, not loaded yet. NULL with errno. */
struct bpf_object *bpftune_bpf_open(const void *bytes, size_t size, const char *name);

/*
 * Sets a `const volatile` global before the object is loaded. Returns 0,
 * -ENOENT when the object has no such variable, -EINVAL for another size.
 */
int bpftune_bpf_set_constant(struct bpf_object *object, const char *variable,
			     const void *value, size_t size);

/*
 * Attaches to a tracepoint of tracefs ("syscalls", "sys_exit_unshare"), which
 * need not be mounted. NULL with errno.
 */
struct bpf_link *bpftune_bpf_attach_tracepoint(struct bpf_program *program,
					       const char *category, const char *name);

/* Runs a raw tracepoint program once, here. Returns 0 or -errno. */
int bpftune_bpf_run(int program_fd, uint32_t *result);

/*
 * The enumerator number `index` of an enum in `btf`, which may be NULL. Returns 0, or
 * -ENOENT when there is no such enum or no more enumerators.
 */
int bpftune_bpf_enumerator(const struct btf *btf, const char *enumeration, int index,
			   const char **name, int64_t *value);

/*
 * Whether the function that a member of a kernel structure points to returns
 * anything: 1 or 0; -ENOENT when there is no such member, -EINVAL when it is no
 * pointer to a function, or what reading the kernel's type information gave.
 */
int bpftune_bpf_member_returns(const char *structure, const char *member);

#endif
