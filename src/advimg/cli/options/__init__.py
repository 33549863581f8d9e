"""Options that mean the same in every command, as small decorators: a file for each theme, which reads them, too.

No torch here: completion and --help stay quick.
"""
