/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What services have in common where chains are not compiled: the port of a packet is looked up by its device, where it
 * goes is looked up by its port, and `settings` says which of the features, that are all in, are on. A unit defines
 * struct settings before it includes this, and AT_TC if it is for TC.
 */
#ifndef BPFCHAIN_BENCH_GENERIC_H
#define BPFCHAIN_BENCH_GENERIC_H

#if AT_TC
#include "tc.h"
#define CONTEXT struct __sk_buff
#define HOOK "tc"
#else
#include "xdp.h"
#define CONTEXT struct xdp_md
#define HOOK "xdp"
#endif

enum {
	PORTS = 64,
	CLONED_PORTS = 8, /* at TC a flood goes to these at most */
	DEVICES = 1024,
	COUNTER_FLOOD = PORTS,
	COUNTER_DROPS,
};

struct counters {
	struct counter verdict[COUNTER_DROPS + DROP_REASON_LIMIT];
};

#define ARRAY(map, map_type, element, entries)                                                                         \
	struct {                                                                                                       \
		__uint(type, map_type);                                                                                \
		__type(key, __u32);                                                                                    \
		__type(value, element);                                                                                \
		__uint(max_entries, entries);                                                                          \
	} map SEC(".maps")

#define DEVMAP(map)                                                                                                    \
	struct {                                                                                                       \
		__uint(type, BPF_MAP_TYPE_DEVMAP);                                                                     \
		__uint(key_size, 4);                                                                                   \
		__uint(value_size, 8);                                                                                 \
		__uint(max_entries, PORTS);                                                                            \
	} map SEC(".maps")

ARRAY(settings, BPF_MAP_TYPE_ARRAY, struct settings, 1);
ARRAY(port_of_device, BPF_MAP_TYPE_ARRAY, __u32, DEVICES);
ARRAY(device_of_port, BPF_MAP_TYPE_ARRAY, __u32, PORTS);
ARRAY(port_counters, BPF_MAP_TYPE_PERCPU_ARRAY, struct counters, PORTS);
#if !AT_TC
DEVMAP(tx);
DEVMAP(flood);
#endif

static __always_inline const struct settings *read_settings(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&settings, &zero);
}

#if AT_TC
static __always_inline int send(CONTEXT *ctx __attribute__((unused)), __u32 port)
{
	__u32 *device = bpf_map_lookup_elem(&device_of_port, &port);

	return device ? bpf_redirect(*device, 0) : ACTION_DROP;
}

static __always_inline int send_to_all(CONTEXT *ctx, __u32 but)
{
	for (__u32 port = 0; port < CLONED_PORTS; port++) {
		__u32 key = port, *device = bpf_map_lookup_elem(&device_of_port, &key);

		if (device && *device && port != but)
			bpf_clone_redirect(ctx, *device, 0);
	}
	return ACTION_DROP;
}
#else
static __always_inline int send(CONTEXT *ctx __attribute__((unused)), __u32 port)
{
	return bpf_redirect_map(&tx, port, XDP_DROP);
}

static __always_inline int send_to_all(CONTEXT *ctx __attribute__((unused)), __u32 but __attribute__((unused)))
{
	return bpf_redirect_map(&flood, 0, BPF_F_BROADCAST | BPF_F_EXCLUDE_INGRESS);
}
#endif

static __always_inline int carry_out(CONTEXT *ctx, const struct packet *pkt, struct counters *counters, __u32 port,
				     __u32 verdict)
{
	if (verdict == VERDICT_FLOOD) {
		count(&counters->verdict[COUNTER_FLOOD], pkt->bytes);
		return send_to_all(ctx, port);
	}
	verdict = opaque(verdict);
	if (verdict < PORTS) {
		count(&counters->verdict[verdict], pkt->bytes);
		return send(ctx, verdict);
	}
	count(&counters->verdict[COUNTER_DROPS + verdict % DROP_REASON_LIMIT], pkt->bytes);
	return ACTION_DROP;
}

static __always_inline int generic_program(CONTEXT *ctx, __u32 (*receive)(struct packet *, __u32 port))
{
	__u32 device = ctx->ingress_ifindex, *port = bpf_map_lookup_elem(&port_of_device, &device);
	struct counters *counters;
	struct packet pkt;
	__u32 verdict;

	if (!port)
		return ACTION_DROP;
	counters = bpf_map_lookup_elem(&port_counters, port);
	if (!counters)
		return ACTION_DROP;
	verdict = packet_open(&pkt, ctx) ? receive(&pkt, *port) : drop(DROP_TRUNCATED);
	return carry_out(ctx, &pkt, counters, *port, verdict);
}

#endif
