"""What was said: SIP messages and media commands of recent calls, kept in memory, shown, exported, sent to Homer."""
