/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The ddos service as it would be if chains were not compiled: the same functions, but every list is a map, and whether
 * a feature is on is read from a map. The rate is left out: it has no table to move.
 */
#include "xdp.h"

#include "ddos/ddos.bpf.h"

enum {
	DEVICES = 1024,
	PORTS = 2,
	ENTRIES = 65536,
	PORT_NUMBERS = 1 << 16,
	PROTOCOLS = 256,
};

struct settings {
	__u32 sources;
	__u32 destinations;
	__u32 protocols;
	__u32 ports;
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
#define HASH(map, key_type)                                                                                            \
	struct {                                                                                                       \
		__uint(type, BPF_MAP_TYPE_HASH);                                                                       \
		__type(key, key_type);                                                                                 \
		__type(value, __u32);                                                                                  \
		__uint(max_entries, ENTRIES);                                                                          \
	} map SEC(".maps")

struct address6 {
	__u64 high;
	__u64 low;
};

ARRAY(settings, BPF_MAP_TYPE_ARRAY, struct settings, 1);
ARRAY(port_of_device, BPF_MAP_TYPE_ARRAY, __u32, DEVICES);
ARRAY(protocols, BPF_MAP_TYPE_ARRAY, __u32, PROTOCOLS);
ARRAY(ports, BPF_MAP_TYPE_ARRAY, __u32, PORT_NUMBERS);
ARRAY(blocked, BPF_MAP_TYPE_PERCPU_ARRAY, struct counter, ENTRIES);
ARRAY(port_counters, BPF_MAP_TYPE_PERCPU_ARRAY, struct counters, PORTS);
HASH(sources4, __u32);
HASH(destinations4, __u32);
HASH(sources6, struct address6);
HASH(destinations6, struct address6);

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(key_size, 4);
	__uint(value_size, 8);
	__uint(max_entries, PORTS);
} tx SEC(".maps");

static __always_inline const struct settings *read_settings(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&settings, &zero);
}

static __always_inline __u32 entry(void *map, const void *key)
{
	__u32 *found = bpf_map_lookup_elem(map, key);

	return found ? *found : 0;
}

static __always_inline __u32 source4(__u32 address)
{
	const struct settings *setting = read_settings();

	return setting && setting->sources ? entry(&sources4, &address) : 0;
}

static __always_inline __u32 destination4(__u32 address)
{
	const struct settings *setting = read_settings();

	return setting && setting->destinations ? entry(&destinations4, &address) : 0;
}

static __always_inline __u32 source6(__u64 high, __u64 low)
{
	const struct settings *setting = read_settings();
	struct address6 address = {high, low};

	return setting && setting->sources ? entry(&sources6, &address) : 0;
}

static __always_inline __u32 destination6(__u64 high, __u64 low)
{
	const struct settings *setting = read_settings();
	struct address6 address = {high, low};

	return setting && setting->destinations ? entry(&destinations6, &address) : 0;
}

static __always_inline __u32 protocol(__u32 number)
{
	const struct settings *setting = read_settings();

	return setting && setting->protocols ? entry(&protocols, &number) : 0;
}

static __always_inline __u32 transport_port(__u32 carried_by, __u32 number)
{
	const struct settings *setting = read_settings();

	(void)carried_by;
	return setting && setting->ports ? entry(&ports, &number) : 0;
}

SEC("xdp")
int generic_ddos(struct xdp_md *ctx)
{
	__u32 device = ctx->ingress_ifindex, verdict, *port;
	struct counters *counters;
	struct packet pkt;

	port = bpf_map_lookup_elem(&port_of_device, &device);
	if (!port)
		return XDP_DROP;
	counters = bpf_map_lookup_elem(&port_counters, port);
	if (!counters)
		return XDP_DROP;
	if (packet_open(&pkt, ctx)) {
		const struct ddos_config cfg = {
			.out = !*port,
			.source4 = source4,
			.source6 = source6,
			.destination4 = destination4,
			.destination6 = destination6,
			.protocol = protocol,
			.port = transport_port,
			.blocked = &blocked,
		};

		verdict = ddos_receive(&pkt, &cfg);
	} else {
		verdict = drop(DROP_TRUNCATED);
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
