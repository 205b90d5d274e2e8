"""Here the machine looks for faults that nobody thought of: random requests made from the
OpenAPI documents (`api`), random operations on a real server beside a model of it
(`machine`), random bytes at everything that decodes bytes (`bytes`), and random changes
of the code itself, which the tests should notice (`mutants`).

Each is short in an ordinary run of the tests and as long as one likes by hand, see
`python -m tests.fuzzing --help`. Tests of one module alone stay beside that module's.
"""
