/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The longest prefix of an address, in a table of maps that changes while it is read. schemas/fib/ lays the table out,
 * and writes it so that a lookup gives the old answer or the new one.
 *
 * The first 16 bits of an address are an index. What longer prefixes say is in blocks of ranges that are searched by
 * halves without a branch, because a branch that depends on a random destination costs more than the step itself. Every
 * map has one element, so that a place in it is a masked index and no call.
 */
#ifndef ROUTER_FIB_H
#define ROUTER_FIB_H

#include "helpers.h"
#include "types.h"

enum {
	FIB_NO_ROUTE = 0,
	FIB_STRIDE = 16, /* bits of an address that one level decides */
	FIB6_BELOW = 7,  /* levels of IPv6 below the roots */
	FIB_TAIL = 31,   /* an order that stands for a block with one route, the only one below here */
	FIB_TAIL_PLACES = 4,
};

/* The tables of one router; those of an IP version that is not looked up may be null. */
struct fib_config {
	void *roots4;  /* one struct fib_roots */
	void *ranges4; /* one __u32[mask4 + 1] */
	__u32 mask4;
	void *roots6;  /* one struct fib_roots */
	void *ranges6; /* one __u64[mask6 + 1] */
	__u32 mask6;
};

/*
 * What the first 16 bits of an address decide. An entry is written and read as a whole: the answer of prefixes up to
 * /16 in its low 16 bits, above it the block for longer ones, or 0.
 */
struct fib_roots {
	__u64 entries[1 << FIB_STRIDE];
};

static __always_inline __u32 fib_next_hop(__u64 entry)
{
	return entry & 0xffff;
}

static __always_inline __u32 fib_block(__u64 entry)
{
	return entry >> 16;
}

/* A block's first place. */
static __always_inline __u32 fib_first(__u32 block)
{
	return block >> 5;
}

/* A block has 2^order ranges, ordered by their start; the last is repeated to the end. */
static __always_inline __u32 fib_order(__u32 block)
{
	return block & 31;
}

/* All ones if a <= b, else 0. clang must see neither the comparison nor that there are two results: it would branch. */
static __always_inline __u64 fib_at_most(__u64 a, __u64 b)
{
	__u64 mask = b - a;

	asm volatile("" : "+r"(mask));
	mask = ~((__s64)mask >> 63);
	asm volatile("" : "+r"(mask));
	return mask;
}

static __always_inline __u64 fib_root(void *map, __u32 index)
{
	const __u32 zero = 0;
	const struct fib_roots *roots = bpf_map_lookup_elem(map, &zero);

	return roots ? *(const volatile __u64 *)&roots->entries[index] : 0;
}

/* A range of IPv4 is its start, then its answer, 16 bits each. The unused first load fetches a line for later steps. */
static __always_inline __u32 fib4_search(const struct fib_config *fib, __u32 block, __u32 key)
{
	const __u32 zero = 0, last = key << 16 | 0xffff;
	__u32 at = fib_first(block), half = 1U << fib_order(block) >> 1;
	const __u32 *ranges = bpf_map_lookup_elem(fib->ranges4, &zero);

	if (!ranges)
		return FIB_NO_ROUTE;
	asm volatile("" : : "r"(ranges[at & fib->mask4]));
	for (int step = 0; step < FIB_STRIDE && half; step++) {
		at += half & fib_at_most(ranges[(at + half) & fib->mask4], last);
		half >>= 1;
	}
	return fib_next_hop(ranges[at & fib->mask4]);
}

/* The index of the next hops of the longest prefix, or FIB_NO_ROUTE. */
static __always_inline __u32 fib4_lookup(const struct fib_config *fib, __be32 dst)
{
	__u32 address = bpf_ntohl(dst), found = FIB_NO_ROUTE;
	__u64 root;

	root = fib_root(fib->roots4, address >> 16);
	if (fib_block(root))
		found = fib4_search(fib, fib_block(root), address & 0xffff);
	return found ? found : fib_next_hop(root);
}

/* A range of IPv6 is its start in the high 16 bits, below it an entry: its answer here, and the block of the next
 * level. */
static __always_inline __u64 fib6_search(const __u64 *ranges, __u32 mask, __u32 block, __u64 key)
{
	__u32 at = fib_first(block), half = 1U << fib_order(block) >> 1;

	for (int step = 0; step < FIB_STRIDE && half; step++) {
		__u64 start = ranges[(at + half) & mask] >> 48;

		at += half & fib_at_most(start, key);
		half >>= 1;
	}
	return *(const volatile __u64 *)&ranges[at & mask] << 16 >> 16;
}

/*
 * A tail has the one route below a level: its answer in the first 16 bits, which are known to match, its address, and
 * the mask of the bits that have to be equal.
 */
static __always_inline __u32 fib6_tail(const __u64 *ranges, __u32 mask, __u32 block, __u64 high, __u64 low)
{
	__u32 at = fib_first(block);
	__u64 first = ranges[at & mask];
	__u64 differing = (first ^ high) & ranges[(at + 2) & mask];

	differing |= (ranges[(at + 1) & mask] ^ low) & ranges[(at + 3) & mask];
	return differing ? FIB_NO_ROUTE : first >> 48;
}

static __always_inline __u32 fib6_table(const struct fib_config *fib, const __u64 high, const __u64 low)
{
	const __u32 zero = 0;
	const __u64 *ranges = bpf_map_lookup_elem(fib->ranges6, &zero);
	__u64 entry = fib_root(fib->roots6, high >> 48), rest = high << 16 | low >> 48, later = low << 16;
	__u32 found = fib_next_hop(entry), deeper;

	if (!ranges)
		return FIB_NO_ROUTE;
	for (int level = 0; level < FIB6_BELOW; level++) {
		__u32 block = fib_block(entry);

		if (!block)
			break;
		if (fib_order(block) == FIB_TAIL) {
			deeper = fib6_tail(ranges, fib->mask6, block, high, low);
			return deeper ? deeper : found;
		}
		entry = fib6_search(ranges, fib->mask6, block, rest >> 48);
		deeper = fib_next_hop(entry);
		found = deeper ? deeper : found;
		rest = rest << 16 | later >> 48;
		later <<= 16;
	}
	return found;
}

/* An address in host byte order, in two halves. */
static __always_inline __u64 fib6_high(const struct in6_addr *address)
{
	return (__u64)bpf_ntohl(address->u6_addr32[0]) << 32 | bpf_ntohl(address->u6_addr32[1]);
}

static __always_inline __u64 fib6_low(const struct in6_addr *address)
{
	return (__u64)bpf_ntohl(address->u6_addr32[2]) << 32 | bpf_ntohl(address->u6_addr32[3]);
}

/* As fib4_lookup(). */
static __always_inline __u32 fib6_lookup(const struct fib_config *fib, const struct in6_addr *dst)
{

	return fib6_table(fib, fib6_high(dst), fib6_low(dst));
}

#endif
