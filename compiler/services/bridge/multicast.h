/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * IGMP and MLD snooping (RFC 4541): what a frame to a group address is, and which ports it is for. Who listens to what
 * is found out by the control plane (runtime/services/bridge_multicast.py), which writes both maps; programs only read.
 */
#ifndef BPFCHAIN_BRIDGE_MULTICAST_H
#define BPFCHAIN_BRIDGE_MULTICAST_H

#include "helpers.h"
#include "packet.h"

enum {
	PORT_SET_WORDS = 2,
};

/* Ports by their index, the lowest bit first. */
struct port_set {
	__u64 word[PORT_SET_WORDS];
};

struct mdb_key {
	__u16 vlan;      /* 0 without VLANs */
	__u16 ethertype; /* ETH_P_IP or ETH_P_IPV6 */
	__be32 group[4]; /* IPv4 has only the first; all of it 0: everything that has no entry of its own */
};

/*
 * An entry of the multicast database (MDB). Where a VLAN has none for group 0, nobody asks there who listens to what,
 * or the answers are not all there yet: then all of its multicast is flooded.
 */
struct mdb_entry {
	struct port_set data;    /* where packets to the group go */
	struct port_set reports; /* of group 0: where membership reports go; else the members, for people only */
};

/* What a frame to a group address is. */
enum snooped {
	SNOOPED_OTHER,  /* not IP, or to a group that is never held back: flooded */
	SNOOPED_DATA,   /* a packet to a group */
	SNOOPED_REPORT, /* a station says what it listens to, or no longer: for routers (RFC 4541 2.1.1) */
	SNOOPED_CALL,   /* for all: a query, a router's hello, a message that is not known */
};

enum {
	IGMP_V1_REPORT = 0x12,
	IGMP_V2_REPORT = 0x16,
	IGMP_LEAVE = 0x17,
	IGMP_V3_REPORT = 0x22,
	MLD_QUERY = 130,
	MLD_V1_REPORT = 131,
	MLD_DONE = 132,
	MLD_V2_REPORT = 143,
	MRD_FIRST = 151, /* multicast router discovery (RFC 4286) */
	MRD_LAST = 153,
};

static __always_inline bool port_set_has(const __u64 *words, const __u32 port)
{
	return words[port / 64 % PORT_SET_WORDS] >> (port % 64) & 1;
}

/* RFC 4541 2.1.1: what is not known is flooded. Every message has 8 bytes or more. */
static __always_inline enum snooped snoop_igmp(struct cursor *cursor, const struct iphdr *ip)
{
	const __u8 *type;

	if (ip->ihl < 5 || !cursor_take(cursor, (ip->ihl - 5) * 4U))
		return SNOOPED_OTHER;
	type = cursor_take(cursor, 8);
	if (!type)
		return SNOOPED_OTHER;
	switch (*type) {
	case IGMP_V1_REPORT:
	case IGMP_V2_REPORT:
	case IGMP_LEAVE:
	case IGMP_V3_REPORT:
		return SNOOPED_REPORT;
	}
	return SNOOPED_CALL;
}

/* 224.0.0.0/24 is the network's own business and never held back (RFC 4541 2.1.2). */
static __always_inline enum snooped snoop_ipv4(struct cursor *cursor, struct mdb_key *key)
{
	const struct iphdr *ip = cursor_take(cursor, sizeof(*ip));

	if (!ip || ip->version != 4 || (ip->daddr & bpf_htonl(0xf0000000)) != bpf_htonl(0xe0000000))
		return SNOOPED_OTHER;
	key->group[0] = ip->daddr;
	if (ip->protocol == IPPROTO_IGMP)
		return snoop_igmp(cursor, ip);
	if (ip->protocol == IPPROTO_PIM && ip->daddr == bpf_htonl(0xe000000d))
		return SNOOPED_CALL;
	return (ip->daddr & bpf_htonl(0xffffff00)) == bpf_htonl(0xe0000000) ? SNOOPED_OTHER : SNOOPED_DATA;
}

static __always_inline bool is_group_of_routers(const struct in6_addr *group, __u8 last)
{
	return group->u6_addr32[0] == bpf_htonl(0xff020000) && !(group->u6_addr32[1] | group->u6_addr32[2]) &&
	       group->u6_addr32[3] == bpf_htonl(last);
}

