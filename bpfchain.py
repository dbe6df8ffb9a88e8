"""bpfchain: compile a YAML chain of network services to eBPF, and run it."""
