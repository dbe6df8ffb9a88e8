/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The paper's figure 4: a row of programs that do nothing but call the next; the last redirects. */
#include "xdp.h"

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(key_size, 4);
	__uint(value_size, 8);
	__uint(max_entries, 1);
} tx SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(key_size, 4);
	__uint(value_size, 4);
	__uint(max_entries, 33);
} stages SEC(".maps");

/* Stage N is entered with N calls still to come. */
#define STAGE(n)                                                                                                       \
	SEC("xdp") int stage##n(struct xdp_md *ctx)                                                                    \
	{                                                                                                              \
		if (n == 0)                                                                                            \
			return bpf_redirect_map(&tx, 0, XDP_DROP);                                                     \
		tail_call(ctx, &stages, n ? n - 1 : 0);                                                                \
		return XDP_ABORTED;                                                                                    \
	}
#define FOUR_STAGES(a, b, c, d) STAGE(a) STAGE(b) STAGE(c) STAGE(d)

FOUR_STAGES(0, 1, 2, 3)
FOUR_STAGES(4, 5, 6, 7)
FOUR_STAGES(8, 9, 10, 11)
FOUR_STAGES(12, 13, 14, 15)
FOUR_STAGES(16, 17, 18, 19)
FOUR_STAGES(20, 21, 22, 23)
FOUR_STAGES(24, 25, 26, 27)
FOUR_STAGES(28, 29, 30, 31)
STAGE(32)

char _license[] SEC("license") = "Dual BSD/GPL";
