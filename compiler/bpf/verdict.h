/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Where a packet goes. A service returns one __u32: an outgoing port's index, or one of the verdicts here. The
 * generated entry program takes it there; nothing else knows connections.
 */
#ifndef BPFCHAIN_VERDICT_H
#define BPFCHAIN_VERDICT_H

#include "drop.h"
#include "types.h"

enum verdict {                 /* below these: index of the port to leave by */
	VERDICT_FLOOD = 0x100, /* a copy to every port but the one it came from */
	VERDICT_HOST = 0x101,  /* up into this machine's own stack */
	VERDICT_DROP = 0x200,  /* plus a drop reason */
};

static __always_inline __u32 drop(enum drop_reason reason)
{
	return VERDICT_DROP + reason;
}

/* The value, but clang no longer knows what it is: it then tests a bound as written, where the verifier can see it. */
static __always_inline __u32 opaque(__u32 value)
{
	asm volatile("" : "+r"(value));
	return value;
}

#endif
