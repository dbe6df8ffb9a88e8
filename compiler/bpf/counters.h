/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Counting at the verdict: each packet once. One per-CPU array a service, an element (row) for each incoming port, in
 * it a counter for each port to leave by, then flood, host, and one for each drop reason (schemas/counters.py).
 */
#ifndef BPFCHAIN_COUNTERS_H
#define BPFCHAIN_COUNTERS_H

#include "helpers.h"
#include "types.h"

struct counter {
	__u64 packets;
	__u64 bytes;
};

static __always_inline void count(struct counter *counter, __u32 bytes)
{
	counter->packets++;
	counter->bytes += bytes;
}

/* Takes back what count() counted: the packet met another fate after all. */
static __always_inline void uncount(struct counter *counter, __u32 bytes)
{
	counter->packets--;
	counter->bytes -= bytes;
}

#endif
