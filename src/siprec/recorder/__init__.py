"""The session recording server (SRS): RTP in, audio files and one JSON per recording out."""
