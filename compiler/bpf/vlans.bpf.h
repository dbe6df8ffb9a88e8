/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Interfaces that share a device by VLAN tags: a frame from the device goes to the interface of its VLAN, without the
 * tag, and a frame from an interface to the device, with it.
 */
#ifndef BPFCHAIN_VLANS_BPF_H
#define BPFCHAIN_VLANS_BPF_H

#include "packet.h"
#include "verdict.h"
#include "vlan.h"

enum {
	NO_INTERFACE = 0xffff,
};

struct vlans_config {
	bool sorts;     /* frames come from the device; the rest of this is: */
	__u32 untagged; /* verdict on frames that belong to no VLAN */
	__u32 others;   /* verdict on frames of a VLAN that has no interface */
	__u32 (*port_of)(__u32 vid);

	__u32 vid;    /* frames come from an interface: its tag, 0 if it has none */
	__u32 device; /* port to leave by */
};

static __always_inline __u32 vlans_sort(struct packet *pkt, const struct vlans_config *cfg)
{
	__u32 verdict = vlan_parse(pkt), vid = pkt->tci & VLAN_VID_MASK, port;

	if (verdict != PARSED)
		return verdict;
	if (!vid)
		return cfg->untagged;
	port = cfg->port_of(vid);
	if (port == NO_INTERFACE)
		return cfg->others;
	return vlan_pop(pkt) ? port : drop(DROP_NO_HEADROOM);
}

static __always_inline __u32 vlans_receive(struct packet *pkt, const struct vlans_config *cfg)
{
	if (cfg->sorts)
		return vlans_sort(pkt, cfg);
	pkt->tci = cfg->vid;
	return !cfg->vid || vlan_push(pkt) ? cfg->device : drop(DROP_NO_HEADROOM);
}

#endif
