/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The bridge as it would be if chains were not compiled: one program for every port of every bridge. Settings of the
 * bridge and of its ports are read from maps, VLAN filtering and port states of the spanning tree are in and looked at
 * for each packet, and the filtering database is a hash map of the kernel's. It is as sparing of writes and clocks as
 * the compiled one.
 */
#include "types.h"

struct settings {
	__u32 aging_s;
	__u32 hz;
	__u32 vlan_filtering;
	__u32 spanning_tree;
};

#include "generic.h"

enum {
	STATIONS = 131072, /* as many entries as the compiled bridge makes for 65,536 */
	VLAN_IDS = 4096,
	VLAN_ID_MASK = 0xfff,
	STATIC = 1,
};

enum port_state { /* IEEE 802.1D-2004 17.5 */
	FORWARDING,
	LEARNING,
	DISCARDING,
};

struct port_settings {
	__u32 state;
	__u32 native_vlan;
	__u64 vlans[VLAN_IDS / 64];
};

struct station {
	__u32 port;
	__u32 seen; /* jiffies */
	__u32 flags;
	__u32 unused;
};

ARRAY(port_settings, BPF_MAP_TYPE_ARRAY, struct port_settings, PORTS);

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u64); /* address and VLAN */
	__type(value, struct station);
	__uint(max_entries, STATIONS);
} stations SEC(".maps");

/* The VLAN of a frame; at TC the outermost tag is in the skb, which a bridge that is not compiled has to know, too. */
static __always_inline __u32 vlan_of(const struct packet *pkt, const struct port_settings *port)
{
	const struct vlan_hdr *tag = (void *)(pkt->eth + 1);

#if AT_TC
	const struct __sk_buff *skb = pkt->ctx;

	if (skb->vlan_present)
		return skb->vlan_tci & VLAN_ID_MASK;
#endif
	if (pkt->eth->h_proto != bpf_htons(ETH_P_8021Q) || (void *)(tag + 1) > pkt->end)
		return port->native_vlan;
	return bpf_ntohs(tag->h_vlan_TCI) & VLAN_ID_MASK;
}

static __always_inline bool carries(const struct port_settings *port, __u32 vlan)
{
	return port->vlans[vlan / 64 % (VLAN_IDS / 64)] >> (vlan & 63) & 1;
}

static __always_inline void learn(const struct settings *setting, __u64 source, __u32 port, __u32 now)
{
	struct station *known = bpf_map_lookup_elem(&stations, &source);
	struct station seen = {.port = port, .seen = now};

	if (!known) {
		bpf_map_update_elem(&stations, &source, &seen, BPF_NOEXIST);
		return;
	}
	if (known->flags & STATIC)
		return;
	if (unlikely(known->port != port))
		known->port = port;
	if (unlikely(now - known->seen >= setting->hz))
		known->seen = now;
}

static __always_inline __u32 look_up(const struct settings *setting, __u64 destination, __u32 from, __u32 vlan,
				     __u32 now)
{
	const struct station *known = bpf_map_lookup_elem(&stations, &destination);
	const struct port_settings *to;
	__u32 port;

	if (!known || (!(known->flags & STATIC) && now - known->seen > setting->aging_s * setting->hz))
		return VERDICT_FLOOD;
	port = known->port;
	if (port == from)
		return drop(DROP_SAME_PORT);
	to = bpf_map_lookup_elem(&port_settings, &port);
	if (!to || (setting->spanning_tree && to->state != FORWARDING) ||
	    (setting->vlan_filtering && !carries(to, vlan)))
		return drop(DROP_NO_RECEIVER);
	return port;
}

static __always_inline bool is_link_local(__u64 mac)
{
	return (mac & 0xf0ffffffffffULL) == 0xc28001ULL;
}

static __always_inline __u32 receive(struct packet *pkt, __u32 from)
{
	__u64 source = mac_u64(pkt->eth->h_source), destination = mac_u64(pkt->eth->h_dest);
	const struct port_settings *port = bpf_map_lookup_elem(&port_settings, &from);
	const struct settings *setting = read_settings();
	__u32 now = bpf_jiffies64(), vlan = 0;

	if (!setting || !port)
		return drop(DROP_NO_RECEIVER);
	if (unlikely(is_group_mac(source) || source == 0))
		return drop(DROP_INVALID_SOURCE);
	if (is_link_local(destination))
		return setting->spanning_tree ? VERDICT_HOST : drop(DROP_LINK_LOCAL);
	if (setting->spanning_tree && port->state == DISCARDING)
		return drop(DROP_NO_RECEIVER);
	if (setting->vlan_filtering) {
		vlan = vlan_of(pkt, port);
		if (!carries(port, vlan))
			return drop(DROP_NO_RECEIVER);
	}
	learn(setting, source | (__u64)vlan << 48, from, now);
	if (setting->spanning_tree && port->state == LEARNING)
		return drop(DROP_NO_RECEIVER);
	if (is_group_mac(destination))
		return VERDICT_FLOOD;
	return look_up(setting, destination | (__u64)vlan << 48, from, vlan, now);
}

SEC(HOOK)
int generic_bridge(CONTEXT *ctx)
{
	return generic_program(ctx, receive);
}

char _license[] SEC("license") = "Dual BSD/GPL";
