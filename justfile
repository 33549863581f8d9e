# All that has to pass before a change lands.
check: lint types test

lint:
    ruff check .
    ruff format --check .

types:
    mypy

# Further arguments go to pytest: just test -k journal
test *arguments:
    pytest -n auto {{ arguments }}

# Formats the code and repairs what ruff can repair.
fix:
    ruff check --fix .
    ruff format .
