"""Does the lab itself see? Planted bugs, as data, and the hunt for them.

Each `.toml` beside this file is a class of bugs, each `[[mutant]]` in it one change of the broker's text that breaks a statement
of the contract. `catalogue.py` reads and plants them, `hunt.py` is the lab's side, in the planted tree, `run.py` the command.
"""
