/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A transparent filter against floods, after the DDoS mitigator of Miano et al., "Creating Complex Network Services
 * with eBPF" (HPSR 2018): block lists of addresses, protocols and ports, and a packet rate for each source.
 *
 * A null field is a feature that is off. Checks come in the order of the headers, so the first that fails names the
 * reason: source, destination, protocol, port, rate. Whatever is not IP passes.
 */
#ifndef BPFCHAIN_DDOS_H
#define BPFCHAIN_DDOS_H

#include "bucket.h"
#include "counters.h"
#include "helpers.h"
#include "packet.h"
#include "parse.h"
#include "verdict.h"

#define DDOS_NEAR_HASH 0x9e3779b1U          /* 2^32 divided by the golden ratio */
#define DDOS_SET_HASH 0x9e3779b97f4a7c15ULL /* 2^64 divided by the golden ratio */

enum {
	DDOS_WAYS = 4,
	DDOS_NEAR_SLOTS = 1 << 16,
};

struct ddos_config {
	__u32 out; /* the other port */

	/* Lists that are code. They return 0, or 1 + the element of `blocked` that counts the entry. Host byte order.
	 */
	__u32 (*source4)(__u32 address);
	__u32 (*source6)(__u64 high, __u64 low);
	__u32 (*destination4)(__u32 address);
	__u32 (*destination6)(__u64 high, __u64 low);
	__u32 (*protocol)(__u32 protocol);
	__u32 (*port)(__u32 protocol, __u32 port);
	__u32 (*source_port)(__u32 protocol, __u32 port);
	void *blocked; /* per-CPU array of struct counter */

	/* Lists that are LPM tries: the value is the entry's struct counter. Each has a struct ddos_near. */
	void *sources4;
	void *sources6;
	void *destinations4;
	void *destinations6;
	void *near_sources4;
	void *near_sources6;
	void *near_destinations4;
	void *near_destinations6;

	/* Buckets of IPv4 addresses and of IPv6 /64s: arrays of struct ddos_set. */
	void *buckets4;
	void *buckets6;
	__u32 rate_set_bits; /* the arrays have 2^rate_set_bits sets */
	struct bucket_rate rate;
};

struct ddos_prefix4 {
	__u32 length;
	__be32 address;
};

struct ddos_prefix6 {
	__u32 length;
	struct in6_addr address;
};

/*
 * A bit for each slot of addresses: 0 if no entry of the trie has an address there. Almost all traffic is near no entry
 * and never pays for the trie. lists.py has the same slots: an IPv4 address's first 16 bits, a hash of the first 32 of
 * an IPv6 address.
 */
struct ddos_near {
	__u64 words[DDOS_NEAR_SLOTS / 64];
};

/* A source's bucket (bucket.h): one whose `due` has passed is full, the same as none. */
struct ddos_bucket {
	__u64 source;
	__u64 due;
};

/* The buckets of all sources with one hash: a cache line. What an LRU hash map would cost three or four misses for. */
struct ddos_set {
	struct ddos_bucket ways[DDOS_WAYS];
};

/* True if `found` is an entry of a list that is code; counts it there. */
static __always_inline bool ddos_listed(const struct packet *pkt, const struct ddos_config *cfg, __u32 found)
{
	struct counter *counter;
	__u32 index = found - 1;

	if (likely(!found))
		return false;
	counter = bpf_map_lookup_elem(cfg->blocked, &index);
	if (counter)
		count(counter, pkt->bytes);
	return true;
}

static __always_inline bool ddos_is_near(void *near, __u16 slot)
{
	__u32 first = 0;
	const struct ddos_near *set = bpf_map_lookup_elem(near, &first);

	return !set || set->words[slot >> 6] >> (slot & 63) & 1;
}

/* True if the trie has a prefix of the address; counts it there, for all CPUs together. */
static __always_inline bool ddos_in_trie(const struct packet *pkt, void *trie, const void *key)
{
	struct counter *counter = bpf_map_lookup_elem(trie, key);

	if (!counter)
		return false;
	__sync_fetch_and_add(&counter->packets, 1);
	__sync_fetch_and_add(&counter->bytes, pkt->bytes);
	return true;
}

static __always_inline bool ddos_in_trie4(const struct packet *pkt, void *trie, void *near, __be32 address)
{
	struct ddos_prefix4 key = {.length = 32, .address = address};

	if (likely(!ddos_is_near(near, bpf_ntohl(address) >> 16)))
		return false;
	return ddos_in_trie(pkt, trie, &key);
}

