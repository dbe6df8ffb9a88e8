/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The limit: a program that sends every packet on without a look at it, at each hook. */
#include "xdp.h"

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(key_size, 4);
	__uint(value_size, 8);
	__uint(max_entries, 1);
} tx SEC(".maps");

LOADED(out_ifindex);

SEC("xdp")
int redirect_xdp(struct xdp_md *ctx __attribute__((unused)))
{
	return bpf_redirect_map(&tx, 0, XDP_DROP);
}

SEC("tc")
int redirect_tc(struct __sk_buff *skb __attribute__((unused)))
{
	return bpf_redirect(loaded(out_ifindex), 0);
}

char _license[] SEC("license") = "Dual BSD/GPL";
