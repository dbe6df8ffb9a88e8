"""Networks to test on: namespaces joined by veths, raw frames, and the few programs that people would type (ping)."""
