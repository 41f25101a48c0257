// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE
#include "bpftune_bpf.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <linux/perf_event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static _Thread_local char log_text[16384];
static _Thread_local size_t log_length;

static int capture(enum libbpf_print_level level, const char *format, va_list arguments)
{
	size_t room = sizeof(log_text) - log_length;
	int n;

	if (level != LIBBPF_WARN)
		return 0;
	/* The start of a long verifier log says less than its end. */
	if (room < 512) {
		size_t keep = sizeof(log_text) / 2;

		memmove(log_text, log_text + log_length - keep, keep);
		log_length = keep;
		room = sizeof(log_text) - log_length;
	}
	n = vsnprintf(log_text + log_length, room, format, arguments);
	if (n > 0)
		log_length += (size_t)n < room ? (size_t)n : room - 1;
	return n;
}

void bpftune_bpf_capture_log(void)
{
	libbpf_set_strict_mode(LIBBPF_STRICT_ALL);
	libbpf_set_print(capture);
}

const char *bpftune_bpf_log(void)
{
	log_text[log_length] = '\0';
	return log_text;
}

void bpftune_bpf_log_clear(void)
{
	log_length = 0;
}

struct bpf_object *bpftune_bpf_open(const void *bytes, size_t size, const char *name)
{
	LIBBPF_OPTS(bpf_object_open_opts, options, .object_name = name);

	return bpf_object__open_mem(bytes, size, &options);
}

int bpftune_bpf_set_constant(struct bpf_object *object, const char *variable,
			     const void *value, size_t size)
{
	const struct btf *btf = bpf_object__btf(object);
	const struct btf_type *section;
	struct bpf_map *map;
	int id, i;

	id = btf ? btf__find_by_name_kind(btf, ".rodata", BTF_KIND_DATASEC) : -ENOENT;
	if (id < 0)
		return -ENOENT;
	section = btf__type_by_id(btf, id);
	bpf_object__for_each_map(map, object) {
		const struct btf_var_secinfo *info = btf_var_secinfos(section);
		const char *map_name = bpf_map__name(map);
		size_t map_size, name_length = strlen(map_name);
		char *data;

		if (name_length < 7 || strcmp(map_name + name_length - 7, ".rodata"))
			continue;
		data = (char *)bpf_map__initial_value(map, &map_size);
		for (i = 0; data && i < btf_vlen(section); i++, info++) {
			const struct btf_type *type = btf__type_by_id(btf, info->type);

			if (strcmp(btf__name_by_offset(btf, type->name_off), variable))
				continue;
			if (info->size != size || info->offset + size > map_size)
				return -EINVAL;
			memcpy(data + info->offset, value, size);
			return 0;
		}
	}
	return -ENOENT;
}

/* A tracefs that is mounted nowhere: a descriptor of its root, or -1. */
static int detached_tracefs(void)
{
	int context = syscall(SYS_fsopen, "tracefs", FSOPEN_CLOEXEC);
	int mount = -1;

	if (context < 0)
		return -1;
	if (!syscall(SYS_fsconfig, context, FSCONFIG_CMD_CREATE, NULL, NULL, 0))
		mount = syscall(SYS_fsmount, context, FSMOUNT_CLOEXEC, 0);
	close(context);
	return mount;
}

static long tracepoint_id(int root, const char *category, const char *name)
{
	char path[256], text[32] = "";
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "events/%s/%s/id", category, name);
	fd = openat(root, path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	return n > 0 ? strtol(text, NULL, 10) : -1;
}

struct bpf_link *bpftune_bpf_attach_tracepoint(struct bpf_program *program,
					       const char *category, const char *name)
{
	struct perf_event_attr attributes = {
		.type = PERF_TYPE_TRACEPOINT,
		.size = sizeof(attributes),
		.sample_period = 1,
		.wakeup_events = 1,
	};
	struct bpf_link *link;
	int root, fd, saved;
	long id;

	root = open("/sys/kernel/tracing", O_PATH | O_DIRECTORY | O_CLOEXEC);
	id = root < 0 ? -1 : tracepoint_id(root, category, name);
	if (id < 0) {
		if (root >= 0)
			close(root);
		root = detached_tracefs();
		id = root < 0 ? -1 : tracepoint_id(root, category, name);
	}
	saved = errno;
	if (root >= 0)
		close(root);
	errno = saved;
	if (id < 0)
		return NULL;

	attributes.config = id;
	/* Any CPU will do: the program runs wherever the tracepoint is hit. */
	fd = syscall(SYS_perf_event_open, &attributes, -1, 0, -1, PERF_FLAG_FD_CLOEXEC);
	if (fd < 0)
		return NULL;
	link = bpf_program__attach_perf_event(program, fd);
	if (!link) {
		saved = errno;
		close(fd);
		errno = saved;
	}
	return link;
}

int bpftune_bpf_run(int program_fd, uint32_t *result)
{
	LIBBPF_OPTS(bpf_test_run_opts, options);
	int error = bpf_prog_test_run_opts(program_fd, &options);

	*result = options.retval;
	return error;
}

int bpftune_bpf_enumerator(const struct btf *btf, const char *enumeration, int index,
			   const char **name, int64_t *value)
{
	const struct btf_type *type;
	int id;

	id = btf ? btf__find_by_name_kind(btf, enumeration, BTF_KIND_ENUM) : -ENOENT;
	if (id < 0)
		return -ENOENT;
	type = btf__type_by_id(btf, id);
	if (index < 0 || index >= btf_vlen(type))
		return -ENOENT;
	*name = btf__name_by_offset(btf, btf_enum(type)[index].name_off);
	*value = btf_enum(type)[index].val;
	return 0;
}

int bpftune_bpf_member_returns(const char *structure, const char *member)
{
	struct btf *btf = btf__load_vmlinux_btf();
	const struct btf_type *type;
	const struct btf_member *m;
	int result = -ENOENT, id, i;

	if (!btf)
		return -errno;
	id = btf__find_by_name_kind(btf, structure, BTF_KIND_STRUCT);
	type = id > 0 ? btf__type_by_id(btf, id) : NULL;
	for (i = 0; type && i < btf_vlen(type); i++) {
		m = btf_members(type) + i;
		if (strcmp(btf__name_by_offset(btf, m->name_off), member))
			continue;
		type = btf__type_by_id(btf, m->type);
		if (type && btf_is_ptr(type))
			type = btf__type_by_id(btf, type->type);
		result = type && btf_is_func_proto(type) ? type->type != 0 : -EINVAL;
		break;
	}
	btf__free(btf);
	return result;
}
