/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Where stations are: found in the filtering database, learned from the source addresses that they send with, and
 * followed when they move, as far as static entries, sticky ports and limits let them.
 */
#ifndef BPFCHAIN_BRIDGE_LEARNING_H
#define BPFCHAIN_BRIDGE_LEARNING_H

#include "config.h"
#include "drop.h"
#include "fdb.h"
#include "helpers.h"
#include "moves.h"
#include "packet.h"
#include "parse.h"
#include "quota.h"
#include "verdict.h"

enum {
	NO_STATIC_PORT = 0xffff,
};

static const __u64 FDB_GOLDEN_RATIO = 0x9e3779b97f4a7c15ULL; /* 2^64 divided by it */

/*
 * Fibonacci hashing in key_bits bits, which the result has on top: the product with an odd number, without what is
 * above, is a permutation of all keys.
 */
static __always_inline __u64 fdb_hash(const struct bridge_config *cfg, __u64 key)
{
	const __u32 above = 64 - cfg->key_bits;

	return key * (FDB_GOLDEN_RATIO >> above | 1) << above;
}

static __always_inline struct fdb_set *fdb_set(const struct bridge_config *cfg, __u64 hash)
{
	__u32 set = hash >> (64 - cfg->set_bits);

	return bpf_map_lookup_elem(cfg->fdb, &set);
}

static __always_inline __u64 fdb_tag(const struct bridge_config *cfg, __u64 hash)
{
	return hash << cfg->set_bits;
}

static __always_inline __u32 fdb_state_bits(const struct bridge_config *cfg)
{
	return 64 - cfg->key_bits + cfg->set_bits;
}

static __always_inline __u64 fdb_time_mask(const struct bridge_config *cfg)
{
	return (1ULL << (fdb_state_bits(cfg) - cfg->port_bits - 1)) - 1;
}

static __always_inline __u64 fdb_confirmed(const struct bridge_config *cfg)
{
	return 1ULL << cfg->port_bits;
}

/* A tick is 2^tick_bits jiffies at 100 Hz, and about as long at the other rates that kernels have. */
static __always_inline __u64 fdb_ticks(const struct bridge_config *cfg, __u64 jiffies)
{
	return jiffies >> (cfg->tick_bits + (cfg->hz >= 200) + 2 * (cfg->hz >= 800));
}

/* Ageing time in ticks, rounded up. */
static __always_inline __u32 fdb_aging(const struct bridge_config *cfg)
{
	return fdb_ticks(cfg, cfg->aging_s * cfg->hz) + 1;
}

/* The state of a station that is seen on this port now. */
static __always_inline __u64 fdb_state(const struct bridge_config *cfg, __u64 confirmed, __u64 now)
{
	return (now & fdb_time_mask(cfg)) << (cfg->port_bits + 1) | confirmed | (cfg->port + 1);
}

static __always_inline __u32 fdb_port(const struct bridge_config *cfg, __u64 state)
{
	return (state & (fdb_confirmed(cfg) - 1)) - 1;
}

/* Ticks since a station was seen, and one more: another CPU may have seen it after this one read the clock. */
static __always_inline __u64 fdb_idle(const struct bridge_config *cfg, __u64 state, __u64 now)
{
	return (now + 1 - (state >> (cfg->port_bits + 1))) & fdb_time_mask(cfg);
}

/* Never early: both ends of the time that has passed are rounded down to ticks. */
static __always_inline bool fdb_expired(const struct bridge_config *cfg, __u64 state, __u64 now)
{
	return fdb_idle(cfg, state, now) > fdb_aging(cfg) + 1;
}

/* The state of the station with `tag`, and which entry has it; NULL if none has. */
static __always_inline __u64 *fdb_find(const struct bridge_config *cfg, struct fdb_set *set, __u64 tag, __u64 *state)
{
	const __u64 states = 1ULL << fdb_state_bits(cfg);

#pragma unroll
	for (int way = 0; way < FDB_WAYS; way++) {
		*state = *(const volatile __u64 *)&set->entry[way] ^ tag;
		/* No state is 0, but what a free entry makes of the tag 0 is. */
		if (*state - 1 < states - 1)
			return &set->entry[way];
	}
	return NULL;
}

/* Ticks as fdb_dispensable() counts them: the highest bits of a word, of which two are left free. */
static __always_inline __u64 fdb_scaled(const struct bridge_config *cfg, __u64 ticks)
{
	return ticks << (cfg->port_bits + 1) << (cfg->key_bits - cfg->set_bits) >> 2;
}

