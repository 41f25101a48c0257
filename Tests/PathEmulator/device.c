// SPDX-License-Identifier: Apache-2.0
/* TUN devices: created in their namespace, configured over rtnetlink. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "emulator.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/if_tun.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

/* Packets the kernel holds for us to read, so that none is lost there. */
#define READ_QUEUE_PACKETS	10000

struct request {
	struct nlmsghdr header;
	union {
		struct ifinfomsg link;
		struct ifaddrmsg address;
	};
	unsigned char attributes[128];
};

static void fail_device(const struct device *device, const char *what, int error)
{
	char text[512];

	snprintf(text, sizeof(text), "%s of device %s in namespace %s",
		 what, device->name, device->netns);
	fail(text, error);
}

static struct rtattr *put(struct request *request, unsigned short type,
			  const void *data, size_t length)
{
	size_t at = NLMSG_ALIGN(request->header.nlmsg_len);
	struct rtattr *attribute = (void *)((char *)request + at);

	attribute->rta_type = type;
	attribute->rta_len = RTA_LENGTH(length);
	if (length)
		memcpy(RTA_DATA(attribute), data, length);
	request->header.nlmsg_len = at + RTA_ALIGN(attribute->rta_len);
	return attribute;
}

static void end_nest(struct request *request, struct rtattr *nest)
{
	nest->rta_len = (char *)request + request->header.nlmsg_len - (char *)nest;
}

static struct request link_request(int index)
{
	struct request request = {
		.header.nlmsg_len = NLMSG_LENGTH(sizeof(struct ifinfomsg)),
		.header.nlmsg_type = RTM_NEWLINK,
		.link.ifi_family = AF_UNSPEC,
		.link.ifi_index = index,
	};

	return request;
}

/* Sends the request and waits for its answer; an errno value, 0 if it worked. */
static int submit(int netlink, struct request *request)
{
	struct {
		struct nlmsghdr header;
		struct nlmsgerr error;
		unsigned char rest[1024];
	} answer;
	ssize_t got;

	request->header.nlmsg_flags |= NLM_F_REQUEST | NLM_F_ACK;
	if (send(netlink, request, request->header.nlmsg_len, 0) < 0)
		return errno;
	do
		got = recv(netlink, &answer, sizeof(answer), 0);
	while (got < 0 && errno == EINTR);
	if (got < 0)
		return errno;
	if ((size_t)got < NLMSG_LENGTH(sizeof(answer.error)) ||
	    answer.header.nlmsg_type != NLMSG_ERROR)
		return EPROTO;
	return -answer.error.error;
}

/*
 * No address of the kernel's own making: a link-local address would have it
 * send router solicitations over the path. A kernel without IPv6 refuses the
 * request and has nothing to send either.
 */
static void disable_link_local(int netlink, int index)
{
	struct request request = link_request(index);
	unsigned char mode = IN6_ADDR_GEN_MODE_NONE;
	struct rtattr *families = put(&request, IFLA_AF_SPEC, NULL, 0);
	struct rtattr *inet6 = put(&request, AF_INET6, NULL, 0);

	put(&request, IFLA_INET6_ADDR_GEN_MODE, &mode, sizeof(mode));
	end_nest(&request, inet6);
	end_nest(&request, families);
	submit(netlink, &request);
}

static void bring_up(const struct device *device, int netlink, int index)
{
	struct request request = link_request(index);
	uint32_t mtu = MTU, queue = READ_QUEUE_PACKETS;
	int error;

	put(&request, IFLA_MTU, &mtu, sizeof(mtu));
	put(&request, IFLA_TXQLEN, &queue, sizeof(queue));
	error = submit(netlink, &request);
	if (error)
		fail_device(device, "MTU and queue length", error);

	disable_link_local(netlink, index);

	request = link_request(index);
	request.link.ifi_flags = request.link.ifi_change = IFF_UP;
	error = submit(netlink, &request);
	if (error)
		fail_device(device, "bringing up", error);
}

static void add_address(const struct device *device, int netlink, int index,
			const struct address *address)
{
	size_t length = address->family == AF_INET ? 4 : 16;
	struct request request = {
		.header.nlmsg_len = NLMSG_LENGTH(sizeof(struct ifaddrmsg)),
		.header.nlmsg_type = RTM_NEWADDR,
		.header.nlmsg_flags = NLM_F_CREATE | NLM_F_EXCL,
		.address.ifa_family = address->family,
		.address.ifa_prefixlen = address->prefix,
		.address.ifa_index = index,
	};
	int error;

	if (address->family == AF_INET6)
		request.address.ifa_flags = IFA_F_NODAD;
	put(&request, IFA_LOCAL, address->bytes, length);
	put(&request, IFA_ADDRESS, address->bytes, length);
	error = submit(netlink, &request);
	if (error)
		fail_device(device, "addressing", error);
}

