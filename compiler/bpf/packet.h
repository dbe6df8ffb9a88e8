/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A packet as services see it at every hook: its bytes from the Ethernet header on, and bounded access to them. */
#ifndef BPFCHAIN_PACKET_H
#define BPFCHAIN_PACKET_H

#include "types.h"

enum {
	INJECTED_MARK = 0x6266, /* beside frames that control planes have sent in; see is_injected() */
};

struct packet {
	void *ctx;          /* struct xdp_md * or struct __sk_buff * */
	struct ethhdr *eth; /* first byte; packet_open() has checked that a whole Ethernet header is there */
	void *end;          /* first byte after the last that may be read */
	__u32 bytes;        /* length of the frame as it came, with a tag that the hook holds outside of it */
	__u32 note;         /* for the control plane, beside the packet: whatever the service writes here */
	__u32 injection; /* ifindex that the control plane's frames come by; 0 if the service does not say `injects` */
	bool in_skb;     /* TC: the outermost tag is in the skb's metadata, not in the frame */
	bool tagged;     /* whether the tag `tci` is on the frame now; both are set by vlan_parse() (vlan.h) */
	__u16 tci;       /* PCP, DEI and VID, in host order */
	__u64 receivers[2]; /* the service's own, for its KIND_transmit() at TC: which ports get a copy of a flood */
};

/*
 * Whether a control plane has sent the frame in: it came by the injection link, and inject.h has left a mark beside it.
 * A mark alone proves nothing, as what is beside a frame survives a veth (veth_xdp_xmit(), drivers/net/veth.c); nor
 * does the ifindex where the chain has devices in several namespaces, of which another can have the same.
 */
static __always_inline bool is_injected(const struct packet *pkt)
{
	const struct xdp_md *xdp = pkt->ctx;
	const struct __sk_buff *skb = pkt->ctx;
	const __u32 *mark;

	if (pkt->in_skb)
		return skb->ingress_ifindex == pkt->injection && skb->tc_index == INJECTED_MARK;
	mark = (void *)(long)xdp->data_meta;
	return xdp->ingress_ifindex == pkt->injection && (void *)(mark + 1) <= (void *)(long)xdp->data &&
	       *mark == INJECTED_MARK;
}

/* A place in a packet up to which everything has been parsed. */
struct cursor {
	void *position;
	void *end;
};

static __always_inline struct cursor cursor_after_eth(const struct packet *pkt)
{
	return (struct cursor){.position = pkt->eth + 1, .end = pkt->end};
}

/* The next `size` bytes, which the cursor then stands behind; NULL if the packet ends before. */
static __always_inline void *cursor_take(struct cursor *cursor, __u32 size)
{
	void *taken = cursor->position;

	if (taken + size > cursor->end)
		return NULL;
	cursor->position = taken + size;
	return taken;
}

/* How much of `bytes` to copy into `room`, within bounds that the verifier sees; 0 if there is next to nothing. */
static __always_inline __u32 copied_bytes(__u32 bytes, const __u32 room)
{
	bytes = opaque(bytes);
	if (bytes < 2)
		return 0;
	bytes = opaque(bytes);
	return bytes > room ? room : bytes;
}

/* A MAC address as a number, first byte on the wire lowest: one load, one compare. */
static __always_inline __u64 mac_u64(const __u8 *mac)
{
	return *(const __u32 *)mac | (__u64) * (const __u16 *)(mac + 4) << 32;
}

/* The group bit is the lowest of the first byte on the wire (IEEE 802 8.2.2). */
static __always_inline bool is_group_mac(__u64 mac)
{
	return mac & 1;
}

#endif
