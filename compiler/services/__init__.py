"""The built-in services: one package a kind, whose `SERVICE` is its record (compiler/service.py)."""
