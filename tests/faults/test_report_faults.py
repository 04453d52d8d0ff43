"Report pages when what they show was written by somebody who means harm, or when there is little to show."

import re
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
from matplotlib.dates import date2num
from papermill.execute import ERROR_MARKER_TAG

from prodml_nb.build.training import train
from prodml_nb.observe.drift import drift
from prodml_nb.observe.drift_plots import plot_features
from prodml_nb.observe.outcomes import live_quality, plot_quality
from prodml_nb.observe.reference import make_reference
from prodml_nb.operate.demo import Demo, Month, plot_demo
from prodml_nb.operate.lineage import register_candidate
from prodml_nb.operate.pipelines import run_pipeline
from prodml_nb.operate.release import promote, rollback
from prodml_nb.operate.reports import COLOURS, Run, render, renew_index
from prodml_nb.operate.views import drift_table
from prodml_nb.operate.workspace import Workspace
from prodml_nb.record.journal import Feedback, JournalWriter, Prediction
from prodml_nb.settings import ModelSettings, MonitorSettings, Settings, StateSettings

HOSTILE = """
import numpy as np
import pandas as pd
from prodml_nb import Category, ModelSpec, Number
spec = ModelSpec(
    name="loan", task="binary", target="late", classes=("<s>no</s>", "<s>$yes$</s>"), time="at", slices=("<i>sky</i>",),
    features=(Number("<i>$income$</i>", unit="<u>$u$</u>"), Category("<i>sky</i>"), Category("$x^^$")),
)
def load(since, until):
    rng, n = np.random.default_rng(0), 600
    x, level = rng.normal(size=n), rng.choice(["<b>x</b>", "<b>$x^^$</b>"], n)
    late = np.where(x + rng.normal(size=n) > 0, *spec.classes[::-1])
    at = pd.date_range("2024-01-01", periods=n, freq="h")
    return pd.DataFrame(dict(zip([*spec.feature_names, "late", "at"], [x, level, level, late, at])))
"""
LIVE = "<img src=x onerror=alert(1)>", "<script>alert(2)</script>"
MARKUP = re.compile(r"<(script|img src=.?x|[bisu]>(x|\$|income|sky|no|yes|note))")


def deployed(folder: Path, source: str) -> Workspace:
    "A workspace of a model module, whose monitor is content with few outcomes."
    (folder / "model.py").write_text(source)
    own = {"state": StateSettings(root=folder / "state"), "model": ModelSettings(module=str(folder / "model.py"))}
    return Workspace(replace(Settings(), **own, monitor=MonitorSettings(min_outcomes=50, bootstrap=20)))


def answered(workspace: Workspace, version: int, levels: tuple[str, ...], seed: int = 1) -> None:
    "Answers of a version in a journal, each with an outcome that its score foretold."
    spec, rng = workspace.definition.spec, np.random.default_rng(seed)
    with JournalWriter(workspace.settings.journal_dir) as writer:
        for i, score in enumerate(rng.random(300).tolist()):
            at, level = f"2024-03-01T00:{i // 60:02}:{i % 60:02}.000000Z", levels[i % len(levels)]
            told = {"at": at, "time": at, "model": "loan", "version": version, "score": score}
            features = dict(zip(spec.feature_names, [score, level, level]))
            made = Prediction(id=f"{i}", request=f"{i}", features=features, scores=[1 - score, score], **told)
            outcome = spec.classes[int(rng.random() < score)]
            writer.append([made, Feedback(id=f"f{i}", prediction_id=f"{i}", at=at, outcome=outcome, comment=level)])


def hostile(folder: Path) -> list[Run]:
    "Train, validate and monitor a model whose names, levels and clients are full of markup."
    workspace = deployed(folder, HOSTILE)
    runs = [run_pipeline(workspace, "train", {"note": "<u>note</u>"})]
    runs.append(run_pipeline(workspace, "validate", {"bootstrap": 20}))
    promote(workspace, 1, "<b>x</b>", override=True)
    answered(workspace, 1, LIVE)
    return [*runs, run_pipeline(workspace, "monitor")]


