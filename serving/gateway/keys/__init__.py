"""API keys at the gateway: who asks, what may be asked, and what is left of the limits."""
