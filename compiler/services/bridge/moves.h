/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Stations that move between ports more often than stations do: a sign of a loop. Their moves are not followed for a
 * while, and it is noted who they are; runtime/services/bridge_moves.py tells.
 */
#ifndef BPFCHAIN_BRIDGE_MOVES_H
#define BPFCHAIN_BRIDGE_MOVES_H

#include "bucket.h"
#include "helpers.h"
#include "types.h"

enum {
	MOVER_BITS = 8,
	MOVERS = 1 << MOVER_BITS, /* the element behind them has the bucket of the whole bridge in `due` */
};

/*
 * The stations of one part of all hashes have a bucket in common. `key`, `ports` (the old one, and above 16 bits the
 * new one), `when` (bucket_now()) are of the last move of them that was not followed. They are written one after the
 * other: where two stations of one part move at the same time, they may be of both, until the next move.
 */
struct mover {
	__u64 due;
	__u64 held_until;
	__u64 refused; /* so many moves were not followed */
	__u64 key;
	__u64 ports;
	__u64 when;
};

struct moves_limit {
	struct bucket_rate station;
	struct bucket_rate bridge;
	__u64 hold; /* a station that was too fast stays where it is for so long, as bucket_now() counts */
};

static __always_inline bool bridge_is_calm(void *movers, const struct moves_limit *limit, __u64 now)
{
	const __u32 all = MOVERS;
	struct mover *bridge;

	if (!limit->bridge.limited)
		return true;
	bridge = bpf_map_lookup_elem(movers, &all);
	return !bridge || bucket_take(&bridge->due, &limit->bridge, now);
}

/* Whether a station, `hash` of its `key`, may move from one port to another now. */
static __always_inline bool may_move(void *movers, const struct moves_limit *limit, __u64 key, __u64 hash, __u32 from,
				     __u32 to)
{
	const __u32 part = hash >> (64 - MOVER_BITS);
	struct mover *mover = bpf_map_lookup_elem(movers, &part);
	__u64 now = bucket_now(&limit->station);

	if (!mover)
		return true;
	if (mover->held_until <= now) {
		if (!bucket_take(&mover->due, &limit->station, now))
			mover->held_until = now + limit->hold;
		else if (bridge_is_calm(movers, limit, now))
			return true;
	}
	__sync_fetch_and_add(&mover->refused, 1);
	mover->key = key;
	mover->ports = (__u64)to << 16 | from;
	mover->when = now;
	return false;
}

#endif
