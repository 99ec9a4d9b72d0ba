"""Our media relay: an ng server with an RTP data plane that forks. Runs as a process of its own."""
