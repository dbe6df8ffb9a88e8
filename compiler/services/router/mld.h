/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Multicast listener discovery (RFC 2710, RFC 3810): who asks for members of groups is answered by the control plane.
 */
#ifndef BPFCHAIN_ROUTER_MLD_H
#define BPFCHAIN_ROUTER_MLD_H

#include "packet.h"
#include "parse.h"

enum {
	MLD_QUERY = 130,
};

/* All MLD messages are behind a hop-by-hop header of 8 bytes, with a router alert. */
struct mld_packet {
	struct extension_header alert;
	__u8 type;
};

static __always_inline bool is_mld_query(const struct packet *pkt, const struct ipv6hdr *ip)
{
	const struct mld_packet *mld = (const void *)(ip + 1);

	return ip->nexthdr == IPPROTO_HOPOPTS && (const void *)(&mld->type + 1) <= pkt->end &&
	       mld->alert.next == IPPROTO_ICMPV6 && !mld->alert.length && mld->type == MLD_QUERY;
}

#endif
