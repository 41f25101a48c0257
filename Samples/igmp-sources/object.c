// SPDX-License-Identifier: Apache-2.0
/* Takes the BPF object into the module, which Swift cannot. */
#include "igmp-sources.h"

BPFTUNE_EMBED(igmp_sources_object, "igmp-sources.bpf.o");

const void *igmp_sources_object_start(void)
{
	return igmp_sources_object;
}

size_t igmp_sources_object_size(void)
{
	return igmp_sources_object_end - igmp_sources_object;
}
