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
	PACKET_HOOK = 1,
	/* Headers that must be directly readable: Ethernet, two tags, IPv6 with extensions, TCP. */
	TC_LINEAR_BYTES = 192,
	VLAN_TAG_BYTES = 4,
	MAC_BYTES = 2 * ETH_ALEN, /* of a frame, before its outer tag */
};

/* Length of the frame as it is now, with the tag that the skb holds outside of it. */
static __always_inline __u32 packet_length(const struct packet *pkt)
{
	struct __sk_buff *skb = pkt->ctx;

	return skb->len + (skb->vlan_present ? VLAN_TAG_BYTES : 0);
}

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
	pkt->bytes = packet_length(pkt);
	pkt->note = 0;
	pkt->injection = 0;
	pkt->in_skb = true;
	return (void *)(pkt->eth + 1) <= pkt->end;
}

/* Bytes of the skb from `from` on, `room` at most; returns how many, 0 if there are none. */
static __always_inline __u32 skb_copy(const struct __sk_buff *skb, __u32 from, __u8 *to, const __u32 room)
{
	__u32 bytes = copied_bytes(skb->len - from, room);

	if (!bytes || bpf_skb_load_bytes(skb, from, to, bytes))
		return 0;
	return bytes;
}

/* Copies the frame as it was on the wire, or its first `room` bytes; returns how many, 0 if there are none. */
static __always_inline __u32 packet_copy(const struct packet *pkt, __u8 *to, const __u32 room)
{
	struct __sk_buff *skb = pkt->ctx;
	__u32 bytes;

	if (!skb->vlan_present)
		return skb_copy(skb, 0, to, room);
	if (bpf_skb_load_bytes(skb, 0, to, MAC_BYTES))
		return 0;
	*(__be16 *)(to + MAC_BYTES) = skb->vlan_proto;
	*(__be16 *)(to + MAC_BYTES + 2) = bpf_htons(skb->vlan_tci);
	bytes = skb_copy(skb, MAC_BYTES, to + MAC_BYTES + VLAN_TAG_BYTES, room - MAC_BYTES - VLAN_TAG_BYTES);
	return bytes ? bytes + MAC_BYTES + VLAN_TAG_BYTES : 0;
}

/*
 * Takes a label of `bytes` off a frame that a control plane sends in (inject.h); false if it has no more than that. It
 * is behind the frame, whose own headers, tags and EtherType are then where the kernel looks for them.
 */
static __always_inline bool label_take(struct __sk_buff *skb, void *to, const __u32 bytes)
{
	__u32 length = skb->len;

	return length > bytes && !bpf_skb_load_bytes(skb, length - bytes, to, bytes) &&
	       !bpf_skb_change_tail(skb, length - bytes, 0);
}

/*
 * Marks a frame as one that a control plane has sent in; see is_injected(). Nothing but programs sets a tc_index since
 * the kernel has no dsmark any more (commit bbe77c14ee61, 6.3).
 */
static __always_inline void mark_injected(struct __sk_buff *skb)
{
	skb->tc_index = INJECTED_MARK;
}

#endif
