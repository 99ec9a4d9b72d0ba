"""The stateful proxy (RFC 3261 16): core, dialogs, routes, script objects, registrar."""
