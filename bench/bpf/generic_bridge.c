/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The bridge as it would be if chains were not compiled: the same functions, but every setting is read from a map,
 * every feature is in, and the port of a packet is looked up by its device.
 */
#include "xdp.h"

#include "bridge/bridge.bpf.h"

enum {
	PORTS = 64,
	DEVICES = 1024,
	STATIC_ENTRIES = 1024,
	SETS = 16384,
};

struct settings {
	__u32 aging_s;
	__u32 hz;
	__u32 has_static;
	__u32 set_bits;
};

struct counters {
	struct counter verdict[PORTS + 2 + DROP_REASON_LIMIT];
};

#define ARRAY(map, map_type, element, entries)                                                                         \
	struct {                                                                                                       \
		__uint(type, map_type);                                                                                \
		__type(key, __u32);                                                                                    \
		__type(value, element);                                                                                \
		__uint(max_entries, entries);                                                                          \
	} map SEC(".maps")

ARRAY(settings, BPF_MAP_TYPE_ARRAY, struct settings, 1);
ARRAY(port_of_device, BPF_MAP_TYPE_ARRAY, __u32, DEVICES);
ARRAY(fdb, BPF_MAP_TYPE_ARRAY, struct fdb_set, SETS);
ARRAY(port_counters, BPF_MAP_TYPE_PERCPU_ARRAY, struct counters, PORTS);

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u64);
	__type(value, __u32);
	__uint(max_entries, STATIC_ENTRIES);
} static_entries SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(key_size, 4);
	__uint(value_size, 8);
	__uint(max_entries, PORTS);
} tx SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(key_size, 4);
	__uint(value_size, 8);
	__uint(max_entries, PORTS);
} flood SEC(".maps");

static __always_inline __u32 static_port(__u64 mac)
{
	__u32 zero = 0, *port;
	struct settings *setting = bpf_map_lookup_elem(&settings, &zero);

	if (!setting || !setting->has_static)
		return NO_STATIC_PORT;
	port = bpf_map_lookup_elem(&static_entries, &mac);
	return port ? *port : NO_STATIC_PORT;
}

static __always_inline __u32 receive(struct packet *pkt, __u32 port, const struct settings *setting)
{
	const struct bridge_config cfg = {
		.port = port,
		.aging_s = setting->aging_s,
		.set_bits = setting->set_bits,
		.hz = &setting->hz,
		.static_port = static_port,
		.fdb = &fdb,
	};

	return bridge_receive(pkt, &cfg);
}

SEC("xdp")
int generic_bridge(struct xdp_md *ctx)
{
	__u32 zero = 0, device = ctx->ingress_ifindex, verdict, *port;
	struct settings *setting = bpf_map_lookup_elem(&settings, &zero);
	struct counters *counters;
	struct packet pkt;

	port = bpf_map_lookup_elem(&port_of_device, &device);
	if (!setting || !port)
		return XDP_DROP;
	counters = bpf_map_lookup_elem(&port_counters, port);
	if (!counters)
		return XDP_DROP;
	verdict = packet_open(&pkt, ctx) ? receive(&pkt, *port, setting) : drop(DROP_TRUNCATED);
	if (verdict == VERDICT_FLOOD) {
		count(&counters->verdict[PORTS], pkt.bytes);
		return bpf_redirect_map(&flood, 0, BPF_F_BROADCAST | BPF_F_EXCLUDE_INGRESS);
	}
	verdict = opaque(verdict);
	if (verdict < PORTS) {
		count(&counters->verdict[verdict], pkt.bytes);
		return bpf_redirect_map(&tx, verdict, XDP_DROP);
	}
	count(&counters->verdict[PORTS + 2 + verdict % DROP_REASON_LIMIT], pkt.bytes);
	return XDP_DROP;
}

char _license[] SEC("license") = "Dual BSD/GPL";
