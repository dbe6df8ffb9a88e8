/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Why a packet was dropped. Numbers are stable: counters, `bpfchain status` and traces use them (schemas/drop.py has
 * the same table, and a test compares the two). A service outside this tree counts its own from DROP_SERVICE_FIRST.
 */
#ifndef BPFCHAIN_DROP_H
#define BPFCHAIN_DROP_H

enum drop_reason {
	DROP_TRUNCATED = 0,            /* shorter than its own headers say */
	DROP_MALFORMED = 1,            /* a header contradicts itself: version, length, impossible fragment */
	DROP_EXTENSION_HEADERS = 2,    /* more IPv6 extension headers than are followed */
	DROP_NO_DEVICE = 3,            /* the interface that it should leave by is gone */
	DROP_MISSED_TAIL_CALL = 4,     /* the next service's program was not there */
	DROP_INVALID_SOURCE = 5,       /* Ethernet source is a group address, zero, or the receiver's own */
	DROP_SAME_PORT = 6,            /* the destination is on the port that it came from */
	DROP_LINK_LOCAL = 7,           /* 802.1D reserved group address, never forwarded */
	DROP_NO_RECEIVER = 8,          /* a flood with no other port to go to */
	DROP_BLOCKED_SOURCE = 9,       /* source address is on a block list */
	DROP_BLOCKED_DESTINATION = 10, /* destination address is on a block list */
	DROP_BLOCKED_PROTOCOL = 11,    /* IP protocol is on a block list */
	DROP_BLOCKED_PORT = 12,        /* transport port is on a block list */
	DROP_RATE = 13,                /* source sends faster than its rate allows */
	DROP_BAD_VERDICT = 14,         /* the service named a port that is not there: a defect of it */
	DROP_SLOW_PATH_RATE = 15,      /* more packets for the control plane than their reason's rate allows */
	DROP_SLOW_PATH_FULL = 16,      /* the control plane does not read, or not fast enough */
	DROP_OTHER_STATION = 24,       /* Ethernet destination is another station's address */
	DROP_CHECKSUM = 25,            /* checksum of a header is wrong */
	DROP_MARTIAN = 26,             /* an address that no packet between networks may have */
	DROP_NOT_ROUTED = 27,          /* broadcast or group, which is not forwarded */
	DROP_BLACKHOLE = 28,           /* its route says so */
	DROP_UNKNOWN_PROTOCOL = 29,    /* neither IP nor ARP, or a version that the port has no address of */
	DROP_NOT_ASKED = 30,           /* neighbour discovery that asks or tells nothing of concern here */
	DROP_VLAN = 40,                /* VLAN that the port is no member of, or no VLAN for an untagged frame */
	DROP_NO_HEADROOM = 41,         /* no room in front of the frame for a VLAN tag */
	DROP_PORT_STATE = 42,          /* the spanning tree does not let frames in or out of the port now */
	DROP_STORM = 43,               /* more frames to be flooded than the port's limit for their sort */
	DROP_INTRUDER = 44,            /* source address is that of a static or sticky station on another port */
	DROP_STATION_LIMIT = 45,       /* source is a new station, and its port has as many as it may */
	DROP_SERVICE_FIRST = 48,       /* first number for services outside this tree */
	DROP_REASON_LIMIT = 64,
};

#endif
