/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Where a packet goes. A service returns one __u32: an outgoing port's index, or one of the verdicts here. The
 * generated entry program takes it there; nothing else knows connections.
 */
#ifndef BPFCHAIN_VERDICT_H
#define BPFCHAIN_VERDICT_H

#include "drop.h"
#include "types.h"

enum verdict {                     /* below these: index of the port to leave by */
	VERDICT_FLOOD = 0x100,     /* a copy to every port but the one it came from */
	VERDICT_HOST = 0x101,      /* up into this machine's own stack */
	VERDICT_DROP = 0x200,      /* plus a drop reason */
	VERDICT_SLOW_PATH = 0x300, /* plus a reason of the service's own: up to its control plane */
};

struct packet;

static __always_inline __u32 drop(enum drop_reason reason)
{
	return VERDICT_DROP + reason;
}

/* The packet goes up to the service's control plane, whole, and ends here; `reason` is one of its slow_path_reasons. */
static __always_inline __u32 slow_path(__u32 reason)
{
	return VERDICT_SLOW_PATH + reason;
}

/*
 * A copy of the packet goes up while the packet itself goes on: false if it was refused, which is counted. Every
 * program of a service with slow_path_reasons defines it; where an instance needs no control plane, it is not to be
 * called.
 */
static __always_inline bool slow_path_copy(const struct packet *pkt, __u32 reason);

#endif
