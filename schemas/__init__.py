"""The contract between compiler and runtime: what a chain file, a manifest and a diagnostic look like."""

from pathlib import Path

SCHEMAS = Path(__file__).parent
"""Where the schemas lie. (importlib.resources would say the same, but is slow to import.)"""
