"""Playing live: devices, ports and the session around the engine. Imports v3audio, never training."""
