"""SIP without I/O: messages, headers, transactions, dialogs. Imports neither asyncio nor socket."""
