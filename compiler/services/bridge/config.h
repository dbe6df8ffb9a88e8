/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What is constant for one port of a bridge, and what its control plane says of all of them. */
#ifndef BPFCHAIN_BRIDGE_CONFIG_H
#define BPFCHAIN_BRIDGE_CONFIG_H

#include "bucket.h"
#include "moves.h"
#include "multicast.h"
#include "quota.h"
#include "types.h"

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

#endif
