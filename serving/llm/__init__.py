"""Language models as deployments: engines behind one interface, and their OpenAI server.

Design: docs/design/0015-openai.md.
"""
