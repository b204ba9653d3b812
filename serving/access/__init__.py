"""Who may ask what, and how much: API keys and limits that hold over several gateways. Design: 0017-api-keys.md."""
