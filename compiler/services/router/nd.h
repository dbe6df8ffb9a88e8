/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* IPv6 neighbour discovery (RFC 4861): solicitations for the router's own addresses are answered at once. */
#ifndef BPFCHAIN_ROUTER_ND_H
#define BPFCHAIN_ROUTER_ND_H

#include "checksum.h"
#include "config.h"

enum {
	ICMPV6_ECHO_REQUEST = 128,
	ND_ROUTER_SOLICITATION = 133,
	ND_SOLICITATION = 135,
	ND_ADVERTISEMENT = 136,
	ND_REDIRECT = 137,
	ND_SOURCE_ADDRESS = 1, /* options */
	ND_TARGET_ADDRESS = 2,
	ND_HOP_LIMIT = 255, /* nobody off the link can send it */
	ND_IS_ROUTER = 1 << 31,
	ND_IS_SOLICITED = 1 << 30,
	ND_OVERRIDES = 1 << 29,
};

/* A solicitation or an advertisement with the one option that it usually has. */
struct nd_message {
	__u8 type;
	__u8 code;
	__u16 checksum;
	__be32 flags;
	struct in6_addr target;
	__u8 option;
	__u8 option_length; /* in units of 8 bytes */
	__u8 mac[ETH_ALEN];
};

static const __u32 NOT_ND = 0xffffffff; /* no verdict yet: the packet is something else */

static __always_inline bool is_multicast6(const struct in6_addr *address)
{
	return address->u6_addr8[0] == 0xff;
}

/* fe80::/10 */
static __always_inline bool is_link_local6(const struct in6_addr *address)
{
	return (address->u6_addr32[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000);
}

/* fe80::/64 with the interface identifier that RFC 4291 appendix A makes of the port's MAC. */
static __always_inline bool is_own_link_local(const struct router_config *cfg, const struct in6_addr *address)
{
	const __u64 *half = (const __u64 *)address;
	__u64 mac = own_mac(cfg);

	return half[0] == bpf_cpu_to_be64(0xfe80000000000000ULL) &&
	       half[1] == (((mac & 0xffffff) ^ 2) | 0xfeffULL << 24 | mac >> 24 << 40);
}

static __always_inline __u32 nd_checksum(const struct ipv6hdr *ip, const struct nd_message *message)
{
	__u64 sum = checksum_add(0, &ip->saddr, sizeof(ip->saddr) * 2 / sizeof(__u32));

	sum += bpf_htonl(sizeof(*message)) + (__u64)bpf_htonl(IPPROTO_ICMPV6);
	return checksum_fold(checksum_add(sum, message, sizeof(*message) / sizeof(__u32)));
}

/* Turns the solicitation into the advertisement that answers it (RFC 4861 7.2.4), and the frame around. */
static __always_inline __u32 nd_answer(struct packet *pkt, const struct router_config *cfg, struct ipv6hdr *ip,
				       struct nd_message *message, __u32 kind)
{
	__u32 flags = ND_IS_ROUTER | ND_IS_SOLICITED | (kind == ADDRESS_ANYCAST ? 0 : ND_OVERRIDES);

	mac_write(pkt->eth->h_dest, mac_u64(pkt->eth->h_source));
	mac_write(pkt->eth->h_source, own_mac(cfg));
	ip->daddr = ip->saddr;
	ip->saddr = message->target;
	message->type = ND_ADVERTISEMENT;
	message->flags = bpf_htonl(flags);
	message->option = ND_TARGET_ADDRESS;
	mac_write(message->mac, own_mac(cfg));
	message->checksum = 0;
	message->checksum = nd_checksum(ip, message);
	return cfg->port;
}

/* Whether a neighbour cannot have this address, because the port has it. */
static __always_inline bool nd_is_own(const struct router_config *cfg, const struct in6_addr *address)
{
	return cfg->port_address6(address) == ADDRESS_OWN || is_own_link_local(cfg, address);
}

static __always_inline struct neighbour *nd_neighbour(const struct router_config *cfg, const struct in6_addr *address)
{
	struct neighbour6_key key = {.address = *address, .port = cfg->port};

	return bpf_map_lookup_elem(cfg->neighbours6, &key);
}

/*
 * Answered here: the usual solicitation, of 32 bytes. Those of another form (a duplicate address probe, more options)
 * and those that tell of a neighbour's new MAC go up. RFC 4861 7.1.1 says which are valid.
 */
static __always_inline __u32 nd_solicited(struct packet *pkt, const struct router_config *cfg, struct ipv6hdr *ip,
					  struct nd_message *message, bool usual)
{
	__u32 kind = cfg->port_address6(&message->target);

	if (kind == ADDRESS_FOREIGN && is_own_link_local(cfg, &message->target))
		kind = ADDRESS_OWN;
	if (kind == ADDRESS_FOREIGN)
		return drop(DROP_NOT_ASKED);
	if (!usual || message->option != ND_SOURCE_ADDRESS || message->option_length != 1 || message->code ||
	    !(ip->saddr.u6_addr32[0] | ip->saddr.u6_addr32[1]) ||
	    neighbour_changed(nd_neighbour(cfg, &ip->saddr), message->mac))
		return slow_path(ROUTER_ND);
	if (nd_checksum(ip, message))
		return drop(DROP_CHECKSUM);
	return nd_answer(pkt, cfg, ip, message, kind);
}

/*
 * Up go advertisements that answer the control plane, those that everybody gets if they tell something new, and those
 * of whoever has an address of the port too (RFC 4862 5.4.4).
 */
static __always_inline __u32 nd_advertised(const struct router_config *cfg, const struct ipv6hdr *ip,
					   struct nd_message *message, bool usual)
{
	struct neighbour *known = nd_neighbour(cfg, &message->target);

	if (is_multicast6(&ip->daddr) && !nd_is_own(cfg, &message->target) &&
	    (!known || (usual && !neighbour_changed(known, message->mac))))
		return drop(DROP_NOT_ASKED);
	return slow_path(ROUTER_ND);
}

/* ICMPv6 of types 133 to 137; NOT_ND for all other. */
static __always_inline __u32 nd_receive(struct packet *pkt, const struct router_config *cfg, struct ipv6hdr *ip)
{
	struct nd_message *message = (void *)(ip + 1);
	bool usual = ip->payload_len == bpf_htons(sizeof(*message));

	if ((void *)&message->code > pkt->end || message->type < ND_ROUTER_SOLICITATION || message->type > ND_REDIRECT)
		return NOT_ND;
	if (message->type == ND_ROUTER_SOLICITATION)
		return cfg->advertises ? slow_path(ROUTER_SOLICITED) : drop(DROP_NOT_ASKED);
	if ((void *)(message + 1) > pkt->end)
		return slow_path(ROUTER_ND);
	if (ip->hop_limit != ND_HOP_LIMIT)
		return drop(DROP_MALFORMED);
	if (message->type == ND_SOLICITATION)
		return nd_solicited(pkt, cfg, ip, message, usual);
	if (message->type == ND_ADVERTISEMENT)
		return nd_advertised(cfg, ip, message, usual);
	return drop(DROP_NOT_ASKED);
}

#endif
