/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The outermost VLAN tag (IEEE 802.1Q clause 9): read, put on, taken off where the hook has it, in the frame at
 * XDP and in the skb's metadata at TC. Only C-tags count; an S-tag (802.1ad) is payload here. After a change
 * pkt->eth and pkt->end lead to the frame as it is then (XDP), or must not be used any more (TC).
 */
#ifndef BPFCHAIN_VLAN_H
#define BPFCHAIN_VLAN_H

#include "helpers.h"
#include "packet.h"
#include "parse.h"

static __always_inline __u32 vlan_parse_frame(struct packet *pkt)
{
	const struct vlan_ethhdr *frame = (const void *)pkt->eth;

	pkt->tagged = frame->h_vlan_proto == bpf_htons(ETH_P_8021Q);
	pkt->tci = 0;
	if (!pkt->tagged)
		return PARSED;
	if ((const void *)(frame + 1) > pkt->end)
		return drop(DROP_TRUNCATED);
	pkt->tci = bpf_ntohs(frame->h_vlan_TCI);
	return PARSED;
}

static __always_inline __u32 vlan_parse_skb(struct packet *pkt)
{
	const struct __sk_buff *skb = pkt->ctx;

	pkt->tagged = skb->vlan_present && skb->vlan_proto == bpf_htons(ETH_P_8021Q);
	pkt->tci = pkt->tagged ? skb->vlan_tci : 0;
	return PARSED;
}

/* Sets pkt->tagged and pkt->tci (0 without a tag); PARSED, or the verdict that drops a frame that ends in its tag. */
static __always_inline __u32 vlan_parse(struct packet *pkt)
{
	return pkt->in_skb ? vlan_parse_skb(pkt) : vlan_parse_frame(pkt);
}

/* Moves the frame's beginning by `bytes` (negative: room for more) and finds it anew; false if there is no room. */
static __always_inline bool frame_move_head(struct packet *pkt, int bytes)
{
	struct xdp_md *ctx = pkt->ctx;

	if (bpf_xdp_adjust_head(ctx, bytes))
		return false;
	pkt->eth = (void *)(long)ctx->data;
	pkt->end = (void *)(long)ctx->data_end;
	return (void *)pkt->eth + sizeof(struct vlan_ethhdr) <= pkt->end;
}

/* Both addresses to where the beginning of the frame is or will be; all is read before any of it is written. */
static __always_inline void move_addresses(void *to, const void *from)
{
	const __u32 *words = from;
	__u32 first = words[0], second = words[1], third = words[2];

	((__u32 *)to)[0] = first;
	((__u32 *)to)[1] = second;
	((__u32 *)to)[2] = third;
}

static __always_inline bool vlan_push_frame(struct packet *pkt)
{
	struct vlan_ethhdr *frame;

	if (!frame_move_head(pkt, -(int)sizeof(struct vlan_hdr)))
		return false;
	frame = (void *)pkt->eth;
	move_addresses(frame, (void *)frame + sizeof(struct vlan_hdr));
	frame->h_vlan_proto = bpf_htons(ETH_P_8021Q);
	frame->h_vlan_TCI = bpf_htons(pkt->tci);
	return true;
}

/* Puts the tag pkt->tci on a frame that does not have it; false if there is no room. */
static __always_inline bool vlan_push(struct packet *pkt)
{
	pkt->tagged = true;
	return pkt->in_skb ? !bpf_skb_vlan_push(pkt->ctx, bpf_htons(ETH_P_8021Q), pkt->tci) : vlan_push_frame(pkt);
}

/* A frame that ends within its tag has been refused by vlan_parse(); the verifier wants to see it again. */
static __always_inline bool vlan_pop_frame(struct packet *pkt)
{
	void *frame = pkt->eth;

	if (frame + sizeof(struct vlan_ethhdr) > pkt->end)
		return false;
	move_addresses(frame + sizeof(struct vlan_hdr), frame);
	return !bpf_xdp_adjust_head(pkt->ctx, sizeof(struct vlan_hdr));
}

/* Takes the tag off a frame that has it. What was in the tag stays known as pkt->tci. */
static __always_inline bool vlan_pop(struct packet *pkt)
{
	pkt->tagged = false;
	return pkt->in_skb ? !bpf_skb_vlan_pop(pkt->ctx) : vlan_pop_frame(pkt);
}

/* Makes the tag that is on the frame say pkt->tci. */
static __always_inline bool vlan_rewrite(struct packet *pkt)
{
	struct vlan_ethhdr *frame = (void *)pkt->eth;

	if (pkt->in_skb)
		return vlan_pop(pkt) && vlan_push(pkt);
	if ((void *)(frame + 1) > pkt->end)
		return false;
	frame->h_vlan_TCI = bpf_htons(pkt->tci);
	return true;
}

#endif
