"""Audio shared by the recorder, the demo agents and the tests: codecs, resampling, test melodies.

Samples are numpy ``int16`` arrays of shape ``(frames, channels)`` unless a function says otherwise.
"""
