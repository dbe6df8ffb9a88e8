/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The TC ingress hook: how a packet is opened and sent on. xdp.h has the same functions for XDP. */
#ifndef BPFCHAIN_TC_H
#define BPFCHAIN_TC_H

#include "counters.h"
#include "helpers.h"
#include "packet.h"
#include "verdict.h"

enum {
	ACTION_DROP = TC_ACT_SHOT,
	ACTION_HOST = TC_ACT_OK,
	/* Headers that must be directly readable: Ethernet, two tags, IPv6 with extensions, TCP. */
	TC_LINEAR_BYTES = 192,
	VLAN_TAG_BYTES = 4,
};

/*
 * False if there is no whole Ethernet header. An skb may keep its bytes in fragments: what a service reads is pulled
 * into the linear part first, so that a header is never taken for missing.
 */
static __always_inline bool packet_open(struct packet *pkt, struct __sk_buff *skb)
{
	__u32 wanted = skb->len < TC_LINEAR_BYTES ? skb->len : TC_LINEAR_BYTES;

	if (unlikely((void *)(long)skb->data + wanted > (void *)(long)skb->data_end))
		bpf_skb_pull_data(skb, wanted);
	pkt->ctx = skb;
	pkt->eth = (void *)(long)skb->data;
	pkt->end = (void *)(long)skb->data_end;
	pkt->bytes = skb->len + (skb->vlan_present ? VLAN_TAG_BYTES : 0);
	return (void *)(pkt->eth + 1) <= pkt->end;
}

#endif
