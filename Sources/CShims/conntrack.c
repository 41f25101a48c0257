// SPDX-License-Identifier: Apache-2.0
#include "bpftune_conntrack.h"

#include <arpa/inet.h>
#include <linux/netfilter/nf_conntrack_common.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <netlink/attr.h>
#include <netlink/msg.h>
#include <netlink/netlink.h>

struct progress {
	struct bpftune_conntrack_sample *sample;
	uint32_t most;
};

/* IPPROTO_TCP and so on; 0 when the entry does not say. */
static uint8_t protocol(struct nlattr *tuple)
{
	struct nlattr *parts[CTA_TUPLE_MAX + 1], *numbers[CTA_PROTO_MAX + 1];

	if (!tuple || nla_parse_nested(parts, CTA_TUPLE_MAX, tuple, NULL) ||
	    !parts[CTA_TUPLE_PROTO] ||
	    nla_parse_nested(numbers, CTA_PROTO_MAX, parts[CTA_TUPLE_PROTO], NULL) ||
	    !numbers[CTA_PROTO_NUM])
		return 0;
	return nla_get_u8(numbers[CTA_PROTO_NUM]);
}

static int count(struct nl_msg *message, void *argument)
{
	struct progress *progress = argument;
	struct bpftune_conntrack_sample *sample = progress->sample;
	struct nlattr *attributes[CTA_MAX + 1];
	uint32_t status;

	if (nlmsg_parse(nlmsg_hdr(message), sizeof(struct nfgenmsg), attributes, CTA_MAX, NULL) ||
	    !attributes[CTA_STATUS])
		return NL_OK;
	status = ntohl(nla_get_u32(attributes[CTA_STATUS]));
	sample->seen++;
	if (!(status & IPS_ASSURED)) {
		sample->evictable++;
		/* A server answers the first packet of a flood of SYN as well. */
		if (status & IPS_SEEN_REPLY &&
		    protocol(attributes[CTA_TUPLE_ORIG]) != IPPROTO_TCP)
			sample->answered++;
	}
	return sample->seen < progress->most ? NL_OK : NL_STOP;
}

/* Nothing tells of the end of what is not read to its end. */
static int last(struct nl_msg *message, void *argument)
{
	struct progress *progress = argument;

	(void)message;
	progress->most = 0;
	return NL_STOP;
}

int bpftune_conntrack_sample(uint32_t most, struct bpftune_conntrack_sample *sample)
{
	struct nfgenmsg header = { .nfgen_family = AF_UNSPEC, .version = NFNETLINK_V0 };
	struct progress progress = { .sample = sample, .most = most };
	struct nl_sock *socket = nl_socket_alloc();
	int error;

	*sample = (struct bpftune_conntrack_sample){ 0 };
	if (!socket)
		return -NLE_NOMEM;
	error = nl_connect(socket, NETLINK_NETFILTER);
	if (!error)
		error = nl_socket_modify_cb(socket, NL_CB_VALID, NL_CB_CUSTOM, count, &progress);
	if (!error)
		error = nl_socket_modify_cb(socket, NL_CB_FINISH, NL_CB_CUSTOM, last, &progress);
	if (!error)
		error = nl_send_simple(socket, NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET,
				       NLM_F_DUMP, &header, sizeof(header));
	if (error > 0)
		error = 0;
	while (!error && sample->seen < progress.most)
		error = nl_recvmsgs_default(socket);
	nl_socket_free(socket);
	return error;
}
