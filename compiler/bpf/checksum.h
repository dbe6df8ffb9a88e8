/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The Internet checksum (RFC 1071): sums over whole 32-bit words, and what is left of them in 16 bits. */
#ifndef BPFCHAIN_CHECKSUM_H
#define BPFCHAIN_CHECKSUM_H

#include "types.h"

/* `words` 32-bit words from `from` on, added to `sum`. Both ends of the byte order have the same sum (RFC 1071 2B). */
static __always_inline __u64 checksum_add(__u64 sum, const void *from, const __u32 words)
{
	const __u32 *word = from;

#pragma unroll
	for (__u32 i = 0; i < words; i++)
		sum += word[i];
	return sum;
}

/* Of up to 2^16 words: the first fold leaves 0x10000fffe at most, the second 0x1fffe, the third no carry. */
static __always_inline __u16 checksum_fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

#endif