static void enter(const struct device *device, int home_netns)
{
	char path[512];
	int netns;

	if (!strcmp(device->netns, "init")) {
		if (setns(home_netns, CLONE_NEWNET))
			fail("returning to the first namespace", errno);
		return;
	}
	snprintf(path, sizeof(path), "%s%s",
		 strchr(device->netns, '/') ? "" : "/run/netns/", device->netns);
	netns = open(path, O_RDONLY | O_CLOEXEC);
	if (netns < 0)
		fail(path, errno);
	if (setns(netns, CLONE_NEWNET))
		fail(path, errno);
	close(netns);
}

void device_open(struct device *device, int home_netns, bool large_packets)
{
	/*
	 * Checksums are left unfinished either way: both ends are one machine
	 * and the virtio_net_hdr in front of each packet says so.
	 */
	unsigned long offloads = TUN_F_CSUM;
	struct ifreq interface = {
		.ifr_flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR | IFF_TUN_EXCL,
	};
	int netlink, index;

	if (large_packets)
		offloads |= TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;

	enter(device, home_netns);
	device->fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (device->fd < 0)
		fail("/dev/net/tun", errno);
	memcpy(interface.ifr_name, device->name, strlen(device->name) + 1);
	if (ioctl(device->fd, TUNSETIFF, &interface))
		fail_device(device, "creation", errno);
	if (ioctl(device->fd, TUNSETOFFLOAD, offloads))
		fail_device(device, "offloads", errno);

	index = if_nametoindex(device->name);
	/* The socket keeps to this namespace after we have left it. */
	netlink = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	if (!index || netlink < 0)
		fail_device(device, "finding", errno);
	device->index = index;
	device->netlink = netlink;
	bring_up(device, netlink, index);
	for (size_t i = 0; i < device->address_count; i++)
		add_address(device, netlink, index, &device->addresses[i]);

	if (setns(home_netns, CLONE_NEWNET))
		fail("returning to the first namespace", errno);
}

uint64_t device_dropped(const struct device *device)
{
	struct request request = link_request(device->index);
	struct rtnl_link_stats64 stats = { 0 };
	union {
		struct nlmsghdr header;
		unsigned char bytes[16384];
	} answer;
	struct rtattr *attribute;
	ssize_t got;
	int left;

	request.header.nlmsg_type = RTM_GETLINK;
	request.header.nlmsg_flags = NLM_F_REQUEST;
	if (send(device->netlink, &request, request.header.nlmsg_len, 0) < 0)
		fail_device(device, "statistics", errno);
	do
		got = recv(device->netlink, &answer, sizeof(answer), 0);
	while (got < 0 && errno == EINTR);
	if (got < 0)
		fail_device(device, "statistics", errno);
	if (!NLMSG_OK(&answer.header, (size_t)got) ||
	    answer.header.nlmsg_type != RTM_NEWLINK)
		fail_device(device, "statistics", EPROTO);

	attribute = IFLA_RTA(NLMSG_DATA(&answer.header));
	left = IFLA_PAYLOAD(&answer.header);
	for (; RTA_OK(attribute, left); attribute = RTA_NEXT(attribute, left)) {
		size_t length = RTA_PAYLOAD(attribute);

		if (attribute->rta_type == IFLA_STATS64)
			memcpy(&stats, RTA_DATA(attribute),
			       length < sizeof(stats) ? length : sizeof(stats));
	}
	return stats.tx_dropped;
}

bool address_parse(const char *text, struct address *address)
{
	char host[INET6_ADDRSTRLEN];
	const char *slash = strchr(text, '/');
	unsigned long prefix;
	char *end;

	if (!slash || (size_t)(slash - text) >= sizeof(host))
		return false;
	memcpy(host, text, slash - text);
	host[slash - text] = '\0';
	address->family = strchr(host, ':') ? AF_INET6 : AF_INET;
	if (inet_pton(address->family, host, address->bytes) != 1)
		return false;
	if (slash[1] < '0' || slash[1] > '9')
		return false;
	prefix = strtoul(slash + 1, &end, 10);
	if (*end || prefix > (address->family == AF_INET ? 32 : 128))
		return false;
	address->prefix = prefix;
	return true;
}
