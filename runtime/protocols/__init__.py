"""Protocols that control planes speak: formats of packets and state machines, pure, without a kernel beneath them."""
