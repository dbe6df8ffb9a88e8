/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* ARP for Ethernet and IPv4 (RFC 826): requests for the port's own addresses are answered at once. */
#ifndef BPFCHAIN_ROUTER_ARP_H
#define BPFCHAIN_ROUTER_ARP_H

#include "config.h"

enum {
	ARP_REQUEST = 1,
	ARP_REPLY = 2,
	ARP_HARDWARE_ETHERNET = 1,
};

struct arp_packet {
	__be16 hardware;
	__be16 protocol;
	__u8 hardware_length;
	__u8 protocol_length;
	__be16 operation;
	__u8 sender_mac[ETH_ALEN];
	__u8 sender_address[4]; /* not aligned to more than two bytes */
	__u8 target_mac[ETH_ALEN];
	__u8 target_address[4];
};

static __always_inline bool arp_is_valid(const struct arp_packet *arp)
{
	return arp->hardware == bpf_htons(ARP_HARDWARE_ETHERNET) && arp->protocol == bpf_htons(ETH_P_IP) &&
	       arp->hardware_length == ETH_ALEN && arp->protocol_length == 4 &&
	       (arp->operation == bpf_htons(ARP_REQUEST) || arp->operation == bpf_htons(ARP_REPLY)) &&
	       !is_group_mac(mac_u64(arp->sender_mac));
}

/* Turns the request into its reply. */
static __always_inline __u32 arp_answer(struct packet *pkt, const struct router_config *cfg, struct arp_packet *arp)
{
	__be32 asked = *(__be32 *)arp->target_address;

	mac_write(pkt->eth->h_dest, mac_u64(pkt->eth->h_source));
	mac_write(pkt->eth->h_source, own_mac(cfg));
	arp->operation = bpf_htons(ARP_REPLY);
	mac_write(arp->target_mac, mac_u64(arp->sender_mac));
	*(__be32 *)arp->target_address = *(__be32 *)arp->sender_address;
	mac_write(arp->sender_mac, own_mac(cfg));
	*(__be32 *)arp->sender_address = asked;
	return cfg->port;
}

/*
 * What tells nothing new is dealt with here. To the control plane goes: a known neighbour with another MAC, somebody
 * who uses an address of this port, and the replies that it has asked for.
 */
static __always_inline __u32 arp_receive(struct packet *pkt, const struct router_config *cfg)
{
	struct arp_packet *arp = (void *)(pkt->eth + 1);
	struct neighbour4_key key = {.port = cfg->port};
	bool asked;

	if ((void *)(arp + 1) > pkt->end)
		return drop(DROP_TRUNCATED);
	if (!arp_is_valid(arp))
		return drop(DROP_MALFORMED);
	key.address = *(__be32 *)arp->sender_address;
	asked = cfg->port_address4(*(__be32 *)arp->target_address) == ADDRESS_OWN;
	if (unlikely(cfg->port_address4(key.address) == ADDRESS_OWN ||
		     neighbour_changed(bpf_map_lookup_elem(cfg->neighbours4, &key), arp->sender_mac)))
		return slow_path(ROUTER_ARP);
	if (!asked)
		return drop(DROP_NOT_ASKED);
	if (arp->operation == bpf_htons(ARP_REPLY))
		return slow_path(ROUTER_ARP);
	return arp_answer(pkt, cfg, arp);
}

#endif
