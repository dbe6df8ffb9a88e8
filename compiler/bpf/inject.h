/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The way down: a frame that a control plane sends into the chain's injection link has a label that names a port
 * (schemas/slow_path.py). Taken off, the frame goes to that port's program as if it had arrived there.
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

struct inject_label {
	__u32 magic;
	__u32 slot; /* in the prog array of the ports' programs */
};

/* Goes to the program in the label's slot; returns if there is none, or no label. */
static __always_inline void inject(void *ctx, void *ports)
{
	struct inject_label label;

	if (!label_take(ctx, &label, sizeof(label)) || label.magic != INJECT_MAGIC)
		return;
	mark_injected(ctx);
	bpf_tail_call(ctx, ports, label.slot);
}

#endif
