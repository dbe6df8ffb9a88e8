/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A busy data plane for the test of expiry: entries that are used for a while, idle for a while, and made anew when
 * they are gone. Each life of an entry has a number, under which a witness keeps when the program last refreshed it.
 */
#include "expiry.h"
#include "types.h"

enum {
	KEYS = 64,
	LIVES = 1 << 20,
	IDLE_SHIFT = 20, /* about a millisecond */
};

struct entry {
	__u64 used_ns;
	__u64 life;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u32);
	__type(value, struct entry);
	__uint(max_entries, KEYS);
} entries SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, KEYS);
} condemned SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, LIVES);
} witness SEC(".maps");

static __u64 lives;

static __always_inline void testify(__u64 life, __u64 now)
{
	__u32 index = life % LIVES;
	__u64 *last = bpf_map_lookup_elem(&witness, &index);

	if (last)
		*last = now;
}

SEC("xdp")
int busy(struct xdp_md *ctx __attribute__((unused)))
{
	__u64 now = bpf_ktime_get_ns();
	__u32 key = bpf_get_prandom_u32() % KEYS;
	struct entry *entry, made = {.used_ns = now};

	if (((now >> IDLE_SHIFT) + key) * 0x9e3779b1U & 0x40000000)
		return XDP_DROP; /* this key is idle for now */
	entry = bpf_map_lookup_elem(&entries, &key);
	if (entry && !is_condemned(&condemned, &key)) {
		entry->used_ns = now;
		testify(entry->life, now);
	} else if (!entry && !is_condemned(&condemned, &key)) {
		made.life = ++lives;
		if (!bpf_map_update_elem(&entries, &key, &made, BPF_NOEXIST))
			testify(made.life, now);
	}
	return XDP_DROP;
}

char _license[] SEC("license") = "Dual BSD/GPL";