static __always_inline bool ddos_in_trie6(const struct packet *pkt, void *trie, void *near,
					  const struct in6_addr *address)
{
	struct ddos_prefix6 key;

	if (likely(!ddos_is_near(near, bpf_ntohl(address->u6_addr32[0]) * DDOS_NEAR_HASH >> 16)))
		return false;
	key.length = 128;
	key.address = *address;
	return ddos_in_trie(pkt, trie, &key);
}

static __always_inline __u64 ddos_high(const struct in6_addr *address)
{
	return (__u64)bpf_ntohl(address->u6_addr32[0]) << 32 | bpf_ntohl(address->u6_addr32[1]);
}

static __always_inline __u64 ddos_low(const struct in6_addr *address)
{
	return (__u64)bpf_ntohl(address->u6_addr32[2]) << 32 | bpf_ntohl(address->u6_addr32[3]);
}

/*
 * The bucket of `source`: its own, or else the one longest due, which changes hands. Mostly that one is full and
 * nothing is lost; if not, more sources send than are remembered, and the one that it belonged to gets a new start too.
 * NULL if another CPU was faster at giving it away.
 */
static __always_inline struct ddos_bucket *ddos_bucket_of(struct ddos_set *set, __u64 source, __u64 now)
{
	struct ddos_bucket *oldest = &set->ways[0];
	__u64 owner;

#pragma unroll
	for (int i = 0; i < DDOS_WAYS; i++) {
		struct ddos_bucket *way = &set->ways[i];

		if (*(volatile __u64 *)&way->source == source)
			return way;
		if (way->due < oldest->due)
			oldest = way;
	}
	owner = oldest->source;
	owner = __sync_val_compare_and_swap(&oldest->source, owner, source) == owner ? source : oldest->source;
	if (owner != source)
		return NULL;
	if (oldest->due > now)
		oldest->due = now;
	return oldest;
}

static __always_inline bool ddos_too_fast(const struct ddos_config *cfg, void *buckets, __u64 source)
{
	__u64 now = bucket_now(&cfg->rate);
	__u32 index = (source ^ source >> 32) * DDOS_SET_HASH >> (64 - cfg->rate_set_bits);
	struct ddos_set *set = bpf_map_lookup_elem(buckets, &index);
	struct ddos_bucket *bucket;

	if (!set)
		return false; /* cannot be: the index has only as many bits as the array has sets */
	bucket = ddos_bucket_of(set, source, now);
	if (!bucket)
		return false; /* rather let one pass than cut off a source that did nothing */
	return !bucket_take(&bucket->due, &cfg->rate, now);
}

static __always_inline bool ddos_filters_ports(const struct ddos_config *cfg)
{
	return cfg->port || cfg->source_port;
}

static __always_inline bool ddos_filters_payload(const struct ddos_config *cfg)
{
	return cfg->protocol || ddos_filters_ports(cfg);
}

static __always_inline bool ddos_filters_ipv4(const struct ddos_config *cfg)
{
	return cfg->source4 || cfg->destination4 || cfg->sources4 || cfg->destinations4 || cfg->buckets4 ||
	       ddos_filters_payload(cfg);
}

static __always_inline bool ddos_filters_ipv6(const struct ddos_config *cfg)
{
	return cfg->source6 || cfg->destination6 || cfg->sources6 || cfg->destinations6 || cfg->buckets6 ||
	       ddos_filters_payload(cfg);
}

static __always_inline __u32 ddos_check_ports(const struct packet *pkt, const struct ddos_config *cfg,
					      struct cursor *cursor, struct ip_payload *payload)
{
	const struct transport_ports *ports;
	__u32 verdict;

	if (payload->fragment_at || !has_ports(payload->protocol))
		return PARSED;
	verdict = parse_ports(cursor, payload, &ports);
	if (verdict != PARSED)
		return verdict;
	if (cfg->port && ddos_listed(pkt, cfg, cfg->port(payload->protocol, bpf_ntohs(ports->destination))))
		return drop(DROP_BLOCKED_PORT);
	if (cfg->source_port && ddos_listed(pkt, cfg, cfg->source_port(payload->protocol, bpf_ntohs(ports->source))))
		return drop(DROP_BLOCKED_PORT);
	return PARSED;
}

