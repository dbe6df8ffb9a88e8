/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The ddos service as it would be if chains were not compiled: the same functions, but every list is a map of the
 * kernel's (those of addresses LPM tries, since an entry may be a prefix), and whether a feature is on is read from a
 * map. The rate is left out: it has no table to move.
 */
#include "types.h"

struct settings {
	__u32 sources;
	__u32 destinations;
	__u32 protocols;
	__u32 ports;
};

#include "generic.h"

#include "ddos/ddos.bpf.h"

enum {
	ENTRIES = 65536,
	PORT_NUMBERS = 1 << 16,
	PROTOCOLS = 256,
};

#define TRIE(map, key_type)                                                                                            \
	struct {                                                                                                       \
		__uint(type, BPF_MAP_TYPE_LPM_TRIE);                                                                   \
		__type(key, key_type);                                                                                 \
		__type(value, __u32);                                                                                  \
		__uint(max_entries, ENTRIES);                                                                          \
		__uint(map_flags, BPF_F_NO_PREALLOC);                                                                  \
	} map SEC(".maps")

ARRAY(protocols, BPF_MAP_TYPE_ARRAY, __u32, PROTOCOLS);
ARRAY(ports, BPF_MAP_TYPE_ARRAY, __u32, PORT_NUMBERS);
ARRAY(blocked, BPF_MAP_TYPE_PERCPU_ARRAY, struct counter, ENTRIES);
TRIE(sources4, struct ddos_prefix4);
TRIE(destinations4, struct ddos_prefix4);
TRIE(sources6, struct ddos_prefix6);
TRIE(destinations6, struct ddos_prefix6);

static __always_inline __u32 entry(void *map, const void *key)
{
	__u32 *found = bpf_map_lookup_elem(map, key);

	return found ? *found : 0;
}

static __always_inline __u32 entry4(void *trie, __u32 address)
{
	struct ddos_prefix4 key = {.length = 32, .address = bpf_htonl(address)};

	return entry(trie, &key);
}

static __always_inline __u32 entry6(void *trie, __u64 high, __u64 low)
{
	struct ddos_prefix6 key = {.length = 128};

	key.address.u6_addr32[0] = bpf_htonl(high >> 32);
	key.address.u6_addr32[1] = bpf_htonl(high);
	key.address.u6_addr32[2] = bpf_htonl(low >> 32);
	key.address.u6_addr32[3] = bpf_htonl(low);
	return entry(trie, &key);
}

static __always_inline __u32 source4(__u32 address)
{
	const struct settings *setting = read_settings();

	return setting && setting->sources ? entry4(&sources4, address) : 0;
}

static __always_inline __u32 destination4(__u32 address)
{
	const struct settings *setting = read_settings();

	return setting && setting->destinations ? entry4(&destinations4, address) : 0;
}

static __always_inline __u32 source6(__u64 high, __u64 low)
{
	const struct settings *setting = read_settings();

	return setting && setting->sources ? entry6(&sources6, high, low) : 0;
}

static __always_inline __u32 destination6(__u64 high, __u64 low)
{
	const struct settings *setting = read_settings();

	return setting && setting->destinations ? entry6(&destinations6, high, low) : 0;
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

static __always_inline __u32 receive(struct packet *pkt, __u32 port)
{
	const struct ddos_config cfg = {
		.out = !port,
		.source4 = source4,
		.source6 = source6,
		.destination4 = destination4,
		.destination6 = destination6,
		.protocol = protocol,
		.port = transport_port,
		.blocked = &blocked,
	};

	return ddos_receive(pkt, &cfg);
}

SEC(HOOK)
int generic_ddos(CONTEXT *ctx)
{
	return generic_program(ctx, receive);
}

char _license[] SEC("license") = "Dual BSD/GPL";
