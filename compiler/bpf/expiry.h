/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Expiry without a race: an entry that programs refresh and user space removes. User space puts the keys of old entries
 * into `condemned` (runtime/expiry.py), waits until no program is at work that might not have seen them, and removes
 * those that nobody has refreshed by then. A condemned entry is treated as if it was gone: it is neither refreshed, nor
 * made anew. So nothing that was just refreshed is ever removed.
 */
#ifndef BPFCHAIN_EXPIRY_H
#define BPFCHAIN_EXPIRY_H

#include "helpers.h"
#include "types.h"

/* Whether an entry of this key is about to be removed. Sentences lapse: whoever passed them may have died since. */
static __always_inline bool is_condemned(void *condemned, const void *key)
{
	const __u64 *until_ns = bpf_map_lookup_elem(condemned, key);

	return unlikely(until_ns) && bpf_ktime_get_coarse_ns() < *until_ns;
}

/*
 * Refreshes an entry that was used now, in whatever unit its time has; false if it must be taken for gone. The more
 * coarse the unit, the less it costs: a time that is now already is neither written nor looked up.
 */
static __always_inline bool refresh(void *condemned, const void *key, __u32 *used, __u32 now)
{
	if (*used == now)
		return true;
	if (is_condemned(condemned, key))
		return false;
	*used = now;
	return true;
}

#endif