/* From the fixed header on: every protocol number of the header chain is checked, then the ports behind it. */
static __always_inline __u32 ddos_check_payload(const struct packet *pkt, const struct ddos_config *cfg,
						struct cursor *cursor, struct ip_payload *payload, bool ipv6)
{
	for (int passed = 0; passed <= MAX_EXTENSION_HEADERS; passed++) {
		__u32 verdict;

		if (cfg->protocol && ddos_listed(pkt, cfg, cfg->protocol(payload->protocol)))
			return drop(DROP_BLOCKED_PROTOCOL);
		if (likely(payload->fragment_at || !is_extension_header(payload->protocol, ipv6)))
			return ddos_filters_ports(cfg) ? ddos_check_ports(pkt, cfg, cursor, payload) : PARSED;
		if (passed == MAX_EXTENSION_HEADERS)
			break;
		verdict = parse_extension_header(cursor, payload);
		if (verdict != PARSED)
			return verdict;
	}
	return drop(DROP_EXTENSION_HEADERS);
}

static __always_inline __u32 ddos_check_ipv4(const struct packet *pkt, const struct ddos_config *cfg,
					     struct cursor *cursor)
{
	struct ip_payload payload;
	const struct iphdr *ip;
	__u32 verdict = parse_ipv4(pkt, cursor, &ip, &payload);

	if (verdict != PARSED)
		return verdict;
	if (cfg->source4 && ddos_listed(pkt, cfg, cfg->source4(bpf_ntohl(ip->saddr))))
		return drop(DROP_BLOCKED_SOURCE);
	if (cfg->sources4 && ddos_in_trie4(pkt, cfg->sources4, cfg->near_sources4, ip->saddr))
		return drop(DROP_BLOCKED_SOURCE);
	if (cfg->destination4 && ddos_listed(pkt, cfg, cfg->destination4(bpf_ntohl(ip->daddr))))
		return drop(DROP_BLOCKED_DESTINATION);
	if (cfg->destinations4 && ddos_in_trie4(pkt, cfg->destinations4, cfg->near_destinations4, ip->daddr))
		return drop(DROP_BLOCKED_DESTINATION);
	if (ddos_filters_payload(cfg)) {
		verdict = parse_ipv4_payload(cursor, ip, &payload);
		if (verdict == PARSED)
			verdict = ddos_check_payload(pkt, cfg, cursor, &payload, false);
		if (verdict != PARSED)
			return verdict;
	}
	if (cfg->buckets4 && ddos_too_fast(cfg, cfg->buckets4, ip->saddr))
		return drop(DROP_RATE);
	return cfg->out;
}

static __always_inline __u32 ddos_check_ipv6(const struct packet *pkt, const struct ddos_config *cfg,
					     struct cursor *cursor)
{
	struct ip_payload payload;
	const struct ipv6hdr *ip;
	__u32 verdict = parse_ipv6(pkt, cursor, &ip, &payload);

	if (verdict != PARSED)
		return verdict;
	if (cfg->source6 && ddos_listed(pkt, cfg, cfg->source6(ddos_high(&ip->saddr), ddos_low(&ip->saddr))))
		return drop(DROP_BLOCKED_SOURCE);
	if (cfg->sources6 && ddos_in_trie6(pkt, cfg->sources6, cfg->near_sources6, &ip->saddr))
		return drop(DROP_BLOCKED_SOURCE);
	if (cfg->destination6 && ddos_listed(pkt, cfg, cfg->destination6(ddos_high(&ip->daddr), ddos_low(&ip->daddr))))
		return drop(DROP_BLOCKED_DESTINATION);
	if (cfg->destinations6 && ddos_in_trie6(pkt, cfg->destinations6, cfg->near_destinations6, &ip->daddr))
		return drop(DROP_BLOCKED_DESTINATION);
	if (ddos_filters_payload(cfg)) {
		verdict = ddos_check_payload(pkt, cfg, cursor, &payload, true);
		if (verdict != PARSED)
			return verdict;
	}
	/* A host owns its /64 and can send from all of it. */
	if (cfg->buckets6 && ddos_too_fast(cfg, cfg->buckets6, ddos_high(&ip->saddr)))
		return drop(DROP_RATE);
	return cfg->out;
}

static __always_inline __u32 ddos_receive(struct packet *pkt, const struct ddos_config *cfg)
{
	struct cursor cursor = cursor_after_eth(pkt);
	__be16 ethertype;
	__u32 verdict;

	if (!ddos_filters_ipv4(cfg) && !ddos_filters_ipv6(cfg))
		return cfg->out;
	verdict = parse_tags(pkt, &cursor, &ethertype);
	if (verdict != PARSED)
		return verdict;
	if (ddos_filters_ipv4(cfg) && ethertype == bpf_htons(ETH_P_IP))
		return ddos_check_ipv4(pkt, cfg, &cursor);
	if (ddos_filters_ipv6(cfg) && ethertype == bpf_htons(ETH_P_IPV6))
		return ddos_check_ipv6(pkt, cfg, &cursor);
	return cfg->out;
}

#endif
