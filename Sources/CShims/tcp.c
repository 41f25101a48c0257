// SPDX-License-Identifier: Apache-2.0
#include "bpftune_tcp.h"

#include <errno.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* include/net/tcp_states.h of the kernel. */
#define ESTABLISHED 1

static int ask(int fd, int family)
{
	struct {
		struct nlmsghdr header;
		struct inet_diag_req_v2 request;
	} message = {
		.header = {
			.nlmsg_len = sizeof(message),
			.nlmsg_type = SOCK_DIAG_BY_FAMILY,
			.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP,
		},
		.request = {
			.sdiag_family = (__u8)family,
			.sdiag_protocol = IPPROTO_TCP,
			.idiag_ext = 1 << (INET_DIAG_INFO - 1),
			.idiag_states = 1 << ESTABLISHED,
		},
	};

	return send(fd, &message, sizeof(message), 0) < 0 ? -1 : 0;
}

static void take(struct bpftune_tcp_connection *to, const struct inet_diag_msg *from, size_t length)
{
	const struct rtattr *attribute = (const void *)(from + 1);
	struct tcp_info info = { 0 };
	int left = (int)length - (int)sizeof(*from);

	memset(to, 0, sizeof(*to));
	to->cookie = (uint64_t)from->id.idiag_cookie[1] << 32 | from->id.idiag_cookie[0];
	if (from->idiag_family == AF_INET) {
		to->peer[10] = to->peer[11] = 0xff;
		memcpy(to->peer + 12, from->id.idiag_dst, 4);
	} else {
		memcpy(to->peer, from->id.idiag_dst, 16);
	}
	for (; RTA_OK(attribute, left); attribute = RTA_NEXT(attribute, left)) {
		size_t size = RTA_PAYLOAD(attribute);

		if (attribute->rta_type == INET_DIAG_INFO)
			memcpy(&info, RTA_DATA(attribute), size < sizeof(info) ? size : sizeof(info));
	}
	to->acknowledged = info.tcpi_bytes_acked;
	to->received = info.tcpi_bytes_received;
	to->delivery_rate = info.tcpi_delivery_rate;
	to->receive_space = info.tcpi_rcv_space;
	to->receive_rtt = info.tcpi_rcv_rtt;
	to->rtt = info.tcpi_rtt;
	to->data_segments = info.tcpi_data_segs_out;
	to->retransmits = info.tcpi_total_retrans;
}

/* One family's, into what is left of the array. */
static int read_family(int fd, int family, struct bpftune_tcp_connection *to, int most)
{
	char buffer[32768];
	int count = 0;

	if (ask(fd, family))
		return -1;
	for (;;) {
		ssize_t length = recv(fd, buffer, sizeof(buffer), 0);
		struct nlmsghdr *header = (struct nlmsghdr *)buffer;

		if (length < 0)
			return -1;
		for (; NLMSG_OK(header, (size_t)length); header = NLMSG_NEXT(header, length)) {
			if (header->nlmsg_type == NLMSG_DONE)
				return count;
			if (header->nlmsg_type == NLMSG_ERROR) {
				errno = EOPNOTSUPP;
				return -1;
			}
			if (count < most && NLMSG_PAYLOAD(header, 0) >= sizeof(struct inet_diag_msg))
				take(&to[count++], NLMSG_DATA(header), NLMSG_PAYLOAD(header, 0));
		}
		/* The rest is not read: closing the socket ends it. */
		if (count >= most)
			return count;
	}
}

int bpftune_tcp_connections(struct bpftune_tcp_connection *connections, int most)
{
	int families[] = { AF_INET, AF_INET6 };
	int count = 0;

	for (int i = 0; i < 2; i++) {
		int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
		int found = fd < 0 ? -1 : read_family(fd, families[i], connections + count, most);

		if (fd >= 0)
			close(fd);
		if (found < 0)
			return -1;
		count += found;
	}
	return count;
}
