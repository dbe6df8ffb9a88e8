/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The XDP hook, native and generic: how a packet is opened and sent on. tc.h has the same functions for TC. */
#ifndef BPFCHAIN_XDP_H
#define BPFCHAIN_XDP_H

#include "counters.h"
#include "helpers.h"
#include "packet.h"
#include "verdict.h"

enum {
	ACTION_DROP = XDP_DROP,
	ACTION_HOST = XDP_PASS,
	PACKET_HOOK = 0,
};

/* False if there is no whole Ethernet header. */
static __always_inline bool packet_open(struct packet *pkt, struct xdp_md *ctx)
{
	pkt->ctx = ctx;
	pkt->eth = (void *)(long)ctx->data;
	pkt->end = (void *)(long)ctx->data_end;
	pkt->bytes = pkt->end - (void *)pkt->eth;
	pkt->note = 0;
	pkt->injection = 0;
	pkt->in_skb = false;
	return (void *)(pkt->eth + 1) <= pkt->end;
}

/* Bytes of the frame as it is now. */
static __always_inline __u32 packet_length(const struct packet *pkt)
{
	struct xdp_md *ctx = pkt->ctx;

	return (void *)(long)ctx->data_end - (void *)(long)ctx->data;
}

/* Copies the frame, or its first `room` bytes; returns how many, 0 if there are none. */
static __always_inline __u32 packet_copy(const struct packet *pkt, __u8 *to, const __u32 room)
{
	__u32 bytes = copied_bytes(packet_length(pkt), room);

	if (!bytes || bpf_xdp_load_bytes(pkt->ctx, 0, to, bytes))
		return 0;
	return bytes;
}

/* Out of the device in `slot` of a devmap; false if the slot is empty. */
static __always_inline bool redirect_slot(void *devmap, __u32 slot)
{
	return bpf_redirect_map(devmap, slot, XDP_DROP) == XDP_REDIRECT;
}

/* A copy out of every device of a devmap. */
static __always_inline bool redirect_all(void *devmap)
{
	return bpf_redirect_map(devmap, 0, BPF_F_BROADCAST | XDP_DROP) == XDP_REDIRECT;
}

/*
 * Takes a label of `bytes` off a frame that a control plane sends in (inject.h); false if it has no more than that. It
 * is in an Ethernet header of its own before the frame: were it behind it, generic XDP would leave the end of the skb's
 * data 14 bytes too far out (bpf_prog_run_generic_xdp() counts from the MAC header, skb_set_tail_pointer() from behind
 * it), and a stack that reads options up to there, as neighbour discovery does, would refuse the frame.
 */
static __always_inline bool label_take(struct xdp_md *ctx, void *to, const __u32 bytes)
{
	return !bpf_xdp_load_bytes(ctx, 0, to, bytes) && !bpf_xdp_adjust_head(ctx, sizeof(struct ethhdr));
}

/* Marks a frame as one that a control plane has sent in, in its metadata; see is_injected(). */
static __always_inline void mark_injected(struct xdp_md *ctx)
{
	__u32 *mark;

	if (bpf_xdp_adjust_meta(ctx, -(int)sizeof(*mark)))
		return;
	mark = (void *)(long)ctx->data_meta;
	if ((void *)(mark + 1) <= (void *)(long)ctx->data)
		*mark = INJECTED_MARK;
}

#endif
