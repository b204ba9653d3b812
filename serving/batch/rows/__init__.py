"""Rows as requests: who they are, who goes first, which ones are the same. Pure."""
