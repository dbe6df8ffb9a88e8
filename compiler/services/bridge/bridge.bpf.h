/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A learning bridge after IEEE 802.1D: where a station is, is learned from the source addresses it sends with; frames
 * for a known station go to its port, all others to every port but the one they came from.
 */
#ifndef BPFCHAIN_BRIDGE_H
#define BPFCHAIN_BRIDGE_H

#include "bucket.h"
#include "config.h"
#include "helpers.h"
#include "learning.h"
#include "multicast.h"
#include "packet.h"
#include "verdict.h"
#include "vlan.h"

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

static const __u64 BROADCAST_MAC = 0xffffffffffffULL;

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
