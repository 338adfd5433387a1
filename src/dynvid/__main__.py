"""`python -m dynvid`: the command line."""

from dynvid.cli import main

if __name__ == "__main__":
    main()
