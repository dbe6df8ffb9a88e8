/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Where frames end: `sink_count` only counts, `sink_check` looks at each flow's order and at every byte that must not
 * change, `sink_latency` makes a histogram of how long stamped frames took.
 */
#include "xdp.h"

#include "frame.h"

enum {
	LATENCY_BUCKETS = 4096,
	LATENCY_STEP_NS = 16,
	FLOWS = 65536,
};

struct arrived {
	__u64 packets;
	__u64 bytes;
	__u64 out_of_order;
	__u64 damaged;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct arrived);
	__uint(max_entries, 1);
} arrivals SEC(".maps");

struct flow_arrivals {
	__u64 packets;
	__u64 last;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u32);
	__type(value, struct flow_arrivals);
	__uint(max_entries, FLOWS);
} flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, LATENCY_BUCKETS);
} latencies SEC(".maps");

static __always_inline struct arrived *count_arrival(struct xdp_md *ctx)
{
	__u32 zero = 0;
	struct arrived *arrived = bpf_map_lookup_elem(&arrivals, &zero);

	if (arrived) {
		arrived->packets++;
		arrived->bytes += ctx->data_end - ctx->data;
	}
	return arrived;
}

SEC("xdp")
int sink_count(struct xdp_md *ctx)
{
	count_arrival(ctx);
	return XDP_DROP;
}

/* Behind the addresses, which nobody looks at here, a tagged frame is as one without that begins a tag later. */
static __always_inline const struct frame *behind_tag(const struct frame *frame)
{
	return frame->ethertype == bpf_htons(ETH_P_8021Q) ? (const void *)frame + sizeof(struct vlan_hdr) : frame;
}

/*
 * A router may write the Ethernet addresses, time to live and checksum, a NAT the source as well, a bridge the tag; all
 * else is as sent.
 */
static __always_inline bool is_damaged(const struct frame *frame)
{
	__u32 destination = bpf_ntohl(frame->ip.daddr);

	return frame->ethertype != bpf_htons(ETH_P_IP) || frame->ip.tot_len != bpf_htons(IP_BYTES) ||
	       (destination != DESTINATION && destination != spread_destination(frame->flow)) ||
	       frame->destination_port != bpf_htons(DESTINATION_PORT);
}

static __always_inline void check_order(struct arrived *arrived, const struct frame *frame, __u32 flow)
{
	struct flow_arrivals *known = bpf_map_lookup_elem(&flows, &flow),
			     first = {.packets = 1, .last = frame->sequence};

	if (!known) {
		bpf_map_update_elem(&flows, &flow, &first, BPF_NOEXIST);
		return;
	}
	known->packets++;
	if (frame->sequence <= known->last)
		arrived->out_of_order++;
	known->last = frame->sequence;
}

SEC("xdp")
int sink_check(struct xdp_md *ctx)
{
	struct arrived *arrived = count_arrival(ctx);
	const struct frame *frame = (void *)(long)ctx->data;
	__u32 flow;

	if (!arrived)
		return XDP_DROP;
	if ((void *)(frame + 1) <= (void *)(long)ctx->data_end)
		frame = behind_tag(frame);
	if ((void *)(frame + 1) > (void *)(long)ctx->data_end) {
		arrived->damaged++;
		return XDP_DROP;
	}
	flow = frame->flow;
	if (is_damaged(frame))
		arrived->damaged++;
	else
		check_order(arrived, frame, flow);
	return XDP_DROP;
}

SEC("xdp")
int sink_latency(struct xdp_md *ctx)
{
	const struct frame *frame = (void *)(long)ctx->data;
	__u32 now = bpf_ktime_get_ns(), index;
	__u64 *bucket;

	count_arrival(ctx);
	if ((void *)(frame + 1) <= (void *)(long)ctx->data_end)
		frame = behind_tag(frame);
	if ((void *)(frame + 1) > (void *)(long)ctx->data_end)
		return XDP_DROP;
	index = (now - frame->sent_ns) / LATENCY_STEP_NS;
	if (index >= LATENCY_BUCKETS)
		index = LATENCY_BUCKETS - 1;
	bucket = bpf_map_lookup_elem(&latencies, &index);
	if (bucket)
		(*bucket)++;
	return XDP_DROP;
}

char _license[] SEC("license") = "Dual BSD/GPL";
