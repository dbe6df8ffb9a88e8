"""A small libbpf: a manifest and objects in, running programs out; needs privilege and no compiler."""
