// SPDX-License-Identifier: Apache-2.0
#include "bpftune_neightbl.h"

#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netlink/msg.h>
#include <netlink/netlink.h>
#include <netlink/route/addr.h>
#include <netlink/route/link.h>

/* A socket of rtnetlink; NULL with an error of libnl. */
static struct nl_sock *connected(int *error)
{
	struct nl_sock *socket = nl_socket_alloc();

	*error = socket ? nl_connect(socket, NETLINK_ROUTE) : -NLE_NOMEM;
	if (!*error)
		return socket;
	nl_socket_free(socket);
	return NULL;
}

/*
 * rtnl_neightbl_change() of libnl-route never sends the third threshold, so
 * the message is put together here.
 */
static struct nl_msg *request(int family, const char *table, int threshold, uint32_t value)
{
	static const int attributes[] = { NDTA_THRESH1, NDTA_THRESH2, NDTA_THRESH3 };
	struct ndtmsg header = { .ndtm_family = family };
	struct nl_msg *message = nlmsg_alloc_simple(RTM_SETNEIGHTBL, 0);

	if (message && !nlmsg_append(message, &header, sizeof(header), NLMSG_ALIGNTO) &&
	    !nla_put_string(message, NDTA_NAME, table) &&
	    !nla_put_u32(message, attributes[threshold - 1], value))
		return message;
	nlmsg_free(message);
	return NULL;
}

int bpftune_neightbl_set(int family, const char *table, int threshold, uint32_t value)
{
	struct nl_msg *message;
	struct nl_sock *socket;
	int error;

	if (threshold < 1 || threshold > 3)
		return -NLE_INVAL;
	socket = connected(&error);
	if (!socket)
		return error;
	message = request(family, table, threshold, value);
	/* Sends, waits for the answer, and frees the message. */
	error = message ? nl_send_sync(socket, message) : -NLE_NOMEM;
	nl_socket_free(socket);
	return error;
}

/* Whether neighbours of this device stand in a table. */
static int resolves(struct nl_cache *links, int index)
{
	struct rtnl_link *link = rtnl_link_get(links, index);
	unsigned int flags = link ? rtnl_link_get_flags(link) : 0;

	if (link)
		rtnl_link_put(link);
	return flags & IFF_UP && !(flags & (IFF_LOOPBACK | IFF_NOARP | IFF_POINTOPOINT));
}

static uint64_t sum(struct nl_cache *addresses, struct nl_cache *links, int family,
		    uint64_t most)
{
	unsigned int bits = family == AF_INET ? 32 : 128;
	struct nl_object *object;
	uint64_t need = 0;

	for (object = nl_cache_get_first(addresses); object && need < most;
	     object = nl_cache_get_next(object)) {
		struct rtnl_addr *address = (struct rtnl_addr *)object;
		unsigned int length = rtnl_addr_get_prefixlen(address);

		if (rtnl_addr_get_family(address) != family || length > bits ||
		    !resolves(links, rtnl_addr_get_ifindex(address)))
			continue;
		need += bits - length < 32 ? 1ULL << (bits - length) : most;
	}
	return need < most ? need : most;
}

int bpftune_neightbl_need(int family, uint64_t most, uint64_t *need)
{
	struct nl_cache *addresses = NULL, *links = NULL;
	struct nl_sock *socket;
	int error;

	socket = connected(&error);
	if (!socket)
		return error;
	error = rtnl_addr_alloc_cache(socket, &addresses);
	if (!error)
		error = rtnl_link_alloc_cache(socket, AF_UNSPEC, &links);
	if (!error)
		*need = sum(addresses, links, family, most);
	nl_cache_free(addresses);
	nl_cache_free(links);
	nl_socket_free(socket);
	return error;
}

const char *bpftune_netlink_error(int error)
{
	return nl_geterror(error);
}
