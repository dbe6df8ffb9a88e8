/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Forwarding IPv4 (RFC 1812 5.2, 5.3). */
#ifndef BPFCHAIN_ROUTER_IPV4_H
#define BPFCHAIN_ROUTER_IPV4_H

#include "checksum.h"
#include "config.h"
#include "neighbour.h"
#include "parse.h"
#include "redirect.h"

enum {
	IPV4_WORDS = 5,         /* of a header without options */
	IPV4_FRAGMENT = 0x3fff, /* frag_off: more fragments, or an offset */
};

/* Whether the header with its options has the right checksum. All of it can be read: it lies within TC_LINEAR_BYTES. */
static __always_inline bool ipv4_sums_up(const struct packet *pkt, const struct iphdr *ip)
{
	struct cursor options = {.position = (void *)(ip + 1), .end = pkt->end};
	__u64 sum = checksum_add(0, ip, IPV4_WORDS);

	for (__u32 words = opaque(ip->ihl); unlikely(words > IPV4_WORDS); words = opaque(words) - 1) {
		const __u32 *option = cursor_take(&options, sizeof(*option));

		if (!option)
			return false;
		sum += *option;
	}
	return !checksum_fold(sum);
}

/* RFC 1812 5.2.2; `whole` bytes are left of the frame. */
static __always_inline __u32 ipv4_check(const struct packet *pkt, const struct iphdr *ip, __u32 whole)
{
	__u32 total = bpf_ntohs(ip->tot_len);

	if (unlikely(ip->version != 4 || ip->ihl < IPV4_WORDS || total < ip->ihl * 4U))
		return drop(DROP_MALFORMED);
	if (unlikely(total > whole))
		return drop(DROP_TRUNCATED);
	if (unlikely(!ipv4_sums_up(pkt, ip)))
		return drop(DROP_CHECKSUM);
	return PARSED;
}

/*
 * RFC 1812 5.3.7, RFC 3927 2.6.2: sources that no packet on its way may have: this network (0/8), loopback, link-local,
 * groups, reserved ones and the limited broadcast.
 */
static __always_inline bool is_martian4(__be32 address)
{
	__u32 number = bpf_ntohl(address);
	bool first_or_last = number - (1U << 24) >= 223U << 24; /* 0/8, or from 224/8 on: one comparison */

	return first_or_last || number >> 24 == 127 || number >> 16 == 0xa9fe;
}

static __always_inline __u32 ipv4_flow(const struct packet *pkt, const struct iphdr *ip)
{
	const struct transport_ports *ports = (const void *)(ip + 1);
	__u64 rest = ip->protocol;

	/* Only packets that are no fragments have ports in each of them. */
	if (has_ports(ip->protocol) && ip->ihl == IPV4_WORDS && !(ip->frag_off & bpf_htons(IPV4_FRAGMENT)) &&
	    (void *)(ports + 1) <= pkt->end)
		rest |= (__u64) * (const __u32 *)ports << 32;
	return flow_hash((__u64)ip->saddr << 32 | ip->daddr, rest);
}

/*
 * Takes one from the time to live, which is not 0. That is the upper half of a 16-bit word, so the checksum has to grow
 * by 0x0100, one's complement (RFC 1624). Both lie in the same 32 bits, read here with the first byte lowest: there is
 * one in the third byte to add, and one more where it carries over.
 */
static __always_inline void ipv4_age(struct iphdr *ip)
{
	__u32 *word = (void *)&ip->ttl, before = *word;

	*word = before - 1 + (before >= 0xfffe0000 ? 0x20000 : 0x10000);
}

/*
 * RFC 1812 5.2.7.2: sender and next hop have to be in one subnet. (A packet with a source route never comes so far.)
 */
static __always_inline void ipv4_redirect(struct packet *pkt, const struct router_config *cfg, const struct iphdr *ip,
					  const struct neighbour4_key *nexthop, __u64 mac, __u32 index)
{
	if (!redirect_is_pointless(pkt, cfg, mac) && cfg->share_subnet4(ip->saddr, nexthop->address) &&
	    redirect_is_due(cfg, ip->saddr))
		redirect_sender(pkt, index);
}

