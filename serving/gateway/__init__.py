"""The mesh's edge: one address for the models of all applications, for clients that cannot follow discovery.

Design: docs/design/0015-openai.md.
"""
