/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The filtering database (FDB) of a bridge as it lies in its map; runtime/services/bridge_fdb.py reads it too. */
#ifndef BPFCHAIN_BRIDGE_FDB_H
#define BPFCHAIN_BRIDGE_FDB_H

#include "types.h"

/*
 * It is set-associative, as in a switch: a hash of the key (address and VLAN) picks one of 2^set_bits sets, and the
 * station is in one of the set's eight entries or nowhere. It is an array map: a lookup is a multiplication and one
 * cache line, no helper call, and user space can map the memory.
 *
 * An entry is one word, 0 if it is free, so that one compare-and-swap changes all of it. From the lowest bit on:
 *
 *   state: port + 1   port_bits
 *          confirmed  1: seen again later, no one-off address of a scan or a flood
 *          seen       time_bits: the tick when it last sent, without its upper bits (fdb.py)
 *   tag               key_bits - set_bits: the hash but for the bits that picked the set
 *
 * The hash can be undone, so set and tag together are the whole key, and no two stations look alike.
 */
enum {
	FDB_WAYS = 8,
};

struct fdb_set {
	__u64 entry[FDB_WAYS];
};

#endif