def test_no_markup_of_others_lives_in_a_report(tmp_path: Path) -> None:
    runs = hostile(tmp_path)
    pages = {r.pipeline: (Path(r.folder) / f"{r.pipeline}.html").read_text() for r in runs}
    pages["index"] = (tmp_path / "state" / "site" / "index.html").read_text()
    for name, page in pages.items():
        assert MARKUP.findall(page) == [], name
        (policy,) = [m for m in re.findall("<meta[^>]*>", page) if "Content-Security-Policy" in m]
        assert "default-src 'none'" in policy and "script" not in policy, name
        assert name == "index" or all(re.findall('<img[^>]* alt="([^"]*)"', page)), name
        assert "No description" not in page, name
    assert 'alt="late: ' in pages["train"] and "features moved far; the score" in pages["monitor"]
    for run in runs:
        notebook = nbformat.read(Path(run.folder) / f"{run.pipeline}.ipynb", 4)
        shown = [o.data.get("text/html", "") for c in notebook.cells for o in c.get("outputs", []) if "data" in o]
        assert MARKUP.findall("".join(shown)) == [], run.pipeline
    assert "&lt;img src=x onerror=alert(1)&gt;" in pages["monitor"] and "&lt;b&gt;x&lt;/b&gt;" in pages["train"]


def test_every_table_is_made_where_it_is_escaped() -> None:
    package = Path(__file__).parents[2] / "prodml_nb"
    made = {p.name for p in package.rglob("*.py") if re.search(r"\.style\.", p.read_text())}
    assert made == {"views.py", "preload.py"}  # the latter throws its own away


def test_the_monitor_says_whose_quality_a_forced_version_is_held_to(tmp_path: Path) -> None:
    workspace = deployed(tmp_path, HOSTILE)
    for _ in range(2):
        register_candidate(workspace, train(workspace.definition, bootstrap=20))
    promote(workspace, 1, "first", override=True)
    promote(workspace, 2, "forced", override=True)
    answered(workspace, 2, ("a",))
    seen = run_pipeline(workspace, "monitor")
    (event,) = workspace.ledger.events(kind="monitored")
    for told in (" ".join(seen.result["reasons"]), " ".join(event.data["reasons"])):
        assert "] of version 1 at its release" in told and "at release" not in told


def index_of(workspace: Workspace) -> str:
    return re.sub("<style>.*?</style>", "", renew_index(workspace).read_text(), flags=re.DOTALL)


def test_the_index_says_what_is_live_and_where_every_version_came_from(tmp_path: Path) -> None:
    workspace = deployed(tmp_path, HOSTILE)
    assert "Nothing is registered" in index_of(workspace)
    register_candidate(workspace, train(workspace.definition, bootstrap=20))
    assert "No version of loan is live" in index_of(workspace)
    register_candidate(workspace, train(workspace.definition, bootstrap=20))
    promote(workspace, 1, "first", override=True)
    promote(workspace, 2, "better", override=True)
    assert "Version 2 of loan is live since 20" in index_of(workspace)
    event = rollback(workspace, "it was not")
    page = index_of(workspace)
    since = datetime.fromisoformat(event.at)
    assert f"Version 1 of loan is live since {since:%Y-%m-%d %H:%M} UTC" in page
    (line,) = [row for row in page.split("<tr>") if "<b>rollback</b>" in row]
    assert COLOURS["bad"] not in line and COLOURS["plain"] in line
    assert page.count("<b>register</b>") == 2
    run_pipeline(workspace, "train")
    page = index_of(workspace)
    assert page.count("<b>register</b>") == 2 and ">train</a>" in page


