/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A learning bridge after IEEE 802.1D: where a station is, is learned from the source addresses it sends with; frames
 * for a known station go to its port, all others to every port but the one they came from.
 */
#ifndef BPFCHAIN_BRIDGE_H
#define BPFCHAIN_BRIDGE_H

#include "bucket.h"
#include "fdb.h"
#include "helpers.h"
#include "moves.h"
#include "multicast.h"
#include "packet.h"
#include "quota.h"
#include "verdict.h"
#include "vlan.h"

enum {
	NO_STATIC_PORT = 0xffff,
};

/* How the frames of a VLAN leave by a port. */
enum vlan_form {
	VLAN_ABSENT, /* not at all: the port is no member */
	VLAN_UNTAGGED,
	VLAN_TAGGED,
};

/* What the spanning tree lets frames do on a port (IEEE 802.1D-2004 7.4); nothing, until its control plane says so. */
enum port_state {
	PORT_DISCARDING = 0,
	PORT_LEARNING = 1,
	PORT_FORWARDING = 2,
	BRIDGE_PORTS = 64 * PORT_SET_WORDS,
};

/*
 * All of it is written by the control plane (runtime/services/bridge_stp.py), the roles for people only.
 * served_until_ns is in bpf_ktime_get_coarse_ns(): it puts the time off again and again, for as long as it lives.
 */
struct port_states {
	__u8 state[BRIDGE_PORTS];
	__u8 role[BRIDGE_PORTS];
	__u64 served_until_ns;
};

/* Why a packet goes up to the control plane. */
enum bridge_upcall {
	BRIDGE_BPDU = 0,
	BRIDGE_MULTICAST = 1, /* a copy of a message about groups; pkt->note is its VLAN */
};

/* Sorts of frames that are flooded, each with a limit of its own on every port. */
enum storm_sort {
	STORM_BROADCAST,
	STORM_MULTICAST,
	STORM_UNKNOWN, /* to one station, whose port is not known */
	STORM_SORTS,
};

struct bridge_config {
	__u32 port;
	__u64 aging_s;
	__u32 set_bits;
	__u32 key_bits;
	__u32 port_bits;
	__u32 tick_bits;
	__u64 hz;
	__u32 (*static_port)(__u64 key);
	void *fdb;
	bool vlan_aware;   /* without it, none of what follows is used */
	bool admit_tagged; /* frames that are tagged with a VLAN that the port is a member of */
	__u32 pvid;        /* VLAN of all other frames; 0: they are dropped */
	enum vlan_form (*vlan_egress)(__u32 port, __u32 vid);
	void *states;                 /* NULL: no spanning tree, every port forwards */
	bool bpdu_guard;              /* BPDUs shut the port: nobody else ever hears them */
	bool root_guard;              /* a better root may not be heard through here */
	struct port_set bpdu_filters; /* ports that BPDUs neither come in nor leave by */
	void *storm;                  /* buckets: STORM_SORTS for each port */
	struct bucket_rate storm_broadcast;
	struct bucket_rate storm_multicast;
	struct bucket_rate storm_unknown;
	void *statics;       /* ports of the stations whose static entries are not code; NULL: there are none */
	bool drop_intruders; /* frames of static and sticky stations that come in by another port */
	bool (*sticky)(__u32 port);
	void *movers; /* NULL: every move is followed */
	struct moves_limit moves;
	void *quotas; /* by port; NULL: there may be any number of stations */
	__u64 station_limit;
	count_set *count_set;
	bool drop_beyond; /* frames of stations that are beyond the limit */
	void *mdb;        /* NULL: no snooping, all multicast is flooded */
	void *mdb_kept_until;
};

static const __u64 BROADCAST_MAC = 0xffffffffffffULL;
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

static __always_inline const struct port_states *bridge_states(const struct bridge_config *cfg)
{
	const __u32 only = 0;

	return cfg->states ? bpf_map_lookup_elem(cfg->states, &only) : NULL;
}

static __always_inline enum port_state bridge_state(const struct bridge_config *cfg, const struct port_states *states,
						    __u32 port)
{
	if (!cfg->states)
		return PORT_FORWARDING;
	return states ? states->state[port % BRIDGE_PORTS] : PORT_DISCARDING;
}

static __always_inline bool is_bpdu(__u64 mac)
{
	return mac == 0xc28001ULL;
}

/* IEEE 802.1D 7.12.6: 01:80:c2:00:00:01 to 0f end at the next bridge. BPDUs (...:00) pass while there is no STP here.
 */
static __always_inline bool is_link_local(__u64 mac)
{
	__u8 last = mac >> 40;

	return (mac & 0xffffffffffULL) == 0xc28001ULL && last >= 0x01 && last <= 0x0f;
}

static __always_inline bool bridge_filters_bpdus(const struct bridge_config *cfg)
{
	return cfg->bpdu_filters.word[0] | cfg->bpdu_filters.word[1];
}

/* Whether not every port gets a copy of every flood (bridge_is_for()). */
static __always_inline bool bridge_selects(const struct bridge_config *cfg)
{
	return cfg->mdb || bridge_filters_bpdus(cfg);
}

