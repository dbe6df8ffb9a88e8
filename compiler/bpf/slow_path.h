/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The way up to a service's control plane: the packet as it is now goes, behind a record that says where it was, into
 * the chain's ring buffer (schemas/slow_path.py has the same layout for its reader). A token bucket for each reason and
 * port keeps a flood of one from starving the others, and every copy that was refused is counted.
 */
#ifndef BPFCHAIN_SLOW_PATH_H
#define BPFCHAIN_SLOW_PATH_H

#include "counters.h"
#include "helpers.h"
#include "packet.h"
#include "verdict.h"

#ifndef BPFCHAIN_TC_H
#include "xdp.h" /* a unit has included its hook's header before this one */
#endif

enum {
	SLOW_PATH_FRAME_BYTES =
		9600, /* of a longer frame the beginning is sent: only TC has them, before segmentation */
};

/* What became of a packet that was to go up. */
enum slow_path_fate {
	SLOW_PATH_SENT = 0,
	SLOW_PATH_RATE = 1, /* its reason's bucket was empty */
	SLOW_PATH_FULL = 2, /* no room in the ring: nobody reads it, or not fast enough */
	SLOW_PATH_FATES = 3,
};

struct slow_path_record {
	__u64 time_ns; /* coarse monotonic clock */
	__u32 length;  /* bytes of the frame, of which SLOW_PATH_FRAME_BYTES follow at most */
	__u32 note;    /* what the service left in pkt->note */
	__u16 service; /* index in the manifest */
	__u16 port;    /* index in the service */
	__u16 reason;
	__u16 hook; /* 0 XDP, 1 TC */
};

/* A record with its frame, put together on one CPU: what is copied into the ring has one length then. */
struct slow_path_scratch {
	struct slow_path_record record;
	__u8 frame[SLOW_PATH_FRAME_BYTES];
};

/*
 * What one reason may send up from one port on one CPU, in jiffies; `credit` in shares of a packet, of which one has as
 * many as hz.
 */
struct slow_path_bucket {
	__u64 filled;
	__u64 credit;
	__u64 woken;
};

struct slow_path_config {
	void *ring;
	void *scratch;
	void *buckets;
	void *counters;
	__u64 hz;
	__u64 ring_bytes;
	__u64 rate;  /* packets a second, of one reason from one port on one CPU */
	__u64 burst; /* packets */
	__u16 service;
	__u16 port;
	__u16 reasons; /* of the service */
};

/* Earns what the time since the last packet is worth. */
static __always_inline void slow_path_refill(struct slow_path_bucket *bucket, const struct slow_path_config *cfg,
					     __u64 now, __u64 most)
{
	__u64 earned = (now - bucket->filled) * cfg->rate;

	if (now == bucket->filled)
		return;
	bucket->credit = earned > most - bucket->credit ? most : bucket->credit + earned;
	bucket->filled = now;
}

/* A reason that has used up half of its burst may fill half of the ring: the rest is for those that do not flood. */
static __always_inline bool slow_path_has_room(const struct slow_path_bucket *bucket,
					       const struct slow_path_config *cfg, __u64 most)
{
	return bucket->credit > most / 2 || bpf_ringbuf_query(cfg->ring, BPF_RB_AVAIL_DATA) < cfg->ring_bytes / 2;
}

/*
 * The reader is woken once a jiffy at most; after that it looks by itself for a while (runtime/upcalls.py). A wakeup
 * for each record would cost the packet path 7 to 16 µs.
 */
static __always_inline __u64 slow_path_wakeup(struct slow_path_bucket *bucket, __u64 now)
{
	if (bucket->woken == now)
		return BPF_RB_NO_WAKEUP;
	bucket->woken = now;
	return BPF_RB_FORCE_WAKEUP;
}

static __always_inline bool slow_path_write(const struct packet *pkt, const struct slow_path_config *cfg, __u32 reason,
					    __u64 wakeup)
{
	const __u32 zero = 0;
	struct slow_path_scratch *scratch = bpf_map_lookup_elem(cfg->scratch, &zero);
	__u32 bytes;

	if (!scratch)
		return false;
	bytes = packet_copy(pkt, scratch->frame, SLOW_PATH_FRAME_BYTES);
	if (!bytes)
		return false;
	scratch->record = (struct slow_path_record){
		.time_ns = bpf_ktime_get_coarse_ns(),
		.length = packet_length(pkt),
		.note = pkt->note,
		.service = cfg->service,
		.port = cfg->port,
		.reason = reason,
		.hook = PACKET_HOOK,
	};
	return !bpf_ringbuf_output(cfg->ring, scratch, sizeof(scratch->record) + bytes, wakeup);
}

static __always_inline enum slow_path_fate slow_path_try(const struct packet *pkt, const struct slow_path_config *cfg,
							 __u32 reason)
{
	const __u32 own = cfg->port * cfg->reasons + reason;
	struct slow_path_bucket *bucket = bpf_map_lookup_elem(cfg->buckets, &own);
	__u64 most = cfg->burst * cfg->hz, now = bpf_jiffies64();

	if (!bucket)
		return SLOW_PATH_FULL;
	slow_path_refill(bucket, cfg, now, most);
	if (bucket->credit < cfg->hz)
		return SLOW_PATH_RATE;
	if (!slow_path_has_room(bucket, cfg, most))
		return SLOW_PATH_FULL;
	if (!slow_path_write(pkt, cfg, reason, slow_path_wakeup(bucket, now)))
		return SLOW_PATH_FULL;
	bucket->credit -= cfg->hz;
	return SLOW_PATH_SENT;
}

/* Sends a copy up and counts what became of it, for each reason by itself. */
static __always_inline enum slow_path_fate slow_path_up(const struct packet *pkt, const struct slow_path_config *cfg,
							__u32 reason)
{
	enum slow_path_fate fate = slow_path_try(pkt, cfg, reason);
	__u32 key = reason * SLOW_PATH_FATES + fate;
	struct counter *counter = bpf_map_lookup_elem(cfg->counters, &key);

	if (counter)
		count(counter, pkt->bytes);
	return fate;
}

/* The drop that a packet meets which could not be sent up. */
static __always_inline __u32 slow_path_refused(enum slow_path_fate fate)
{
	return drop(fate == SLOW_PATH_RATE ? DROP_SLOW_PATH_RATE : DROP_SLOW_PATH_FULL);
}

#endif
