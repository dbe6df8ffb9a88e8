/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Token buckets that all CPUs share: at most a rate, and a burst at once. */
#ifndef BPFCHAIN_BUCKET_H
#define BPFCHAIN_BUCKET_H

#include "helpers.h"
#include "types.h"

enum {
	BUCKET_TIME_SHIFT = 4, /* time is in sixteenths of a nanosecond: exact to 0.1 % up to 10 Mpps */
	/* Tries at moving a bucket that other CPUs move too; each one that fails has let another packet through. */
	BUCKET_ATTEMPTS = 8,
};

/*
 * `interval`: between two packets at the full rate. `tolerance`: how far a burst may run ahead, (burst - 1) intervals.
 * compiler/bucket.py fills it in.
 */
struct bucket_rate {
	bool limited; /* false: any rate will do */
	__u64 interval;
	__u64 tolerance;
	bool coarse; /* the clock that ticks with the kernel is fine enough */
};

/*
 * Two seconds: further ahead of its tolerance no rate gets a bucket (an interval is a second at most), and no two CPUs'
 * clocks. It was filled under another rate, before a reload, and goes on as one that has room for a single packet.
 */
static const __u64 BUCKET_STRANGE = 1ULL << (31 + BUCKET_TIME_SHIFT);

static __always_inline __u64 bucket_now(const struct bucket_rate *rate)
{
	return (rate->coarse ? bpf_ktime_get_coarse_ns() : bpf_ktime_get_ns()) << BUCKET_TIME_SHIFT;
}

/*
 * The generic cell rate algorithm (ITU-T I.371), a token bucket in one word. `due` is when the next packet would come
 * if the rate were kept exactly, and all there is to know: a bucket whose `due` has passed is full. It is exact,
 * because it is moved by compare-and-swap. True if the packet may pass.
 */
static __always_inline bool bucket_take(__u64 *bucket, const struct bucket_rate *rate, __u64 now)
{
	for (int attempt = 0; attempt < BUCKET_ATTEMPTS; attempt++) {
		__u64 seen = *(volatile __u64 *)bucket;
		__u64 due = (__s64)(seen - now) > 0 ? seen : now;

		if (due - now > rate->tolerance + BUCKET_STRANGE)
			due = now + rate->tolerance;
		if (due - now > rate->tolerance)
			return false;
		if (__sync_val_compare_and_swap(bucket, seen, due + rate->interval) == seen)
			return true;
	}
	return false;
}

#endif