/* No port is held back from getting a copy. */
static __always_inline void bridge_to_all(struct packet *pkt, const struct bridge_config *cfg)
{
	if (bridge_selects(cfg) && pkt->in_skb)
		pkt->receivers[0] = pkt->receivers[1] = ~0ULL;
}

/* But for those that no BPDU leaves by; at XDP each copy is looked at. */
static __always_inline void bridge_bpdu_to_all(struct packet *pkt, const struct bridge_config *cfg)
{
	bridge_to_all(pkt, cfg);
	if (bridge_filters_bpdus(cfg) && pkt->in_skb) {
		pkt->receivers[0] &= ~cfg->bpdu_filters.word[0];
		pkt->receivers[1] &= ~cfg->bpdu_filters.word[1];
	}
}

/*
 * A BPDU is for the control plane. While that gives no sign of life, ports that forward pass it on as well, as a bridge
 * does that knows no spanning tree: so the others hear each other through this one, and find the loops that it is in.
 * Those that a guard is there for are not passed on: nobody would keep a better root behind it from being taken.
 */
static __always_inline __u32 bridge_bpdu(struct packet *pkt, const struct bridge_config *cfg,
					 const struct port_states *states, enum port_state state)
{
	if (port_set_has(cfg->bpdu_filters.word, cfg->port))
		return drop(DROP_LINK_LOCAL);
	if (!states || state != PORT_FORWARDING || cfg->bpdu_guard || cfg->root_guard)
		return slow_path(BRIDGE_BPDU);
	if (bpf_ktime_get_coarse_ns() < states->served_until_ns)
		return slow_path(BRIDGE_BPDU);
	slow_path_copy(pkt, BRIDGE_BPDU); /* it may be late only */
	pkt->tci = 0;
	bridge_bpdu_to_all(pkt, cfg);
	return VERDICT_FLOOD;
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

/*
 * IEEE 802.1Q 6.9.1 and 8.6.2: which VLAN a frame belongs to, from then on in pkt->tci with the frame's own priority. A
 * tag with VID 0 says a priority only; it gets the VLAN written into it.
 */
static __always_inline __u32 bridge_classify(struct packet *pkt, const struct bridge_config *cfg)
{
	__u32 verdict = vlan_parse(pkt), vid = pkt->tci & VLAN_VID_MASK;

	if (verdict != PARSED)
		return verdict;
	if (vid)
		return cfg->admit_tagged && cfg->vlan_egress(cfg->port, vid) != VLAN_ABSENT ? PARSED : drop(DROP_VLAN);
	if (!cfg->pvid)
		return drop(DROP_VLAN);
	pkt->tci |= cfg->pvid;
	return !pkt->tagged || vlan_rewrite(pkt) ? PARSED : drop(DROP_NO_HEADROOM);
}

/* IEEE 802.1Q 8.6.4 and 6.9.2: gives a frame the form in which its VLAN leaves by `port`; PARSED, or the drop. */
static __always_inline __u32 bridge_leave(struct packet *pkt, const struct bridge_config *cfg, __u32 port)
{
	bool done = true;

	switch (cfg->vlan_egress(port, pkt->tci & VLAN_VID_MASK)) {
	case VLAN_TAGGED:
		done = pkt->tagged || vlan_push(pkt);
		break;
	case VLAN_UNTAGGED:
		done = !pkt->tagged || vlan_pop(pkt);
		break;
	default:
		return drop(DROP_VLAN);
	}
	return done ? PARSED : drop(DROP_NO_HEADROOM);
}

/*
 * Whether a copy of a flood is for `port`. At TC the ports are known since the packet came in, at XDP the copy is all
 * that there is.
 */
static __always_inline bool bridge_is_for(struct packet *pkt, const struct bridge_config *cfg, const __u32 port)
{
	const struct port_set *ports;
	struct mdb_key key;
	__u64 destination;

	if (pkt->in_skb)
		return port_set_has(pkt->receivers, port);
	destination = mac_u64(pkt->eth->h_dest);
	if (port_set_has(cfg->bpdu_filters.word, port) && is_bpdu(destination))
		return false;
	if (!cfg->mdb || !is_group_mac(destination) || destination == BROADCAST_MAC)
		return true;
	ports = mdb_lookup(cfg->mdb, cfg->mdb_kept_until, snoop(pkt, cfg->vlan_aware, &key), &key);
	return !ports || port_set_has(ports->word, port);
}

/*
 * A copy of a flood; at XDP it has the tag in the frame, whatever it came with (bridge_flood()). Only a BPDU, which
 * nobody has classified, is of no VLAN.
 */
static __always_inline bool bridge_transmit(struct packet *pkt, const struct bridge_config *cfg, __u32 port)
{
	if (bridge_state(cfg, bridge_states(cfg), port) != PORT_FORWARDING)
		return false;
	if (cfg->vlan_aware && !pkt->in_skb && vlan_parse(pkt) != PARSED)
		return false;
	if (bridge_selects(cfg) && !bridge_is_for(pkt, cfg, port))
		return false;
	if (!cfg->vlan_aware || (cfg->states && !(pkt->tci & VLAN_VID_MASK)))
		return true;
	return bridge_leave(pkt, cfg, port) == PARSED;
}

static __always_inline bool bridge_storms(const struct bridge_config *cfg, const struct bucket_rate *rate,
					  enum storm_sort sort)
{
	const __u32 index = cfg->port * STORM_SORTS + sort;
	__u64 *bucket;

	if (!rate->limited)
		return false;
	bucket = bpf_map_lookup_elem(cfg->storm, &index);
	return bucket && !bucket_take(bucket, rate, bucket_now(rate));
}

static __always_inline __u32 bridge_copies(struct packet *pkt, const struct bridge_config *cfg)
{
	if (cfg->vlan_aware && !pkt->in_skb && !pkt->tagged && !vlan_push(pkt))
		return drop(DROP_NO_HEADROOM);
	return VERDICT_FLOOD;
}

static __always_inline __u32 bridge_flood(struct packet *pkt, const struct bridge_config *cfg,
					  const struct bucket_rate *rate, enum storm_sort sort)
{
	if (bridge_storms(cfg, rate, sort))
		return drop(DROP_STORM);
	bridge_to_all(pkt, cfg);
	return bridge_copies(pkt, cfg);
}

/* To the ports that want it, where that is known: it is no storm then. */
static __always_inline __u32 bridge_multicast(struct packet *pkt, const struct bridge_config *cfg)
{
	const __u32 own = cfg->port / 64;
	const struct port_set *ports;
	struct mdb_key key;
	enum snooped sort;

	if (!cfg->mdb)
		return bridge_flood(pkt, cfg, &cfg->storm_multicast, STORM_MULTICAST);
	sort = snoop(pkt, cfg->vlan_aware, &key);
	if (sort == SNOOPED_REPORT || sort == SNOOPED_CALL) {
		pkt->note = key.vlan;
		slow_path_copy(pkt, BRIDGE_MULTICAST);
	}
	ports = mdb_lookup(cfg->mdb, cfg->mdb_kept_until, sort, &key);
	if (!ports)
		return bridge_flood(pkt, cfg, &cfg->storm_multicast, STORM_MULTICAST);
	pkt->receivers[0] = ports->word[0];
	pkt->receivers[1] = ports->word[1];
	pkt->receivers[own] &= ~(1ULL << cfg->port % 64);
	if (!(pkt->receivers[0] | pkt->receivers[1]))
		return drop(DROP_NO_RECEIVER);
	return bridge_copies(pkt, cfg);
}

static __always_inline __u32 bridge_receive(struct packet *pkt, const struct bridge_config *cfg)
{
	__u64 source = mac_u64(pkt->eth->h_source), destination = mac_u64(pkt->eth->h_dest);
	const struct port_states *states = bridge_states(cfg);
	enum port_state state = bridge_state(cfg, states, cfg->port);
	__u64 now = fdb_ticks(cfg, bpf_jiffies64());
	__u32 home, port, verdict;

	if (cfg->states && is_bpdu(destination))
		return bridge_bpdu(pkt, cfg, states, state);
	if (state == PORT_DISCARDING)
		return drop(DROP_PORT_STATE);
	if (unlikely(is_group_mac(source) || source == 0))
		return drop(DROP_INVALID_SOURCE);
	if (is_group_mac(destination) && is_link_local(destination))
		return drop(DROP_LINK_LOCAL);
	if (cfg->vlan_aware) {
		verdict = bridge_classify(pkt, cfg);
		if (verdict != PARSED)
			return verdict;
	}
	source = fdb_key(pkt, cfg, source);
	home = cfg->static_port ? cfg->static_port(source) : NO_STATIC_PORT;
	verdict = home == NO_STATIC_PORT ? bridge_learn(cfg, source, now) : bridge_at_home(cfg, home);
	if (verdict != PARSED)
		return verdict;
	if (state != PORT_FORWARDING)
		return drop(DROP_PORT_STATE);
	if (destination == BROADCAST_MAC)
		return bridge_flood(pkt, cfg, &cfg->storm_broadcast, STORM_BROADCAST);
	if (is_group_mac(destination))
		return bridge_multicast(pkt, cfg);
	destination = fdb_key(pkt, cfg, destination);
	port = cfg->static_port ? cfg->static_port(destination) : NO_STATIC_PORT;
	if (port == NO_STATIC_PORT)
		port = bridge_static(cfg, destination);
	if (port == NO_STATIC_PORT)
		port = bridge_lookup(cfg, destination, now);
	if (port == VERDICT_FLOOD)
		return bridge_flood(pkt, cfg, &cfg->storm_unknown, STORM_UNKNOWN);
	if (unlikely(port == cfg->port))
		return drop(DROP_SAME_PORT);
	if (bridge_state(cfg, states, port) != PORT_FORWARDING)
		return drop(DROP_PORT_STATE);
	if (cfg->vlan_aware) {
		verdict = bridge_leave(pkt, cfg, port);
		if (verdict != PARSED)
			return verdict;
	}
	return port;
}

#endif
