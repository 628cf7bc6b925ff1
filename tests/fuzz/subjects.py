"""What is fuzzed, by name: a folder to work in -> what judges the mutant of a seed."""

from tests.fuzz.headers import judge_headers
from tests.fuzz.tables import judge_tables

SUBJECTS = {"tables": judge_tables, "headers": judge_headers}
