"""How fast compiled chains are: against the bare redirect, the Linux kernel, and the figures of the paper."""
