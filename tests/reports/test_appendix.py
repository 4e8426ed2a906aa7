"""The appendix of a report."""

from workbench.reports.page import appendix


def test_a_notebook_as_it_lies_on_disk_with_lists_of_lines_becomes_an_appendix():
    stream = {"output_type": "stream", "name": "stdout", "text": ["one\n", "two\n"]}
    cell = {"cell_type": "code", "id": "a", "metadata": {}, "execution_count": 1, "source": ["a = 1\n", "print(a)"],
            "outputs": [stream]}  # fmt: skip
    html = appendix({"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5})
    assert "two" in html
    assert "print" in html
