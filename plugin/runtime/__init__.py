"""The embedded runtime: trains and tests the plugin's configs where no OpenGait is at hand.

It has OpenGait's interface (YAML keys, data layout, checkpoint files, output folders, metric names) for what the
plugin's configs use, and refuses the rest. OpenGait (ShiqiYu/OpenGait@0efafd4) was read for its interface; the code is
this project's own.
"""
