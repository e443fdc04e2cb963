"""``python -m course.exercises stub 5.1`` prints what a notebook needs."""

import argparse

from course import exercises


def main() -> None:
    """Print the stub, the solution or the cells of an exercise, or list them all."""
    parser = argparse.ArgumentParser(prog="python -m course.exercises")
    parser.add_argument("what", choices=["stub", "solution", "cells", "list"])
    parser.add_argument("number", nargs="?", help="e.g. 5.1")
    args = parser.parse_args()
    if args.what == "list":
        for e in exercises.declared():
            facts = f"{e.number}  {e.kind:5}  {e.difficulty:6}  {e.minutes:3} min"
            print(f"{facts}  {e.title}")
        return
    if not args.number:
        parser.error(f"{args.what} needs the number of an exercise, for example 5.1")
    try:
        found = exercises.find(args.number)
    except KeyError as error:
        parser.error(str(error.args[0]))
    text = (
        exercises.cells(args.number)
        if args.what == "cells"
        else getattr(found, args.what)
    )
    print(text)


if __name__ == "__main__":
    main()
