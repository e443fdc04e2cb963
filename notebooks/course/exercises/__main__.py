"""``python -m course.exercises`` lists the exercises; ``... 5.1`` prints its cells."""

import sys

from course import exercises

if sys.argv[1:]:
    print(exercises.cells(sys.argv[1]))
else:
    for e in exercises.declared():
        print(
            f"{e.number:4}  {e.kind:5}  {e.difficulty:6}  {e.minutes:3} min  {e.title}"
        )
