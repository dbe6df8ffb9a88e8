/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Lookups alone, of DESTINATIONS addresses in random order: none (what the rest of the program costs), in the router's
 * table, and in the kernel's LPM trie. `find4` and `find6` look up the address that the frame begins with.
 */
#include "xdp.h"

#include "router/fib.h"

#define ARRAY(map, element, entries, flags)                                                                            \
	struct {                                                                                                       \
		__uint(type, BPF_MAP_TYPE_ARRAY);                                                                      \
		__type(key, __u32);                                                                                    \
		__type(value, element);                                                                                \
		__uint(max_entries, entries);                                                                          \
		__uint(map_flags, flags);                                                                              \
	} map SEC(".maps")
#define LPM_TRIE(map, prefix)                                                                                          \
	struct {                                                                                                       \
		__uint(type, BPF_MAP_TYPE_LPM_TRIE);                                                                   \
		__type(key, prefix);                                                                                   \
		__type(value, __u32);                                                                                  \
		__uint(max_entries, ROUTES);                                                                           \
		__uint(map_flags, BPF_F_NO_PREALLOC);                                                                  \
	} map SEC(".maps")

struct prefix4 {
	__u32 length;
	__be32 address;
};

struct prefix6 {
	__u32 length;
	struct in6_addr address;
};

ARRAY(seed, __u64, 1, 0);
ARRAY(destinations4, __be32, DESTINATIONS, 0);
ARRAY(destinations6, struct in6_addr, DESTINATIONS, 0);
ARRAY(roots4, struct fib_roots, 1, BPF_F_MMAPABLE);
ARRAY(roots6, struct fib_roots, 1, BPF_F_MMAPABLE);
ARRAY(ranges4, __u32[PLACES4], 1, BPF_F_MMAPABLE);
ARRAY(ranges6, __u64[PLACES6], 1, BPF_F_MMAPABLE);
ARRAY(found, __u64, 1 << 16, 0);
LPM_TRIE(trie4, struct prefix4);
LPM_TRIE(trie6, struct prefix6);

static const struct fib_config fib = {
	.roots4 = &roots4,
	.ranges4 = &ranges4,
	.mask4 = PLACES4 - 1,
	.roots6 = &roots6,
	.ranges6 = &ranges6,
	.mask6 = PLACES6 - 1,
};

static __always_inline __u32 random_index(void)
{
	const __u32 zero = 0;
	__u64 *state = bpf_map_lookup_elem(&seed, &zero);

	if (!state)
		return 0;
	*state = *state * 6364136223846793005ULL + 1442695040888963407ULL;
	return *state >> 33 & (DESTINATIONS - 1);
}

static __always_inline __be32 destination4(void)
{
	__u32 index = random_index();
	const __be32 *address = bpf_map_lookup_elem(&destinations4, &index);

	return address ? *address : 0;
}

static __always_inline const struct in6_addr *destination6(void)
{
	__u32 index = random_index();

	return bpf_map_lookup_elem(&destinations6, &index);
}

SEC("xdp")
int none4(struct xdp_md *ctx __attribute__((unused)))
{
	return destination4() & 0xffff;
}

SEC("xdp")
int table4(struct xdp_md *ctx __attribute__((unused)))
{
	return fib4_lookup(&fib, destination4());
}

SEC("xdp")
int lpm4(struct xdp_md *ctx __attribute__((unused)))
{
	const struct prefix4 key = {.length = 32, .address = destination4()};
	const __u32 *next_hop = bpf_map_lookup_elem(&trie4, &key);

	return next_hop ? *next_hop : FIB_NO_ROUTE;
}

SEC("xdp")
int none6(struct xdp_md *ctx __attribute__((unused)))
{
	const struct in6_addr *address = destination6();

	return address ? address->u6_addr32[0] & 0xffff : 0;
}

SEC("xdp")
int table6(struct xdp_md *ctx __attribute__((unused)))
{
	const struct in6_addr *address = destination6();

	return address ? fib6_lookup(&fib, address) : FIB_NO_ROUTE;
}

SEC("xdp")
int lpm6(struct xdp_md *ctx __attribute__((unused)))
{
	const struct in6_addr *address = destination6();
	struct prefix6 key = {.length = 128};
	const __u32 *next_hop;

	if (!address)
		return FIB_NO_ROUTE;
	key.address = *address;
	next_hop = bpf_map_lookup_elem(&trie6, &key);
	return next_hop ? *next_hop : FIB_NO_ROUTE;
}

/* Counts an answer, for whoever looks on while the table changes. */
static __always_inline __u32 record(__u32 next_hop)
{
	__u64 *times = bpf_map_lookup_elem(&found, &next_hop);

	if (times)
		__sync_fetch_and_add(times, 1);
	return next_hop;
}

SEC("xdp")
int find4(struct xdp_md *ctx)
{
	const __be32 *address = (void *)(long)ctx->data;

	if ((void *)(address + 1) > (void *)(long)ctx->data_end)
		return FIB_NO_ROUTE;
	return record(fib4_lookup(&fib, *address));
}

SEC("xdp")
int find6(struct xdp_md *ctx)
{
	const struct in6_addr *address = (void *)(long)ctx->data;

	if ((void *)(address + 1) > (void *)(long)ctx->data_end)
		return FIB_NO_ROUTE;
	return record(fib6_lookup(&fib, address));
}

char _license[] SEC("license") = "Dual BSD/GPL";
