"""From a chain file to objects and a manifest: source → validate → resolve → lower → emit → clang → build."""
