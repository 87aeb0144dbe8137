"""Playing live: devices, ports and the session around the engine. Never imports training."""
