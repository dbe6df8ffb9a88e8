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
};

/* False if there is no whole Ethernet header. */
static __always_inline bool packet_open(struct packet *pkt, struct xdp_md *ctx)
{
	pkt->ctx = ctx;
	pkt->eth = (void *)(long)ctx->data;
	pkt->end = (void *)(long)ctx->data_end;
	pkt->bytes = pkt->end - (void *)pkt->eth;
	return (void *)(pkt->eth + 1) <= pkt->end;
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

#endif
