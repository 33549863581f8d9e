"""``python -m advimg``: the same as the command ``advimg``."""

from advimg.cli import main

if __name__ == "__main__":
    main()
