/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Forwarding IPv6 (RFC 8200 3, RFC 4291 2.5). */
#ifndef BPFCHAIN_ROUTER_IPV6_H
#define BPFCHAIN_ROUTER_IPV6_H

#include "config.h"
#include "mld.h"
#include "nd.h"
#include "neighbour.h"
#include "parse.h"
#include "redirect.h"

/* Whether the first 96 bits are zero and the rest is `last`: ::, ::1 */
static __always_inline bool is_low6(const struct in6_addr *address, __u32 last)
{
	return !(address->u6_addr32[0] | address->u6_addr32[1] | address->u6_addr32[2]) &&
	       address->u6_addr32[3] == bpf_htonl(last);
}

/* ::, ::1 and ::ffff:0:0/96, the IPv4 addresses of programs, which are on no link (RFC 6890 2.2.3). */
static __always_inline bool is_nowhere6(const struct in6_addr *address)
{
	const __u64 *high = (const __u64 *)address;

	if (likely(*high))
		return false;
	return address->u6_addr32[2] == bpf_htonl(0xffff) || is_low6(address, 0) || is_low6(address, 1);
}

/* What no packet on a link may come from or go to (RFC 4291 2.5, 2.7). The unspecified source is a probe's. */
static __always_inline bool is_martian6(const struct ipv6hdr *ip)
{
	return is_multicast6(&ip->saddr) || is_nowhere6(&ip->daddr) ||
	       (is_nowhere6(&ip->saddr) && !is_low6(&ip->saddr, 0));
}

/* RFC 6438: addresses, flow label, next header, and the ports where they come first: not all senders set labels. */
static __always_inline __u32 ipv6_flow(const struct packet *pkt, const struct ipv6hdr *ip)
{
	const struct transport_ports *ports = (const void *)(ip + 1);
	__u64 addresses = 0, rest = (*(const __u32 *)ip & bpf_htonl(0xfffff)) | ip->nexthdr;

#pragma unroll
	for (int i = 0; i < 4; i++) {
		addresses = addresses * 0x9e3779b97f4a7c15ULL + ip->saddr.u6_addr32[i];
		addresses = addresses * 0x9e3779b97f4a7c15ULL + ip->daddr.u6_addr32[i];
	}
	if (has_ports(ip->nexthdr) && (void *)(ports + 1) <= pkt->end)
		rest |= (__u64) * (const __u32 *)ports << 32;
	return flow_hash(addresses, rest);
}

/* RFC 4861 8.2: the sender is a neighbour; the next hop is the destination, or a router by its link-local address. */
static __always_inline void ipv6_redirect(struct packet *pkt, const struct router_config *cfg, const struct ipv6hdr *ip,
					  const struct nexthop *nexthop, __u64 mac, __u32 index)
{
	const __u64 *sender = (const __u64 *)&ip->saddr;

	if (nexthop->kind == NEXTHOP_VIA && !is_link_local6(&nexthop->gateway))
		return;
	if (!redirect_is_pointless(pkt, cfg, mac) && cfg->is_on_link6(&ip->saddr) &&
	    redirect_is_due(cfg, sender[0] ^ sender[1]))
		redirect_sender(pkt, index);
}

/* Forwards a packet to a neighbour: all that can still go wrong is found out before the first byte is changed. */
static __always_inline __u32 ipv6_send(struct packet *pkt, const struct router_config *cfg, struct ipv6hdr *ip,
				       const struct nexthop *nexthop, __u32 index)
{
	struct neighbour6_key key = {.port = nexthop->port};
	struct egress egress = cfg->egress(key.port);
	__u64 mac;

	if (unlikely(ip->hop_limit <= 1))
		return upcall(pkt, ROUTER_EXPIRED, index);
	if (unlikely(longest_segment(pkt, bpf_ntohs(ip->payload_len) + sizeof(*ip), ip->nexthdr, (const void *)(ip + 1),
				     sizeof(*ip)) > egress.mtu))
		return upcall(pkt, ROUTER_TOO_BIG, index);
	if (nexthop->kind == NEXTHOP_VIA)
		key.address = nexthop->gateway;
	else
		key.address = ip->daddr;
	if (unlikely(!neighbour6_mac(cfg, &key, &mac)))
		return upcall(pkt, ROUTER_RESOLVE, index);
	if (cfg->redirects && unlikely(key.port == cfg->port))
		ipv6_redirect(pkt, cfg, ip, nexthop, mac, index);
	ip->hop_limit--;
	address_frame(pkt->eth, mac, egress.mac);
	return key.port;
}

