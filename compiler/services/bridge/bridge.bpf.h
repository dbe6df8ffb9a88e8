/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A learning bridge after IEEE 802.1D: where a station is, is learned from the source addresses it sends with; frames
 * for a known station go to its port, all others to every port but the one they came from.
 */
#ifndef BPFCHAIN_BRIDGE_H
#define BPFCHAIN_BRIDGE_H

#include "helpers.h"
#include "packet.h"
#include "verdict.h"

/*
 * The filtering database (FDB) is set-associative, as in a switch: a hash of the address picks one of 2^set_bits sets,
 * and the station is in one of its eight entries or nowhere. It is an array map: a lookup is a multiplication and two
 * cache lines at most, no helper call, and user space can map the memory.
 */
enum {
	FDB_WAYS = 8,
	FDB_SLACK = 16, /* jiffies */
	NO_STATIC_PORT = 0xffff,
};

/*
 * key is 0 (free), FDB_BUSY (being written) or the station's mac_u64(). station packs the port (bits 0-15), the flags
 * (16-31) and the low half of jiffies when it was last seen (32-63) into one word, so that one store changes all of it.
 */
struct fdb_entry {
	__u64 key;
	__u64 station;
};

struct fdb_set {
	struct fdb_entry entry[FDB_WAYS];
};

static const __u64 FDB_BUSY = ~0ULL;
static const __u64 FDB_CONFIRMED = 1 << 16; /* seen again later: no one-off address of a scan or a flood */

struct bridge_config {
	__u32 port;
	__u32 aging_s;
	__u32 set_bits;
	const volatile __u32 *hz;
	__u32 (*static_port)(__u64 mac);
	void *fdb;
};

static __always_inline __u64 fdb_station(__u32 port, __u64 flags, __u32 now)
{
	return (__u64)now << 32 | flags | port;
}

static __always_inline __u32 fdb_port(__u64 station)
{
	return (__u16)station;
}

/* Ticks since a station was seen, plus FDB_SLACK: another CPU may have seen it after this one read the clock. */
static __always_inline __u32 fdb_idle(__u64 station, __u32 now)
{
	return now + FDB_SLACK - (__u32)(station >> 32);
}

/* How long an entry's time may lag behind: writing it with every frame would cost a shared cache line each time. */
static __always_inline __u32 fdb_refresh(const struct bridge_config *cfg)
{
	return cfg->aging_s >= 8 ? *cfg->hz : cfg->aging_s * *cfg->hz >> 3;
}

static __always_inline bool fdb_expired(const struct bridge_config *cfg, __u64 station, __u32 now)
{
	return fdb_idle(station, now) > cfg->aging_s * *cfg->hz + fdb_refresh(cfg) + FDB_SLACK;
}

/* Fibonacci hashing: the upper bits of a product with 2^64 divided by the golden ratio. */
static __always_inline struct fdb_set *fdb_set(const struct bridge_config *cfg, __u64 mac)
{
	__u32 set = mac * 0x9e3779b97f4a7c15ULL >> (64 - cfg->set_bits);

	return bpf_map_lookup_elem(cfg->fdb, &set);
}

static __always_inline struct fdb_entry *fdb_find(struct fdb_set *set, __u64 mac)
{
#pragma unroll
	for (int way = 0; way < FDB_WAYS; way++)
		if (set->entry[way].key == mac)
			return &set->entry[way];
	return NULL;
}

/*
 * What an entry says of `mac`: false if the entry went to another station since it was found. The key is read again
 * after the word, because the next owner clears the key before it writes the word.
 */
static __always_inline bool fdb_read(const struct fdb_entry *entry, __u64 mac, __u64 *station)
{
	*station = *(const volatile __u64 *)&entry->station;
	return *(const volatile __u64 *)&entry->key == mac;
}

/*
 * Which entry a new station may take: a free one, else the one that is missed least. Expired ones come first, then
 * addresses seen only once, then stations that have been silent for half the ageing time; a set full of active stations
 * keeps them, and the new one's frames are flooded until one ages.
 */