/* MLD stands behind a hop-by-hop header with the router alert option (RFC 2710 3); what does not is no MLD. */
static __always_inline enum snooped snoop_mld(struct cursor *cursor)
{
	const __u8 *hop_by_hop = cursor_take(cursor, 8), *type;

	if (!hop_by_hop || hop_by_hop[0] != IPPROTO_ICMPV6 || !cursor_take(cursor, hop_by_hop[1] * 8U))
		return SNOOPED_DATA;
	type = cursor_take(cursor, 8);
	if (!type)
		return SNOOPED_DATA;
	if (*type == MLD_QUERY || (*type >= MRD_FIRST && *type <= MRD_LAST))
		return SNOOPED_CALL;
	return *type == MLD_V1_REPORT || *type == MLD_DONE || *type == MLD_V2_REPORT ? SNOOPED_REPORT : SNOOPED_DATA;
}

/* Only ff02::1, all nodes, is never reported and never held back (RFC 4541 3). */
static __always_inline enum snooped snoop_ipv6(struct cursor *cursor, struct mdb_key *key)
{
	const struct ipv6hdr *ip = cursor_take(cursor, sizeof(*ip));
	enum snooped sort;

	if (!ip || ip->version != 6 || ip->daddr.u6_addr8[0] != 0xff)
		return SNOOPED_OTHER;
	for (int word = 0; word < 4; word++)
		key->group[word] = ip->daddr.u6_addr32[word];
	sort = ip->nexthdr == IPPROTO_HOPOPTS ? snoop_mld(cursor) : SNOOPED_DATA;
	if (ip->nexthdr == IPPROTO_PIM && is_group_of_routers(&ip->daddr, 13))
		return SNOOPED_CALL;
	return sort == SNOOPED_DATA && is_group_of_routers(&ip->daddr, 1) ? SNOOPED_OTHER : sort;
}

/*
 * The payload behind the Ethernet header and the VLAN's tag. False where there is another tag: what a bridge carries
 * for others is not its own (at TC the outermost one is not in the frame). Tags may have been changed since the packet
 * was opened, so at TC its bytes are looked up anew.
 */
static __always_inline bool snoop_payload(struct packet *pkt, bool vlan_aware, struct cursor *cursor, __be16 *ethertype)
{
	const bool tagged = vlan_aware && pkt->tagged;
	const struct __sk_buff *skb = pkt->ctx;
	const struct ethhdr *eth;
	const struct vlan_hdr *tag;

	if (pkt->in_skb && skb->vlan_present && !tagged)
		return false;
	*cursor = (struct cursor){
		.position = pkt->in_skb ? (void *)(long)skb->data : pkt->eth,
		.end = pkt->in_skb ? (void *)(long)skb->data_end : pkt->end,
	};
	eth = cursor_take(cursor, sizeof(*eth));
	if (!eth)
		return false;
	*ethertype = eth->h_proto;
	if (pkt->in_skb || !tagged)
		return true;
	tag = cursor_take(cursor, sizeof(*tag));
	if (!tag)
		return false;
	*ethertype = tag->h_vlan_encapsulated_proto;
	return true;
}

/* What a frame to a group address is, and of which group. */
static __always_inline enum snooped snoop(struct packet *pkt, bool vlan_aware, struct mdb_key *key)
{
	struct cursor cursor;
	__be16 ethertype;

	*key = (struct mdb_key){.vlan = vlan_aware ? pkt->tci & VLAN_VID_MASK : 0};
	if (!snoop_payload(pkt, vlan_aware, &cursor, &ethertype))
		return SNOOPED_OTHER;
	key->ethertype = bpf_ntohs(ethertype);
	switch (key->ethertype) {
	case ETH_P_IP:
		return snoop_ipv4(&cursor, key);
	case ETH_P_IPV6:
		return snoop_ipv6(&cursor, key);
	}
	return SNOOPED_OTHER;
}

/* Whether somebody keeps the MDB: its control plane promises, again and again, to do so for some seconds more. */
static __always_inline bool mdb_is_kept(void *kept_until)
{
	const __u32 only = 0;
	const __u64 *until_ns = bpf_map_lookup_elem(kept_until, &only);

	return until_ns && bpf_ktime_get_coarse_ns() < *until_ns;
}

/* Where a packet that snoop() has judged goes; NULL: to all ports. */
static __always_inline const struct port_set *mdb_lookup(void *mdb, void *kept_until, enum snooped sort,
							 struct mdb_key *key)
{
	const struct mdb_entry *entry;

	if ((sort != SNOOPED_DATA && sort != SNOOPED_REPORT) || !mdb_is_kept(kept_until))
		return NULL;
	entry = sort == SNOOPED_DATA ? bpf_map_lookup_elem(mdb, key) : NULL;
	if (entry)
		return &entry->data;
	for (int word = 0; word < 4; word++)
		key->group[word] = 0;
	entry = bpf_map_lookup_elem(mdb, key);
	if (!entry)
		return NULL;
	return sort == SNOOPED_DATA ? &entry->data : &entry->reports;
}

#endif
