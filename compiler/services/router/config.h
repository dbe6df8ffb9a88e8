/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What is constant for one incoming port of a router, and the neighbours that its programs share. */
#ifndef BPFCHAIN_ROUTER_CONFIG_H
#define BPFCHAIN_ROUTER_CONFIG_H

#include "fib.h"
#include "helpers.h"
#include "nexthop.h"
#include "packet.h"
#include "verdict.h"

/* Why a packet goes to the control plane (runtime/services/router.py knows the same numbers). */
enum router_reason {
	ROUTER_RESOLVE = 0,     /* the next hop's MAC is not known yet */
	ROUTER_EXPIRED = 1,     /* its TTL or hop limit ends here */
	ROUTER_NO_ROUTE = 2,    /* no route leads there */
	ROUTER_UNREACHABLE = 3, /* a route says that it cannot be reached */
	ROUTER_PROHIBITED = 4,  /* a route says that it must not be */
	ROUTER_TOO_BIG = 5,     /* longer than the next link takes */
	ROUTER_OPTIONS = 6,     /* IPv4 options, or an IPv6 hop-by-hop header */
	ROUTER_LOCAL = 7,       /* for the router itself */
	ROUTER_ARP = 8,         /* ARP that tells something new */
	ROUTER_ND = 9,          /* neighbour discovery that does */
	ROUTER_SCOPE = 10,      /* from a link-local source to another link (RFC 4443 3.1) */
	ROUTER_REDIRECT = 11,   /* a copy: it leaves by the port that it came in by */
	ROUTER_MLD = 12,        /* a switch or a router asks who is in which group */
	ROUTER_SOLICITED = 13,  /* a host asks for routers */
};

enum router_address {
	ADDRESS_FOREIGN = 0,
	ADDRESS_OWN = 1,
	ADDRESS_BROADCAST = 2, /* of one of the router's subnets */
	ADDRESS_ANYCAST = 3,   /* subnet-router anycast (RFC 4291 2.6.1) */
};

/* A port as packets leave by it. */
struct egress {
	__u64 mac; /* mac_u64() */
	__u32 mtu;
};

enum {
	UDP_HEADER_BYTES = 8,
};

static const __u32 NO_PORT = 0xffffffff;

static const __u64 GOLDEN_RATIO = 0x9e3779b97f4a7c15ULL; /* 2^64 divided by it: what is multiplied is well mixed */

struct neighbour4_key {
	__be32 address;
	__u32 port;
};

struct neighbour6_key {
	struct in6_addr address;
	__u32 port;
};

/*
 * The control plane writes neighbours; programs only mark those that they use. `used` is the low half of jiffies, and
 * lags behind by up to a second: writing it with every packet would cost a shared cache line each time.
 */
struct neighbour {
	__u8 mac[ETH_ALEN];
	__u16 reserved;
	__u32 used;
};

struct router_config {
	__u32 port;
	bool ipv4; /* the port has addresses of this version; else such packets are not taken */
	bool ipv6;
	bool redirects;  /* who is on this link is told of better next hops on it */
	bool advertises; /* who is on this link is told of the router */
	__u64 hz;
	struct egress (*egress)(__u32 port);
	__u32 (*address4)(__be32 address);                      /* enum router_address, of any port */
	__u32 (*address6)(const struct in6_addr *address);      /* likewise, but for link-local ones */
	__u32 (*port_address4)(__be32 address);                 /* of this port */
	__u32 (*port_address6)(const struct in6_addr *address); /* likewise, but for link-local ones */
	bool (*share_subnet4)(__be32 one, __be32 other);        /* whether both are in one subnet of this port */
	bool (*is_on_link6)(const struct in6_addr *address);    /* whether it is in a subnet of this port */
	__u32 (*route4)(__be32 destination);                    /* index of the next hop, 0 for none */
	__u32 (*route6)(const struct in6_addr *destination);
	struct nexthop_maps nexthops;
	void *neighbours4;
	void *neighbours6;
	void *neighbours_version;
	void *recent4; /* what a CPU remembers of them (neighbour.h) */
	void *recent6;
	void *redirected; /* what a CPU remembers of whom it has redirected (redirect.h) */
};

/* Whether the hook holds a VLAN tag outside of the frame: a port is in no VLAN. */
static __always_inline bool has_outer_tag(const struct packet *pkt)
{
	return pkt->in_skb && ((const struct __sk_buff *)pkt->ctx)->vlan_present;
}

/*
 * Length of the longest packet that leaves: an skb that is still to be cut into segments (GSO) is not as long as its
 * own header says. `total` is that length, `transport` where the transport header starts, `headers` is what is before
 * it.
 */
static __always_inline __u32 longest_segment(const struct packet *pkt, __u32 total, __u32 protocol,
					     const struct tcphdr *transport, __u32 headers)
{
	__u32 size = pkt->in_skb ? ((const struct __sk_buff *)pkt->ctx)->gso_size : 0;

	if (likely(!size))
		return total;
	if (protocol != IPPROTO_TCP)
		return headers + UDP_HEADER_BYTES + size;
	if ((void *)(transport + 1) > pkt->end)
		return total;
	return headers + transport->doff * 4U + size;
}

static __always_inline void mac_write(__u8 *to, __u64 mac)
{
	*(__u32 *)to = mac;
	*(__u16 *)(to + 4) = mac >> 32;
}

static __always_inline __u64 own_mac(const struct router_config *cfg)
{
	return cfg->egress(cfg->port).mac;
}

/* Whether the neighbour is known by another MAC: it has moved to another card, or somebody else claims its address. */
static __always_inline bool neighbour_changed(const struct neighbour *known, const __u8 *mac)
{
	return known && mac_u64(known->mac) != mac_u64(mac);
}

/* To the control plane, with the index of the next hop that was found (0: none). */
static __always_inline __u32 upcall(struct packet *pkt, __u32 reason, __u32 nexthop)
{
	pkt->note = nexthop;
	return slow_path(reason);
}

#endif