static __always_inline struct fdb_entry *fdb_victim(const struct bridge_config *cfg, struct fdb_set *set, __u32 now)
{
	__u32 aging = cfg->aging_s * *cfg->hz, least = aging / 2;
	struct fdb_entry *victim = NULL;

#pragma unroll
	for (int way = 0; way < FDB_WAYS; way++) {
		struct fdb_entry *entry = &set->entry[way];
		__u32 idle = fdb_idle(entry->station, now);

		if (entry->key == 0)
			return entry;
		if (!(entry->station & FDB_CONFIRMED))
			idle += aging;
		if (idle >= least) {
			least = idle;
			victim = entry;
		}
	}
	return victim;
}

/* Two CPUs may want the same entry: whoever gets the key for FDB_BUSY has it, the other learns from the next frame. */
static __always_inline void fdb_insert(const struct bridge_config *cfg, struct fdb_set *set, __u64 mac, __u32 now)
{
	struct fdb_entry *entry = fdb_victim(cfg, set, now);

	if (!entry || __sync_lock_test_and_set(&entry->key, FDB_BUSY) == FDB_BUSY)
		return;
	entry->station = fdb_station(cfg->port, 0, now);
	__sync_lock_test_and_set(&entry->key, mac);
}

/*
 * IEEE 802.1D 7.8: a station is learned on the port that it sends from, and followed when it moves. Nothing is written
 * for a frame that tells nothing new; if the entry went to another station meanwhile, the exchange fails and changes
 * nothing.
 */
static __always_inline void bridge_learn(const struct bridge_config *cfg, __u64 source, __u32 now)
{
	struct fdb_set *set = fdb_set(cfg, source);
	struct fdb_entry *entry;
	__u64 known;

	if (!set)
		return;
	entry = fdb_find(set, source);
	if (!entry) {
		fdb_insert(cfg, set, source, now);
		return;
	}
	if (unlikely(!fdb_read(entry, source, &known)))
		return;
	if (likely(fdb_port(known) == cfg->port && fdb_idle(known, now) < fdb_refresh(cfg) + FDB_SLACK))
		return;
	__sync_val_compare_and_swap(&entry->station, known, fdb_station(cfg->port, FDB_CONFIRMED, now));
}

/* IEEE 802.1D 7.12.6: 01:80:c2:00:00:01 to 0f end at the next bridge. BPDUs (...:00) pass while there is no STP here.
 */
static __always_inline bool is_link_local(__u64 mac)
{
	__u8 last = mac >> 40;

	return (mac & 0xffffffffffULL) == 0xc28001ULL && last >= 0x01 && last <= 0x0f;
}

/* Flooded, too: the address zero, which no station has, but a free entry has for a key. */
static __always_inline __u32 bridge_lookup(const struct bridge_config *cfg, __u64 destination, __u32 now)
{
	struct fdb_set *set = fdb_set(cfg, destination);
	struct fdb_entry *entry = set ? fdb_find(set, destination) : NULL;
	__u64 station;

	if (!entry || !destination || !fdb_read(entry, destination, &station) || fdb_expired(cfg, station, now))
		return VERDICT_FLOOD;
	return fdb_port(station);
}

static __always_inline __u32 bridge_receive(struct packet *pkt, const struct bridge_config *cfg)
{
	__u64 source = mac_u64(pkt->eth->h_source), destination = mac_u64(pkt->eth->h_dest);
	__u32 now = bpf_jiffies64(), port;

	if (unlikely(is_group_mac(source) || source == 0))
		return drop(DROP_INVALID_SOURCE);
	if (is_group_mac(destination) && is_link_local(destination))
		return drop(DROP_LINK_LOCAL);
	if (!cfg->static_port || cfg->static_port(source) == NO_STATIC_PORT)
		bridge_learn(cfg, source, now);
	if (is_group_mac(destination))
		return VERDICT_FLOOD;
	port = cfg->static_port ? cfg->static_port(destination) : NO_STATIC_PORT;
	if (port == NO_STATIC_PORT)
		port = bridge_lookup(cfg, destination, now);
	if (unlikely(port == cfg->port))
		return drop(DROP_SAME_PORT);
	return port;
}

#endif
