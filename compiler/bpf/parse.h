/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Cursor parsers from the Ethernet header to the transport ports. Each checks what it steps over and returns PARSED or
 * the verdict that drops the packet. A service calls them only as deep as it needs; what it leaves unused vanishes.
 */
#ifndef BPFCHAIN_PARSE_H
#define BPFCHAIN_PARSE_H

#include "packet.h"
#include "verdict.h"

enum {
	PARSED = 0, /* else drop(reason), which is never 0 */
	MAX_VLAN_TAGS = 2,
	MAX_EXTENSION_HEADERS = 8,
	MAX_IP_BYTES = 65535,
	IPPROTO_DCCP = 33,
	IPV4_OFFSET = 0x1fff, /* frag_off: place in the datagram in units of 8 bytes */
	IPV6_OFFSET = 0xfff8, /* frag_off: place in bytes */
};

/* The first bytes of every IPv6 extension header, and of the authentication header in IPv4 as well. */
struct extension_header {
	__u8 next;
	__u8 length; /* in units and from an origin of the header's own */
	__be16 frag_off;
	__u32 rest; /* every one is at least 8 bytes long */
};

/* The first bytes of TCP, UDP, UDP-Lite, SCTP and DCCP. */
struct transport_ports {
	__be16 source;
	__be16 destination;
};

/* What an IP header leaves to be parsed. `left` counts by the packet's own length, not by the frame's. */
struct ip_payload {
	__u32 left;        /* bytes behind the cursor that belong to the packet */
	__u32 protocol;    /* what stands at the cursor */
	__u32 fragment_at; /* where it belongs in the datagram; ports are only in the fragment at 0 */
};

static __always_inline bool is_vlan(__be16 ethertype)
{
	return ethertype == bpf_htons(ETH_P_8021Q) || ethertype == bpf_htons(ETH_P_8021AD);
}

/*
 * Steps over the tags that are in the frame (IEEE 802.1Q, 802.1ad). A third one is refused: what is behind it could
 * not be judged. At TC the outermost tag is not in the frame, so there it is the fourth.
 */
static __always_inline __u32 parse_tags(const struct packet *pkt, struct cursor *cursor, __be16 *ethertype)
{
	const struct vlan_hdr *tag;

	*ethertype = pkt->eth->h_proto;
#pragma unroll
	for (int i = 0; i < MAX_VLAN_TAGS; i++) {
		if (likely(!is_vlan(*ethertype)))
			return PARSED;
		tag = cursor_take(cursor, sizeof(*tag));
		if (!tag)
			return drop(DROP_TRUNCATED);
		*ethertype = tag->h_vlan_encapsulated_proto;
	}
	return is_vlan(*ethertype) ? drop(DROP_MALFORMED) : PARSED;
}

/*
 * Bytes of the frame from the cursor on; what the hook holds outside of the frame (a tag) counts as if it followed. The
 * asm keeps clang from subtracting pointers in 32 bits, which the verifier refuses.
 */
static __always_inline __u32 frame_left(const struct packet *pkt, const struct cursor *cursor)
{
	__u64 parsed = cursor->position - (void *)pkt->eth;

	asm volatile("" : "+r"(parsed));
	return pkt->bytes - (__u32)parsed;
}

/*
 * The fixed IPv4 header (RFC 791 3.1). A total length of 0 is what "BIG TCP" gives a segment of more than 64 KiB that
 * has not been cut yet (seen at TC only): there the frame's length holds. The cursor stays before the header, so that
 * the verifier sees one bounded step over it and its options.
 */
static __always_inline __u32 parse_ipv4(const struct packet *pkt, struct cursor *cursor, const struct iphdr **header,
					struct ip_payload *payload)
{
	__u32 available = frame_left(pkt, cursor), total;
	const struct iphdr *ip = cursor->position;

	if ((void *)(ip + 1) > cursor->end)
		return drop(DROP_TRUNCATED);
	total = bpf_ntohs(ip->tot_len);
	if (unlikely(total == 0 && available > MAX_IP_BYTES))
		total = available;
	if (unlikely(ip->version != 4 || ip->ihl < 5 || total < ip->ihl * 4U))
		return drop(DROP_MALFORMED);
	if (unlikely(total > available))
		return drop(DROP_TRUNCATED);
	payload->left = total;
	*header = ip;
	return PARSED;
}

