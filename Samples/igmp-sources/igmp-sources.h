/* SPDX-License-Identifier: Apache-2.0 */
/* What igmp-sources.swift sees of C. */
#include <bpftune_tuner.h>

/* The BPF object, from object.c. */
size_t igmp_sources_object_size(void);
const void *igmp_sources_object_start(void);