/*
 * How little an entry is missed: the longer its station has been silent the less, and an address seen only once as if
 * it had been silent for the ageing time longer. What stands below the time in an entry takes less than a tick away,
 * another CPU's clock may take one. (Scaled, so that the verifier knows no bounds: it would follow every order that the
 * ages in a set can have.)
 */
static __always_inline __u64 fdb_dispensable(const struct bridge_config *cfg, __u64 entry, __u64 now)
{
	__u64 silent = (((now + 2) << (cfg->port_bits + 1)) - entry) << (cfg->key_bits - cfg->set_bits) >> 2;

	return entry & fdb_confirmed(cfg) ? silent : silent + fdb_scaled(cfg, fdb_aging(cfg));
}

/* A station of a sticky port stays there until it has aged, so nobody takes its entry. */
static __always_inline bool fdb_is_kept(const struct bridge_config *cfg, __u64 entry, __u64 now)
{
	return cfg->sticky && cfg->sticky(fdb_port(cfg, entry)) && !fdb_expired(cfg, entry, now);
}

/*
 * Which entry a new station may take, and what is in it: a free one, else the one that is missed least. Expired ones
 * come first, then addresses seen only once, then stations that have been silent for half the ageing time; a set full
 * of active or sticky stations keeps them, and the new one's frames are flooded until one ages.
 */
static __always_inline __u64 *fdb_victim(const struct bridge_config *cfg, struct fdb_set *set, __u64 now, __u64 *found)
{
	__u64 least = fdb_scaled(cfg, fdb_aging(cfg) / 2), *victim = NULL;

#pragma unroll
	for (int way = 0; way < FDB_WAYS; way++) {
		__u64 entry = *(const volatile __u64 *)&set->entry[way], dispensable = fdb_dispensable(cfg, entry, now);

		if (entry == 0) {
			*found = 0;
			return &set->entry[way];
		}
		if (dispensable >= least && !fdb_is_kept(cfg, entry, now)) {
			least = dispensable;
			victim = &set->entry[way];
			*found = entry;
		}
	}
	return victim;
}

/* Two CPUs may want the same entry: one gets it, the other learns from the next frame. */
static __always_inline bool fdb_insert(const struct bridge_config *cfg, struct fdb_set *set, __u64 tag, __u64 now)
{
	__u64 found, *victim = fdb_victim(cfg, set, now, &found);

	return victim && __sync_val_compare_and_swap(victim, found, tag | fdb_state(cfg, 0, now)) == found;
}

/* Of a station whose static entry is in the map. */
static __always_inline __u32 bridge_static(const struct bridge_config *cfg, __u64 key)
{
	const __u32 *port;

	if (!cfg->statics)
		return NO_STATIC_PORT;
	port = bpf_map_lookup_elem(cfg->statics, &key);
	return port ? *port : NO_STATIC_PORT;
}

/* What becomes of a frame whose source belongs to another port, and cannot move from there. */
static __always_inline __u32 bridge_intruder(const struct bridge_config *cfg)
{
	return cfg->drop_intruders ? drop(DROP_INTRUDER) : PARSED;
}

static __always_inline __u32 bridge_at_home(const struct bridge_config *cfg, __u32 home)
{
	return home == cfg->port ? PARSED : bridge_intruder(cfg);
}

static __always_inline struct quota *bridge_quota(const struct bridge_config *cfg)
{
	const __u32 port = cfg->port;

	return bpf_map_lookup_elem(cfg->quotas, &port);
}

static __always_inline struct census bridge_census(const struct bridge_config *cfg, __u64 now)
{
	return (struct census){
		.port_mask = fdb_confirmed(cfg) - 1,
		.port = cfg->port + 1,
		.time_shift = cfg->port_bits + 1,
		.time_mask = fdb_time_mask(cfg),
		.soon = now + 1,
		.oldest = fdb_aging(cfg) + 1,
	};
}

/* Room on this port for a station that it does not have. */
static __always_inline bool bridge_admits(const struct bridge_config *cfg, __u64 now)
{
	struct census census;
	struct quota *quota;

	if (!cfg->quotas)
		return true;
	quota = bridge_quota(cfg);
	if (!quota)
		return true;
	census = bridge_census(cfg, now);
	return quota_take(quota, cfg->station_limit, cfg->count_set, &census, 1U << cfg->set_bits);
}

