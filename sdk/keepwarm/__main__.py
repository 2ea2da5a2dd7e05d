"""``python -m keepwarm`` is the ``keepwarm`` command."""

from keepwarm.cli import main

if __name__ == "__main__":
    main()
