/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CSHIMS_H
#define CSHIMS_H
#include "bpftune_bpf.h"
#include "bpftune_conntrack.h"
#include "bpftune_event.h"
#include "bpftune_glibc.h"
#include "bpftune_module.h"
#include "bpftune_neightbl.h"
#include "bpftune_netns.h"
#include "bpftune_peer.h"
#include "bpftune_process.h"
#include "bpftune_sqlite.h"
#include "bpftune_tcp.h"
#include "bpftune_tuner.h"
#endif
