"""Do spec, register, code, tests and checkers speak of the same statements?"""

import re
from pathlib import Path

from chaos import contract

ROOT = Path(__file__).parents[2]
HEADING = re.compile(r"^### (C\d+\.\d+) (.+)$", re.M)


def spec():
    return (ROOT / "specs/contract.md").read_text()


def test_register_and_spec_define_the_same_statements():
    headings = {number: title.removesuffix(" (stricter)") for number, title in HEADING.findall(spec())}
    assert headings == {number: statement.title for number, statement in contract.STATEMENTS.items()}


def test_register_and_spec_agree_on_what_is_stricter_than_kafka():
    sections = re.split(r"^### (C\d+\.\d+) ", spec(), flags=re.M)[1:]
    marked = {number for number, text in zip(sections[::2], sections[1::2], strict=True) if "(stricter)" in text.partition("\n## ")[0]}
    assert marked == contract.STRICTER


def test_every_number_that_is_cited_is_defined():
    for folder in ("refbroker", "chaos", "tests", "specs"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".md"):
                cited = set(contract.NUMBER.findall(path.read_text()))
                assert cited <= contract.STATEMENTS.keys(), path


def test_the_spec_says_who_judges_what_and_what_nobody_does():
    sections = dict(zip(*[iter(re.split(r"^### (C\d+\.\d+) .+$", spec(), flags=re.M)[1:])] * 2, strict=True))
    judged = contract.judged_by()
    for number, text in sections.items():
        text = text.partition("\n## ")[0]
        says = text.partition("*Judged:*")[2]
        assert says, number
        if "not judged yet" in says:
            assert number not in judged, (number, judged.get(number))
        for checker in re.findall(r"chaos/checks/([a-z_/]+)\.py", says):
            assert (ROOT / f"chaos/checks/{checker}.py").exists(), (number, checker)
            if number not in ("C1.15",):
                assert checker in judged.get(number, []), (number, checker, judged.get(number))
    unjudged = {number: text.partition("not judged yet: ")[2].partition(".")[0] for number, text in sections.items()
                if "not judged yet" in text.partition("*Judged:*")[2]}
    assert set(contract.unjudged()) == unjudged.keys()
    assert {number: reason for reason, numbers in contract.by_reason(contract.unjudged()).items() for number in numbers} == unjudged


def test_every_checker_opens_with_what_it_verifies_and_what_not():
    for path in (ROOT / "chaos/checks").rglob("*.py"):
        words = path.read_text().partition('"""')[2].partition('"""')[0]
        if path.name not in ("__init__.py", "case.py", "crash.py"):
            assert "Verified" in words and "Not verified" in words, path
