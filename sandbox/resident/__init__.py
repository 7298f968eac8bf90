"""The resident server of a sandbox slot: standard library only, self-contained.

Its modules are sent into the slot when it starts (see ``sandbox/shipping.py``), so an image holds no code of ours and
needs no rebuild when this code changes. Nothing here may import from outside this package.
"""
