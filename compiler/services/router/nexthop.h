/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Next hops: what becomes of a packet that a route matches. A FIB lookup gives an index into an array of these; index 0
 * is that of no route. User space writes them, programs only read.
 */
#ifndef BPFCHAIN_ROUTER_NEXTHOP_H
#define BPFCHAIN_ROUTER_NEXTHOP_H

#include "helpers.h"
#include "types.h"

enum nexthop_kind {
	NEXTHOP_NONE = 0,        /* no route */
	NEXTHOP_CONNECTED = 1,   /* the destination itself is a neighbour on `port` */
	NEXTHOP_VIA = 2,         /* `gateway` is the neighbour, on `port` */
	NEXTHOP_GROUP = 3,       /* one of the `members` next hops from index `first` on: equal-cost paths */
	NEXTHOP_BLACKHOLE = 4,   /* dropped in silence */
	NEXTHOP_UNREACHABLE = 5, /* dropped, its sender is told */
	NEXTHOP_PROHIBIT = 6,
};

struct nexthop {
	__u32 kind;
	__u32 port;
	__u32 first;
	__u32 members;
	struct in6_addr gateway; /* an IPv4 address is in the first word */
};

enum {
	NEXTHOP_FOLLOWED = 1
		<< 16, /* in an index: one of those that the control plane writes as the kernel's routes change */
};

/* Both maps of next hops: the chain file's, and those of the kernel's routes (NULL where none are followed). */
struct nexthop_maps {
	void *described;
	void *followed;
};

/*
 * The verifier turns a lookup in an array into a few instructions where it sees which array it is. The empty assembly
 * keeps clang from making one call of both, with either map: that would be an indirect call in the kernel, 17 ns.
 */
static __always_inline const struct nexthop *nexthop_lookup(const struct nexthop_maps *maps, __u32 index)
{
	__u32 place = index & (NEXTHOP_FOLLOWED - 1);
	const struct nexthop *found;

	if (!maps->followed || !(index & NEXTHOP_FOLLOWED))
		return bpf_map_lookup_elem(maps->described, &place);
	found = bpf_map_lookup_elem(maps->followed, &place);
	asm volatile("" : "+r"(found));
	return found;
}

/*
 * The next hop at *index; of a group, the member that `hash` picks, whose index *index then is. NULL is what only a
 * broken map gives.
 */
static __always_inline const struct nexthop *nexthop_at(const struct nexthop_maps *maps, const __u32 *index)
{
	return nexthop_lookup(maps, *index);
}

static __always_inline const struct nexthop *nexthop_member(const struct nexthop_maps *maps,
							    const struct nexthop *group, __u32 hash, __u32 *index)
{
	*index = (*index & NEXTHOP_FOLLOWED) | (group->first + (__u32)((__u64)hash * group->members >> 32));
	return nexthop_lookup(maps, *index);
}

/* A flow's hash: all of its packets take the same path. Multiplicative, the upper half is well mixed. */
static __always_inline __u32 flow_hash(__u64 addresses, __u64 rest)
{
	__u64 mixed = (addresses ^ addresses >> 32 ^ rest) * 0x9e3779b97f4a7c15ULL;

	return (mixed ^ mixed >> 29) * 0xbf58476d1ce4e5b9ULL >> 32;
}

#endif
