"""`results`: the page from the metrics JSON."""

from src import cli, paths
from src.report import results


def test_results_names_what_it_wrote(capsys, monkeypatch):
    monkeypatch.setattr(results, "write", lambda: [paths.RESULTS])
    assert cli.main(["results"]) == 0
    assert capsys.readouterr().out == "wrote RESULTS.md\n"