def page_of(folder: Path, *cells: nbformat.NotebookNode) -> str:
    nbformat.write(nbformat.v4.new_notebook(cells=list(cells)), folder / "a.ipynb")
    return render(folder / "a.ipynb", folder / "a.html", title="a").read_text().partition("<main>")[2]


def code(source: str, **output: object) -> nbformat.NotebookNode:
    outputs = [nbformat.v4.new_output(**output)] if output else []
    return nbformat.v4.new_code_cell(source, outputs=outputs, execution_count=1)


def test_code_that_shows_nothing_makes_no_fold_of_its_own(tmp_path: Path) -> None:
    said = {"output_type": "stream", "text": "told"}
    page = page_of(tmp_path, code("first"), code("second"), code("third", **said), code("fourth", **said))
    assert page.count("<details") == 2
    assert all(word in page for word in ("first", "second", "third", "fourth")) and page.count("told") == 2


def test_a_failed_run_shows_its_error_once_and_nothing_that_was_not_run(tmp_path: Path) -> None:
    heading = nbformat.v4.new_markdown_cell
    marks = [
        heading("<span style='color:red'>An Exception was encountered</span>", metadata={"tags": [ERROR_MARKER_TAG]})
        for _ in range(2)
    ]
    error = {"ename": "KeyError", "evalue": "<b>x</b>", "traceback": ["line 1", "KeyError: <b>x</b>"]}
    failed = code("boom()", output_type="error", **error)
    page = page_of(
        tmp_path,
        marks[0],
        heading("# Title"),
        marks[1],
        failed,
        heading("## Later"),
        nbformat.v4.new_code_cell("never()"),
    )
    shown, _, folded = page.partition("traceback</summary>")
    assert "boom" in shown and "KeyError: &lt;b&gt;x" in shown and "line 1" in folded and "line 1" not in shown
    assert not any(word in page for word in ("An Exception", "Later", "never"))


def test_a_month_is_drawn_without_a_day_of_the_next_and_every_panel_is_headed_for(tmp_path: Path) -> None:
    spec = deployed(tmp_path, HOSTILE).definition.spec
    rng, n = np.random.default_rng(0), 800
    at = pd.date_range("2024-10-01", "2024-10-31 23:59", periods=n, tz="UTC")
    old, new = ({f: rng.normal(i, 1, n) if i < 1 else rng.choice(["a", "b"], n) for i, f in enumerate(spec.feature_names)} for _ in range(2))  # fmt: skip
    score = rng.random(n)
    frame = pd.DataFrame(new).assign(
        time=at, score=score, fallback=None, outcome=np.where(score > 0.5, *spec.classes[::-1])
    )
    figure = plot_quality(spec, frame, live_quality(spec, frame, bootstrap=20))
    figure.canvas.draw()
    assert figure.axes[1].get_xlim()[1] < date2num(pd.Timestamp("2024-11-01"))

    known = make_reference(spec, pd.DataFrame(old).assign(late=spec.classes[0]))
    moved = drift(spec, known, frame.assign(**{spec.feature_names[0]: 9.0}))
    told = plot_features(spec, known, frame, moved).get_suptitle()
    assert told == "<i>$income$</i> moved most; 1 of these 3 moved beyond chance or 0.1"
    shown = drift_table(moved).to_html()
    assert "white-space: nowrap" in shown and "0.0% → 0.0%" in shown


def test_the_lines_of_the_demos_plot_say_what_they_are() -> None:
    months = [Month(month=f"2013-0{i}", rows=9, base_rate=0.2, frozen={"auc": 0.6}, managed={"auc": 0.7}, action="promoted v2") for i in (4, 5)]  # fmt: skip
    counts = dict.fromkeys(("retrains", "rollbacks", "requests_sent", "records_in_journal", "seconds"), 1)
    figure = plot_demo(Demo(months=months, gain={}, incident={}, reports="", **counts))
    told = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert told[2:] == ["a retrained version takes over"]