/* Forwards a packet to a neighbour: all that can still go wrong is found out before the first byte is changed. */
static __always_inline __u32 ipv4_send(struct packet *pkt, const struct router_config *cfg, struct iphdr *ip,
				       const struct nexthop *nexthop, __u32 index)
{
	struct neighbour4_key key = {.port = nexthop->port};
	struct egress egress = cfg->egress(key.port);
	__u64 mac;

	if (unlikely(ip->ttl <= 1))
		return upcall(pkt, ROUTER_EXPIRED, index);
	if (unlikely(longest_segment(pkt, bpf_ntohs(ip->tot_len), ip->protocol, (const void *)(ip + 1), sizeof(*ip)) >
		     egress.mtu))
		return upcall(pkt, ROUTER_TOO_BIG, index);
	key.address = nexthop->kind == NEXTHOP_VIA ? nexthop->gateway.u6_addr32[0] : ip->daddr;
	if (unlikely(!neighbour4_mac(cfg, &key, &mac)))
		return upcall(pkt, ROUTER_RESOLVE, index);
	if (cfg->redirects && unlikely(key.port == cfg->port))
		ipv4_redirect(pkt, cfg, ip, &key, mac, index);
	ipv4_age(ip);
	address_frame(pkt->eth, mac, egress.mac);
	return key.port;
}

static __always_inline __u32 ipv4_route(struct packet *pkt, const struct router_config *cfg, struct iphdr *ip)
{
	__u32 index = cfg->route4(ip->daddr);
	const struct nexthop *nexthop = index ? nexthop_at(&cfg->nexthops, &index) : NULL;

	if (nexthop && nexthop->kind == NEXTHOP_GROUP)
		nexthop = nexthop_member(&cfg->nexthops, nexthop, ipv4_flow(pkt, ip), &index);
	if (unlikely(!nexthop))
		return upcall(pkt, ROUTER_NO_ROUTE, 0);
	switch (nexthop->kind) {
	case NEXTHOP_CONNECTED:
	case NEXTHOP_VIA:
		return ipv4_send(pkt, cfg, ip, nexthop, index);
	case NEXTHOP_BLACKHOLE:
		return drop(DROP_BLACKHOLE);
	case NEXTHOP_UNREACHABLE:
		return upcall(pkt, ROUTER_UNREACHABLE, index);
	case NEXTHOP_PROHIBIT:
		return upcall(pkt, ROUTER_PROHIBITED, index);
	}
	return upcall(pkt, ROUTER_NO_ROUTE, 0);
}

/*
 * A frame whose Ethernet source is the port's own MAC is from the control plane (`own`): the router's own packets, and
 * those whose options it has dealt with.
 */
static __always_inline __u32 ipv4_receive(struct packet *pkt, const struct router_config *cfg, bool own)
{
	struct iphdr *ip = (void *)(pkt->eth + 1);
	__u32 verdict, source, destination;

	if ((void *)(ip + 1) > pkt->end)
		return drop(DROP_TRUNCATED);
	verdict = ipv4_check(pkt, ip, pkt->bytes - sizeof(*pkt->eth));
	if (unlikely(verdict != PARSED))
		return verdict;
	if (unlikely(is_group_mac(mac_u64(pkt->eth->h_dest))))
		return drop(DROP_NOT_ROUTED); /* RFC 1812 5.3.4: a unicast packet, or a group that nobody here is in */
	source = cfg->address4(ip->saddr);
	if (unlikely(is_martian4(ip->saddr) || (source != ADDRESS_FOREIGN && !own)))
		return drop(DROP_MARTIAN);
	if (unlikely(ip->ihl > IPV4_WORDS && !own))
		return upcall(pkt, ROUTER_OPTIONS, 0);
	destination = cfg->address4(ip->daddr);
	if (destination == ADDRESS_OWN)
		return upcall(pkt, ROUTER_LOCAL, 0);
	if (unlikely(destination == ADDRESS_BROADCAST))
		return drop(DROP_NOT_ROUTED); /* RFC 2644: directed broadcasts are not forwarded */
	if (unlikely(is_martian4(ip->daddr)))
		return drop(DROP_MARTIAN);
	return ipv4_route(pkt, cfg, ip);
}

#endif
