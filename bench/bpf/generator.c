/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A packet generator for BPF_PROG_TEST_RUN with live frames: UDP in IPv4, sent out of the device that `lane` names.
 * Frames are recycled as the network left them, so every header is written anew each time. The unit is compiled for one
 * kind of traffic: FRAME_BYTES, VLAN_ID (0: untagged), STAMPED (the time of sending goes with the frame), SPREAD (each
 * flow is for a destination of its own).
 */
#include "xdp.h"

#include "frame.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct lane);
	__uint(max_entries, 1);
} lane SEC(".maps");

/* Which flow each frame belongs to, in the order of sending, again and again. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, ORDER_LENGTH);
} order SEC(".maps");

static __always_inline void write_ethernet(struct frame *frame, const struct lane *to, __u32 flow)
{
	__builtin_memcpy(frame->destination, to->destination, ETH_ALEN);
	frame->source_prefix = bpf_htons(SOURCE_MAC_PREFIX);
	frame->source_flow = flow;
#if VLAN_ID
	frame->tpid = bpf_htons(ETH_P_8021Q);
	frame->tci = bpf_htons(VLAN_ID);
#endif
	frame->ethertype = bpf_htons(ETH_P_IP);
}

static __always_inline void write_ip(struct frame *frame, __u32 flow)
{
	const __u32 destination = SPREAD ? spread_destination(flow) : DESTINATION;
	const __u32 source = SOURCE_NETWORK | (flow & SOURCE_MASK), fixed = 0x4500 + IP_BYTES + 0x4000 + 0x4011;
	__u32 sum = fixed + (source >> 16) + (source & 0xffff) + (destination >> 16) + (destination & 0xffff);

	frame->ip = (struct iphdr){
		.version = 4,
		.ihl = 5,
		.tot_len = bpf_htons(IP_BYTES),
		.frag_off = bpf_htons(0x4000),
		.ttl = 64,
		.protocol = IPPROTO_UDP,
		.saddr = bpf_htonl(source),
		.daddr = bpf_htonl(destination),
	};
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	frame->ip.check = bpf_htons(~sum);
}

static __always_inline void write_udp(struct frame *frame, __u32 flow)
{
	frame->source_port = bpf_htons(1024 + (flow >> 20));
	frame->destination_port = bpf_htons(DESTINATION_PORT);
	frame->udp_bytes = bpf_htons(IP_BYTES - sizeof(struct iphdr));
	frame->udp_checksum = 0; /* none: RFC 768 */
}

SEC("xdp")
int generate(struct xdp_md *ctx)
{
	struct frame *frame = (void *)(long)ctx->data;
	__u32 zero = 0, at, *flow;
	struct lane *to = bpf_map_lookup_elem(&lane, &zero);

	if (!to || (void *)(frame + 1) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	at = to->sequence % ORDER_LENGTH;
	flow = bpf_map_lookup_elem(&order, &at);
	if (!flow)
		return XDP_ABORTED;
	write_ethernet(frame, to, *flow);
	write_ip(frame, *flow);
	write_udp(frame, *flow);
	frame->sequence = to->sequence++;
	frame->flow = *flow;
#if STAMPED
	frame->sent_ns = bpf_ktime_get_ns();
#endif
	return bpf_redirect(to->ifindex, 0);
}

char _license[] SEC("license") = "Dual BSD/GPL";