static __always_inline __u32 ipv6_route(struct packet *pkt, const struct router_config *cfg, struct ipv6hdr *ip)
{
	__u32 index = cfg->route6(&ip->daddr);
	const struct nexthop *nexthop = index ? nexthop_at(&cfg->nexthops, &index) : NULL;

	if (nexthop && nexthop->kind == NEXTHOP_GROUP)
		nexthop = nexthop_member(&cfg->nexthops, nexthop, ipv6_flow(pkt, ip), &index);
	if (unlikely(!nexthop))
		return upcall(pkt, ROUTER_NO_ROUTE, 0);
	switch (nexthop->kind) {
	case NEXTHOP_CONNECTED:
	case NEXTHOP_VIA:
		return ipv6_send(pkt, cfg, ip, nexthop, index);
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
 * From an address of the router, but not by the control plane. Neighbour discovery on the address's own link is by
 * somebody who has it too: the answer to a duplicate address probe comes so. All else is forged, or has come back.
 */
static __always_inline __u32 ipv6_claimed(const struct packet *pkt, const struct router_config *cfg,
					  const struct ipv6hdr *ip)
{
	const struct nd_message *message = (const void *)(ip + 1);

	if (ip->nexthdr != IPPROTO_ICMPV6 || ip->hop_limit != ND_HOP_LIMIT || (void *)&message->code > pkt->end ||
	    (message->type != ND_SOLICITATION && message->type != ND_ADVERTISEMENT) ||
	    cfg->port_address6(&ip->saddr) != ADDRESS_OWN)
		return drop(DROP_MARTIAN);
	return slow_path(ROUTER_ND);
}

/* An echo request to all nodes or all routers on the link: `ping ff02::2%eth0` is how people look for them. */
static __always_inline bool is_group_ping6(const struct packet *pkt, const struct ipv6hdr *ip)
{
	const __u8 *type = (const void *)(ip + 1);
	const __u32 *group = ip->daddr.u6_addr32;

	return ip->nexthdr == IPPROTO_ICMPV6 && (void *)(type + 1) <= pkt->end && *type == ICMPV6_ECHO_REQUEST &&
	       group[0] == bpf_htonl(0xff020000) && !(group[1] | group[2]) &&
	       (group[3] == bpf_htonl(1) || group[3] == bpf_htonl(2));
}

/* What is for the router itself, or for a group: neighbour discovery, and what its own addresses are asked. */
static __always_inline __u32 ipv6_local(struct packet *pkt, const struct router_config *cfg, struct ipv6hdr *ip)
{
	if (ip->nexthdr == IPPROTO_ICMPV6) {
		__u32 verdict = nd_receive(pkt, cfg, ip);

		if (verdict != NOT_ND)
			return verdict;
	}
	if (is_multicast6(&ip->daddr) && !is_group_ping6(pkt, ip))
		return is_mld_query(pkt, ip) ? slow_path(ROUTER_MLD) : drop(DROP_NOT_ROUTED);
	return upcall(pkt, ip->nexthdr == IPPROTO_HOPOPTS ? ROUTER_OPTIONS : ROUTER_LOCAL, 0);
}

/* RFC 8200 3. A payload length of 0 before a hop-by-hop header would be a jumbogram, which no port here takes. */
static __always_inline __u32 ipv6_check(const struct ipv6hdr *ip, __u32 whole)
{
	if (unlikely(ip->version != 6))
		return drop(DROP_MALFORMED);
	if (unlikely(bpf_ntohs(ip->payload_len) + sizeof(*ip) > whole))
		return drop(DROP_TRUNCATED);
	return PARSED;
}

static __always_inline __u32 ipv6_receive(struct packet *pkt, const struct router_config *cfg, bool own)
{
	struct ipv6hdr *ip = (void *)(pkt->eth + 1);
	__u32 verdict, destination;

	if ((void *)(ip + 1) > pkt->end)
		return drop(DROP_TRUNCATED);
	verdict = ipv6_check(ip, pkt->bytes - sizeof(*pkt->eth));
	if (unlikely(verdict != PARSED))
		return verdict;
	if (unlikely(is_martian6(ip)))
		return drop(DROP_MARTIAN);
	if (unlikely(cfg->address6(&ip->saddr) != ADDRESS_FOREIGN && !own))
		return ipv6_claimed(pkt, cfg, ip);
	destination = cfg->address6(&ip->daddr);
	if (destination != ADDRESS_FOREIGN || is_multicast6(&ip->daddr) || is_own_link_local(cfg, &ip->daddr))
		return ipv6_local(pkt, cfg, ip);
	if (unlikely(is_group_mac(mac_u64(pkt->eth->h_dest))))
		return drop(DROP_NOT_ROUTED);
	if (unlikely(is_low6(&ip->saddr, 0) || is_link_local6(&ip->daddr)))
		return drop(DROP_MARTIAN);
	if (unlikely(is_link_local6(&ip->saddr)))
		return upcall(pkt, ROUTER_SCOPE, 0);
	if (unlikely(ip->nexthdr == IPPROTO_HOPOPTS && !own))
		return upcall(pkt, ROUTER_OPTIONS, 0);
	return ipv6_route(pkt, cfg, ip);
}

#endif
