/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* How many stations a port may have: they are counted anew when the limit is reached, since entries age unseen. */
#ifndef BPFCHAIN_BRIDGE_QUOTA_H
#define BPFCHAIN_BRIDGE_QUOTA_H

#include "fdb.h"
#include "helpers.h"
#include "types.h"

/*
 * `stations` is never less than there are, but for those that other CPUs learn while one counts: it grows with each
 * that is learned, and falls by counting only. `counted`: the tick when that was last done, plus one; 0: it has to be
 * done before the next station is learned (a new map, or user space has removed entries).
 */
struct quota {
	__u64 stations;
	__u64 counted;
	__u64 refused; /* so many frames of stations that were beyond the limit */
};

/* What counting goes by. It is on the stack, because a callback is a function of its own and knows no constants. */
struct census {
	__u64 port_mask;
	__u64 port; /* as entries have it, under `port_mask` */
	__u64 time_shift;
	__u64 time_mask;
	__u64 soon;   /* the tick after this one */
	__u64 oldest; /* ticks back from there; who was seen earlier has expired */
	__u64 stations;
};

/* The generated callback for bpf_loop(): census_set() with the table. */
typedef long count_set(__u32 number, struct census *census);

static __always_inline long census_set(void *fdb, __u32 number, struct census *census)
{
	struct fdb_set *set = bpf_map_lookup_elem(fdb, &number);

	if (!set)
		return 1;
#pragma unroll
	for (int way = 0; way < FDB_WAYS; way++) {
		__u64 entry = *(const volatile __u64 *)&set->entry[way];
		__u64 idle = (census->soon - (entry >> census->time_shift)) & census->time_mask;

		census->stations += (entry & census->port_mask) == census->port && idle <= census->oldest;
	}
	return 0;
}

/* Once a tick at most, by one CPU: others go on with what they have. */
static __always_inline void quota_count(struct quota *quota, __u32 limit, count_set *count, struct census *census,
					__u32 sets)
{
	__u64 counted = *(volatile __u64 *)&quota->counted, now = census->soon;

	if (counted == now || (counted && *(volatile __u64 *)&quota->stations < limit))
		return;
	if (__sync_val_compare_and_swap(&quota->counted, counted, now) != counted)
		return;
	bpf_loop(sets, count, census, 0);
	*(volatile __u64 *)&quota->stations = census->stations;
}

/* Room for one more station; where it is not learned after all, quota_return() gives it back. */
static __always_inline bool quota_take(struct quota *quota, __u32 limit, count_set *count, struct census *census,
				       __u32 sets)
{
	quota_count(quota, limit, count, census, sets);
	if (__sync_fetch_and_add(&quota->stations, 1) < limit)
		return true;
	__sync_fetch_and_add(&quota->stations, -1);
	__sync_fetch_and_add(&quota->refused, 1);
	return false;
}

static __always_inline void quota_return(struct quota *quota)
{
	__sync_fetch_and_add(&quota->stations, -1);
}

#endif
