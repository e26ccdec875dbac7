"""The plugin inside a checkout of OpenGait (https://github.com/ShiqiYu/OpenGait, read at 0efafd4).

`checkout` knows what the plugin needs of OpenGait and whether a folder has it; `shim` is what
`python -m plugin.install` writes there; `host` is imported inside OpenGait's process; `run` starts OpenGait without
touching the checkout.
"""
