/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The bench's frame, and where it is to be sent: generator.c writes it, sink.c reads it, traffic.py has its constants.
 */
#ifndef BPFCHAIN_BENCH_FRAME_H
#define BPFCHAIN_BENCH_FRAME_H

#include "types.h"

#ifndef FRAME_BYTES
#define FRAME_BYTES 60
#define VLAN_ID 0
#define STAMPED 0
#define SPREAD 0
#endif

enum {
	ORDER_LENGTH = 65536,
	SOURCE_MAC_PREFIX = 0x0242,
	SOURCE_NETWORK = 0x0a000000, /* 10.0.0.0/8 */
	SOURCE_MASK = 0x00ffffff,
	DESTINATION_PORT = 9,
};

static const __u32 DESTINATION = 0xc0a80002; /* 192.168.0.2 */

struct frame {
	__u8 destination[ETH_ALEN];
	__be16 source_prefix;
	__u32 source_flow;
#if VLAN_ID
	__be16 tpid;
	__be16 tci;
#endif
	__be16 ethertype;
	struct iphdr ip;
	__be16 source_port;
	__be16 destination_port;
	__be16 udp_bytes;
	__be16 udp_checksum;
	__u64 sequence;
	__u32 flow;
	__u32 sent_ns; /* the lower half */
} __attribute__((packed));

enum {
	IP_BYTES = FRAME_BYTES - (VLAN_ID ? 18 : 14),
};

/* Somewhere in 20.0.0.0 to 119.255.255.255: traffic.py computes the same. */
static __always_inline __u32 spread_destination(__u32 flow)
{
	return (20 + (flow >> 24) % 100) << 24 | (flow & SOURCE_MASK);
}

struct lane {
	__u32 ifindex;
	__u8 destination[ETH_ALEN];
	__u16 unused;
	__u32 padding;
	__u64 sequence;
};

#endif
