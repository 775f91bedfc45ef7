"""`python -m whatwhere.cli`: the command line where its script is not on the path."""

from whatwhere.cli import main

if __name__ == "__main__":
    main()
