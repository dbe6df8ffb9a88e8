/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The way down: a frame that a control plane sends into the chain's injection link ends with a trailer that names a
 * port (schemas/slow_path.py). Cut off, the frame goes to that port's program as if it had arrived there. At the end
 * the trailer leaves the frame's own headers, tags and EtherType where the kernel looks for them.
 */
#ifndef BPFCHAIN_INJECT_H
#define BPFCHAIN_INJECT_H

#include "helpers.h"

#ifndef BPFCHAIN_TC_H
#include "xdp.h" /* a unit has included its hook's header before this one */
#endif

enum {
	INJECT_MAGIC = 0x62706664, /* a frame without it was sent by somebody else */
};

struct inject_trailer {
	__u32 magic;
	__u32 slot; /* in the prog array of the ports' programs */
};

/* Goes to the program in the trailer's slot; returns if there is none, or no trailer. */
static __always_inline void inject(void *ctx, void *ports)
{
	struct inject_trailer trailer;

	if (frame_cut(ctx, &trailer, sizeof(trailer)) && trailer.magic == INJECT_MAGIC)
		bpf_tail_call(ctx, ports, trailer.slot);
}

#endif