/* A station that was admitted has not been learned: it moves too often, another CPU was faster, or its set is full. */
static __always_inline void bridge_unadmit(const struct bridge_config *cfg)
{
	struct quota *quota = cfg->quotas ? bridge_quota(cfg) : NULL;

	if (quota)
		quota_return(quota);
}

static __always_inline __u32 bridge_beyond(const struct bridge_config *cfg)
{
	return cfg->drop_beyond ? drop(DROP_STATION_LIMIT) : PARSED;
}

/* A station that is nowhere in its set. */
static __always_inline __u32 bridge_learn_new(const struct bridge_config *cfg, __u64 source, struct fdb_set *set,
					      __u64 tag, __u64 now)
{
	const __u32 home = bridge_static(cfg, source);

	if (home != NO_STATIC_PORT)
		return bridge_at_home(cfg, home);
	if (!bridge_admits(cfg, now))
		return bridge_beyond(cfg);
	if (!fdb_insert(cfg, set, tag, now))
		bridge_unadmit(cfg);
	return PARSED;
}

/*
 * A station that has been silent for a while, or is on another port than it was. One that has expired is a new one:
 * it may come up anywhere, and counts again. What a port has no room for is no move: its limit is asked first.
 */
static __always_inline __u32 bridge_learn_again(const struct bridge_config *cfg, __u64 source, __u64 hash, __u64 *entry,
						__u64 state, __u64 now)
{
	const __u32 was = fdb_port(cfg, state), home = bridge_static(cfg, source);
	const __u64 tag = fdb_tag(cfg, hash), found = tag | state;
	bool joins = was != cfg->port;

	if (home != NO_STATIC_PORT)
		return bridge_at_home(cfg, home);
	if (joins && cfg->sticky && cfg->sticky(was) && !fdb_expired(cfg, state, now))
		return bridge_intruder(cfg);
	if (cfg->quotas) {
		joins = joins || fdb_expired(cfg, state, now);
		if (joins && !bridge_admits(cfg, now))
			return bridge_beyond(cfg);
	}
	if (was != cfg->port && cfg->movers && !fdb_expired(cfg, state, now) &&
	    !may_move(cfg->movers, &cfg->moves, source, hash, was, cfg->port)) {
		bridge_unadmit(cfg);
		return PARSED;
	}
	if (__sync_val_compare_and_swap(entry, found, tag | fdb_state(cfg, fdb_confirmed(cfg), now)) != found && joins)
		bridge_unadmit(cfg);
	return PARSED;
}

/*
 * IEEE 802.1D 7.8: a station is learned on the port that it sends from, and followed when it moves. Nothing is written
 * for a frame that tells nothing new: writing the time with every frame would cost a shared cache line each time. If
 * the entry has changed meanwhile, the exchange fails and changes nothing. PARSED, or the drop of a frame whose source
 * may not be here.
 */
static __always_inline __u32 bridge_learn(const struct bridge_config *cfg, __u64 source, __u64 now)
{
	__u64 hash = fdb_hash(cfg, source), tag = fdb_tag(cfg, hash), state, *entry;
	struct fdb_set *set = fdb_set(cfg, hash);

	if (!set)
		return PARSED;
	entry = fdb_find(cfg, set, tag, &state);
	if (!entry)
		return bridge_learn_new(cfg, source, set, tag, now);
	if (likely(fdb_port(cfg, state) == cfg->port && fdb_idle(cfg, state, now) <= 1))
		return PARSED;
	return bridge_learn_again(cfg, source, hash, entry, state, now);
}

static __always_inline __u32 bridge_lookup(const struct bridge_config *cfg, __u64 destination, __u64 now)
{
	__u64 hash = fdb_hash(cfg, destination), state;
	struct fdb_set *set = fdb_set(cfg, hash);

	if (!set || !fdb_find(cfg, set, fdb_tag(cfg, hash), &state) || fdb_expired(cfg, state, now))
		return VERDICT_FLOOD;
	return fdb_port(cfg, state);
}

/* Independent learning (802.1Q 8.8.8): an address is one station in one VLAN, and another in another. */
static __always_inline __u64 fdb_key(const struct packet *pkt, const struct bridge_config *cfg, __u64 mac)
{
	return cfg->vlan_aware ? mac | (__u64)(pkt->tci & VLAN_VID_MASK) << 48 : mac;
}

#endif
