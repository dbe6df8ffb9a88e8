"""The contract between compiler and runtime: what a chain file, a manifest and a diagnostic look like."""
