"""A replica's HTTP server in OpenAI's protocol, whatever its model does: calls, models, health, metrics, OpenAPI."""
