/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The probe service, for tests of the slow path: frames of one EtherType go up, of another a copy goes up while they go
 * on, all others go on. The first byte behind the Ethernet header, or behind one tag, is the reason, the next the note.
 */
#ifndef PROBE_BPF_H
#define PROBE_BPF_H

#include "packet.h"
#include "parse.h"
#include "verdict.h"

enum {
	PROBE_UP = 0x88b6,
	PROBE_COPY = 0x88b7,
};

struct probe_config {
	__u32 out;  /* port to leave by */
	bool all;   /* IPv4 goes up, whatever is in it, */
	__u32 note; /* with this note */
};

struct probe_header {
	__u8 reason;
	__u8 note;
};

static __always_inline __u32 probe_receive(struct packet *pkt, const struct probe_config *cfg)
{
	struct cursor cursor = cursor_after_eth(pkt);
	__be16 type = pkt->eth->h_proto;
	struct probe_header *probe;
	struct vlan_hdr *tag;

	if (type == bpf_htons(ETH_P_8021Q)) {
		tag = cursor_take(&cursor, sizeof(*tag));
		if (!tag)
			return drop(DROP_TRUNCATED);
		type = tag->h_vlan_encapsulated_proto;
	}
	if (cfg->all && type == bpf_htons(ETH_P_IP)) {
		pkt->note = cfg->note;
		return slow_path(0);
	}
	probe = cursor_take(&cursor, sizeof(*probe));
	if (!probe)
		return cfg->out;
	pkt->note = probe->note;
	if (type == bpf_htons(PROBE_UP))
		return slow_path(probe->reason & 1);
	if (type == bpf_htons(PROBE_COPY))
		slow_path_copy(pkt, probe->reason & 1);
	return cfg->out;
}

#endif
