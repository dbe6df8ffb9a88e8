/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * An IPv4 and IPv6 router. What can be decided from the packet, the routes and the known neighbours is done here; all
 * that has to wait, to be answered or to be cut goes to the control plane, as it came.
 */
#ifndef BPFCHAIN_ROUTER_H
#define BPFCHAIN_ROUTER_H

#include "arp.h"
#include "config.h"
#include "ipv4.h"
#include "ipv6.h"

static __always_inline __u32 router_receive(struct packet *pkt, const struct router_config *cfg)
{
	__u64 destination = mac_u64(pkt->eth->h_dest), source = mac_u64(pkt->eth->h_source), mac = own_mac(cfg);
	__be16 ethertype = pkt->eth->h_proto;

	if (unlikely(destination != mac && !is_group_mac(destination)))
		return drop(DROP_OTHER_STATION);
	/* The port's own MAC is that of what the control plane sends in: from the link it comes by a loop, or is
	 * forged. */
	if (unlikely(is_group_mac(source) || (source == mac && !is_injected(pkt))))
		return drop(DROP_INVALID_SOURCE);
	if (unlikely(has_outer_tag(pkt)))
		return drop(DROP_UNKNOWN_PROTOCOL);
	if (cfg->ipv4 && likely(ethertype == bpf_htons(ETH_P_IP)))
		return ipv4_receive(pkt, cfg, source == mac);
	if (cfg->ipv6 && ethertype == bpf_htons(ETH_P_IPV6))
		return ipv6_receive(pkt, cfg, source == mac);
	if (cfg->ipv4 && ethertype == bpf_htons(ETH_P_ARP))
		return arp_receive(pkt, cfg);
	return drop(DROP_UNKNOWN_PROTOCOL);
}

#endif