/* Takes `size` bytes that belong to the packet; the verdict if it ends before, or is not readable as deep as that. */
static __always_inline __u32 payload_take(struct cursor *cursor, struct ip_payload *payload, __u32 size,
					  const void **taken)
{
	if (payload->left < size)
		return drop(DROP_TRUNCATED);
	*taken = cursor_take(cursor, size);
	if (!*taken)
		return drop(DROP_EXTENSION_HEADERS);
	payload->left -= size;
	return PARSED;
}

/* A datagram has at most 65,535 bytes; fragments that would make it longer are an attack ("ping of death"). */
static __always_inline __u32 check_fragment(const struct ip_payload *payload)
{
	if (unlikely(payload->fragment_at && payload->fragment_at + payload->left > MAX_IP_BYTES))
		return drop(DROP_MALFORMED);
	return PARSED;
}

/* Steps over the header with its options and reads the fragment fields of a header that parse_ipv4() has passed. */
static __always_inline __u32 parse_ipv4_payload(struct cursor *cursor, const struct iphdr *ip,
						struct ip_payload *payload)
{
	const void *whole;
	__u32 verdict = payload_take(cursor, payload, ip->ihl * 4U, &whole);

	if (verdict != PARSED)
		return verdict;
	payload->protocol = ip->protocol;
	payload->fragment_at = (bpf_ntohs(ip->frag_off) & IPV4_OFFSET) * 8;
	return check_fragment(payload);
}

/*
 * The fixed IPv6 header (RFC 8200 3). A payload length of 0 before a hop-by-hop header announces a jumbogram
 * (RFC 2675): there the frame's length holds.
 */
static __always_inline __u32 parse_ipv6(const struct packet *pkt, struct cursor *cursor, const struct ipv6hdr **header,
					struct ip_payload *payload)
{
	__u32 available = frame_left(pkt, cursor) - sizeof(**header);
	const struct ipv6hdr *ip = cursor_take(cursor, sizeof(*ip));

	if (!ip)
		return drop(DROP_TRUNCATED);
	if (unlikely(ip->version != 6))
		return drop(DROP_MALFORMED);
	payload->left = bpf_ntohs(ip->payload_len);
	if (unlikely(payload->left == 0 && ip->nexthdr == IPPROTO_HOPOPTS))
		payload->left = available;
	if (unlikely(payload->left > available))
		return drop(DROP_TRUNCATED);
	payload->protocol = ip->nexthdr;
	payload->fragment_at = 0;
	*header = ip;
	return PARSED;
}

/* In IPv4 only the authentication header stands before the protocol that it carries. */
static __always_inline bool is_extension_header(__u32 protocol, bool ipv6)
{
	if (protocol == IPPROTO_AH)
		return true;
	return ipv6 && (protocol == IPPROTO_HOPOPTS || protocol == IPPROTO_ROUTING || protocol == IPPROTO_FRAGMENT ||
			protocol == IPPROTO_DSTOPTS || protocol == IPPROTO_MH);
}

/* RFC 8200 4: units of 8 bytes, the first not counted; RFC 4302 2.2: AH has units of 4, the first two not counted. */
static __always_inline __u32 extension_header_bytes(const struct extension_header *extension, __u32 protocol)
{
	if (protocol == IPPROTO_FRAGMENT)
		return sizeof(*extension);
	if (protocol == IPPROTO_AH)
		return (extension->length + 2) * 4;
	return (extension->length + 1) * 8;
}

/* Steps over the extension header at the cursor: at a fragment that is not the first, nothing more can be parsed. */
static __always_inline __u32 parse_extension_header(struct cursor *cursor, struct ip_payload *payload)
{
	const struct extension_header *extension;
	__u32 protocol = payload->protocol, bytes, verdict;
	const void *rest;

	verdict = payload_take(cursor, payload, sizeof(*extension), (const void **)&extension);
	if (verdict != PARSED)
		return verdict;
	payload->protocol = extension->next;
	bytes = extension_header_bytes(extension, protocol);
	verdict = payload_take(cursor, payload, bytes - sizeof(*extension), &rest);
	if (verdict != PARSED)
		return verdict;
	if (protocol != IPPROTO_FRAGMENT)
		return PARSED;
	payload->fragment_at = bpf_ntohs(extension->frag_off) & IPV6_OFFSET;
	return check_fragment(payload);
}

static __always_inline bool has_ports(__u32 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_UDPLITE ||
	       protocol == IPPROTO_SCTP || protocol == IPPROTO_DCCP;
}

/* The ports, for a protocol that has them and a packet that is no later fragment. */
static __always_inline __u32 parse_ports(struct cursor *cursor, struct ip_payload *payload,
					 const struct transport_ports **ports)
{
	return payload_take(cursor, payload, sizeof(**ports), (const void **)ports);
}

#endif
