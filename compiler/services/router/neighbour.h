/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Which MAC a neighbour has. The control plane writes neighbours into a hash map; each CPU remembers those that it has
 * looked up lately. Most packets are for few of them, and a call, a hash, its bucket and the entry, of which each waits
 * for the one before, cost more than all else that a router does.
 *
 * What a CPU remembers holds for a second at most, so that neighbours are marked as used, and only until the control
 * plane says that the map has changed.
 */
#ifndef BPFCHAIN_ROUTER_NEIGHBOUR_H
#define BPFCHAIN_ROUTER_NEIGHBOUR_H

#include "config.h"

enum {
	RECENT4_BITS = 10, /* logarithm of the places that a CPU has; a per-CPU value has 32 KiB at most */
	RECENT6_BITS = 9,
};

/* A lookup and its result. Neither address is ever one of zeros, so nothing is found in an empty place. */
struct recent4 {
	__u64 key; /* struct neighbour4_key */
	__u64 mac;
	__u32 version; /* of the neighbours, before the lookup */
	__u32 used;    /* as the neighbour is marked */
};

struct recent6 {
	struct neighbour6_key key;
	__u32 version;
	__u64 mac;
	__u32 used;
	__u32 reserved;
};

struct recent4_places {
	struct recent4 place[1 << RECENT4_BITS];
};

struct recent6_places {
	struct recent6 place[1 << RECENT6_BITS];
};

/* A number that changes when neighbours have changed. */
static __always_inline __u32 neighbours_version(const struct router_config *cfg)
{
	const __u32 zero = 0;
	const volatile __u64 *version = bpf_map_lookup_elem(cfg->neighbours_version, &zero);

	return version ? *version : 0;
}

static __always_inline bool neighbour_is_marked(const struct router_config *cfg, __u32 used, __u32 now)
{
	return now - used < cfg->hz;
}

/* Marks a neighbour as used, unless that was done less than a second ago; returns what it is marked with. */
static __always_inline __u32 neighbour_mark(const struct router_config *cfg, struct neighbour *neighbour, __u32 now)
{
	if (!neighbour_is_marked(cfg, neighbour->used, now))
		neighbour->used = now;
	return neighbour->used;
}

static __always_inline volatile struct recent4 *recent4_place(const struct router_config *cfg, __be32 address)
{
	const __u32 zero = 0;
	struct recent4_places *places = bpf_map_lookup_elem(cfg->recent4, &zero);

	return places ? &places->place[address * GOLDEN_RATIO >> (64 - RECENT4_BITS)] : NULL;
}

/*
 * The MAC of a neighbour; false if it is not known. Who is interrupted by the same program on the same CPU while it
 * reads finds the key changed when it has read the MAC. Nobody is interrupted while it writes, as softirqs do not nest.
 *
 * On PREEMPT_RT without PREEMPT_RT_NEEDS_BH_LOCK they can preempt each other (kernel commit 3253cb49cbad, "softirq:
 * Allow to drop the softirq-BKL lock on PREEMPT_RT", 6.18): who is preempted while it writes, by who writes into the
 * same place, can leave the MAC of another neighbour there, for a second at most. No order of these stores prevents
 * that; an atomic operation would, 6 ns for each packet to a neighbour that is not remembered.
 */
static __always_inline bool neighbour4_mac(const struct router_config *cfg, const struct neighbour4_key *key,
					   __u64 *mac)
{
	const __u64 whole = (__u64)key->port << 32 | key->address;
	__u32 now = bpf_jiffies64(), version = neighbours_version(cfg);
	volatile struct recent4 *recent = recent4_place(cfg, key->address);
	struct neighbour *found;

	if (!recent)
		return false;
	if (likely(recent->key == whole && recent->version == version && neighbour_is_marked(cfg, recent->used, now))) {
		*mac = recent->mac;
		if (likely(recent->key == whole))
			return true;
	}
	found = bpf_map_lookup_elem(cfg->neighbours4, key);
	if (!found)
		return false;
	*mac = mac_u64(found->mac);
	recent->key = 0;
	recent->mac = *mac;
	recent->version = version;
	recent->used = neighbour_mark(cfg, found, now);
	recent->key = whole;
	return true;
}

static __always_inline volatile struct recent6 *recent6_place(const struct router_config *cfg,
							      const struct in6_addr *address)
{
	const __u32 zero = 0;
	const __u32 *word = address->u6_addr32;
	struct recent6_places *places = bpf_map_lookup_elem(cfg->recent6, &zero);
	__u64 folded = (__u64)(word[0] ^ word[2]) << 32 | (word[1] ^ word[3]);

	return places ? &places->place[folded * GOLDEN_RATIO >> (64 - RECENT6_BITS)] : NULL;
}

static __always_inline bool recent6_is(const volatile struct recent6 *recent, const struct neighbour6_key *key)
{
	return recent->key.port == key->port && recent->key.address.u6_addr32[3] == key->address.u6_addr32[3] &&
	       recent->key.address.u6_addr32[2] == key->address.u6_addr32[2] &&
	       recent->key.address.u6_addr32[1] == key->address.u6_addr32[1] &&
	       recent->key.address.u6_addr32[0] == key->address.u6_addr32[0];
}

/* As neighbour4_mac(). */
static __always_inline bool neighbour6_mac(const struct router_config *cfg, const struct neighbour6_key *key,
					   __u64 *mac)
{
	__u32 now = bpf_jiffies64(), version = neighbours_version(cfg);
	volatile struct recent6 *recent = recent6_place(cfg, &key->address);
	struct neighbour *found;

	if (!recent)
		return false;
	if (likely(recent6_is(recent, key) && recent->version == version &&
		   neighbour_is_marked(cfg, recent->used, now))) {
		*mac = recent->mac;
		if (likely(recent6_is(recent, key)))
			return true;
	}
	found = bpf_map_lookup_elem(cfg->neighbours6, key);
	if (!found)
		return false;
	*mac = mac_u64(found->mac);
	recent->key.port = NO_PORT;
	recent->mac = *mac;
	recent->version = version;
	recent->used = neighbour_mark(cfg, found, now);
#pragma unroll
	for (int i = 0; i < 4; i++)
		recent->key.address.u6_addr32[i] = key->address.u6_addr32[i];
	recent->key.port = key->port;
	return true;
}

/* The last step of forwarding: the packet gets the Ethernet addresses of its next link, in two stores. */
static __always_inline void address_frame(void *frame, __u64 to, __u64 from)
{
	*(__u64 *)frame = to | from << 48;
	*(__u32 *)(frame + 8) = from >> 16;
}

#endif
