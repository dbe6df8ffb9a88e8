/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Redirects (RFC 1812 5.2.7.2, RFC 4861 8.2). A packet that leaves by the port that it came in by is forwarded, and a
 * copy goes to the control plane: it tells the sender, which is on the same link, whom to send to at once.
 *
 * Whether that may be said is found out here, as far as the packet tells. How often is the control plane's business; so
 * that a host that does not listen does not keep it busy, each CPU remembers when it has sent up a copy for a sender.
 */
#ifndef BPFCHAIN_ROUTER_REDIRECT_H
#define BPFCHAIN_ROUTER_REDIRECT_H

#include "config.h"

enum {
	REDIRECT_BITS = 10,        /* logarithm of the senders that a CPU remembers; two may share a place */
	REDIRECTS_PER_SECOND = 16, /* copies for one sender on one CPU */
};

/* The low half of jiffies when a copy went up. */
struct redirect_places {
	__u32 told[1 << REDIRECT_BITS];
};

static __always_inline bool redirect_is_due(const struct router_config *cfg, __u64 sender)
{
	const __u32 zero = 0;
	struct redirect_places *places = bpf_map_lookup_elem(cfg->redirected, &zero);
	__u32 now = bpf_jiffies64(), *told;

	if (!places)
		return false;
	told = &places->told[sender * GOLDEN_RATIO >> (64 - REDIRECT_BITS)];
	if (now - *told < cfg->hz / REDIRECTS_PER_SECOND)
		return false;
	*told = now;
	return true;
}

/* Whether the frame was sent by the control plane, or by the next hop itself: to send it there directly is no advice.
 */
static __always_inline bool redirect_is_pointless(const struct packet *pkt, const struct router_config *cfg,
						  __u64 nexthop_mac)
{
	__u64 source = mac_u64(pkt->eth->h_source);

	return source == own_mac(cfg) || source == nexthop_mac;
}

/* The packet is still as it came; `index` is that of its next hop. */
static __always_inline void redirect_sender(struct packet *pkt, __u32 index)
{
	pkt->note = index;
	slow_path_copy(pkt, ROUTER_REDIRECT);
}

#endif
