"""vidcloud: a video, a picture filter, many machines, and exactly the frames that one machine would have made."""

__version__ = "0.1.0"
