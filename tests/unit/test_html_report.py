"""What a run shows of itself: evaluations and films beside training, the trace, and the page, in a real browser."""

from __future__ import annotations

import functools
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import cv2
import pytest

from mlma.envs.reference_scores import published_returns
from mlma.evaluation.charts import draw_reference_lines, plt
from mlma.evaluation.html_report import write_report
from tests.support.runs import ROOT, SMALL, Process, rows

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "")
# Looks at the page in frames as wide as a desktop and as a phone, and says what it sees.
LOOK = """<!doctype html><link rel=icon href=data:,><body>
<iframe id=wide src=report.html width=1280 height=900></iframe><iframe id=narrow src=report.html width=400 height=900></iframe>
<pre id=found></pre><script>
onload = async () => {
  const found = {};
  for (const name of ["wide", "narrow"]) {
    const inner = document.getElementById(name).contentDocument;
    const images = [...inner.images];
    await Promise.all(images.map(image => image.decode()));
    found[name] = {
      scroll: inner.documentElement.scrollWidth, images: images.length,
      seen: images.filter(image => image.naturalWidth > 0 && image.clientWidth > 250 && image.clientHeight > 80).length,
      columns: new Set(images.map(image => image.getBoundingClientRect().left)).size,
      smallest: Math.min(...[...inner.querySelectorAll("p, td, span, pre")].map(e => parseFloat(getComputedStyle(e).fontSize))),
    };
  }
  document.getElementById("found").textContent = JSON.stringify(found);
};
</script>"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run that is looked at in every way."""
    folder = tmp_path_factory.mktemp("seen")
    logdir = folder / "run"
    flags = ["--num_actors=2", "--total_environment_frames=60000", "--evaluate_every=20000", "--record_video"]
    flags += ["--video_every_episodes=100", "--profile=1", "--test_num_episodes=4", f"--logdir={logdir}"]
    with Process(folder, "console", *SMALL, *flags) as process:
        assert process.wait(240) == 0, process.text()
        return logdir, process.text()


def test_a_run_is_evaluated_beside_training_and_at_its_end(run: Any) -> None:
    logdir, console = run
    records = [json.loads(path.read_text()) for path in (logdir / "evaluation").glob("*.json")]
    told = re.findall(r"evaluation after ([\d,]+) frames: mean (-?[\d.]+)", console)
    assert len(told) == len(records) >= 2
    assert {int(frames.replace(",", "")) for frames, _ in told} == {record["frames"] for record in records}
    assert len({record["frames"] for record in records}) == len(records), "not the last weights twice"
    assert max(record["frames"] for record in records) >= 60000
    assert all(record["episodes"] == 4 for record in records)
    assert "evaluation/mean" in rows(logdir)[-1]
    assert not list((logdir / "evaluation").glob("*.npz"))


def test_actor_0_films_games_of_training(run: Any) -> None:
    films = sorted((run[0] / "videos" / "training").glob("*-game-*.mp4"))
    assert [int(path.stem.rpartition("-")[2]) for path in films][:2] == [0, 100]
    film = cv2.VideoCapture(str(films[0]))
    assert film.get(cv2.CAP_PROP_FRAME_COUNT) == 10, "a game of Catch"
    assert film.read()[1].std() > 5
    assert films[0].with_suffix(".gif").stat().st_size > 1000


def test_the_trace_shows_learner_and_actor_on_one_time_axis(run: Any) -> None:
    events = json.loads((run[0] / "profile" / "trace.json").read_text())["traceEvents"]
    lanes = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert sorted(lanes.values()) == ["actor 0", "learner", "receiver"]
    spans = {name: [e for e in events if e["ph"] == "X" and lanes[e["pid"], e["tid"]] == name] for name in lanes.values()}
    assert {"wait", "train", "gradient", "publish"} <= {e["name"] for e in spans["learner"]}
    assert {"simulate", "infer", "send", "wait", "fetch"} == {e["name"] for e in spans["actor 0"]}
    ends = {name: (min(e["ts"] for e in found), max(e["ts"] + e["dur"] for e in found)) for name, found in spans.items()}
    assert min(first for first, _ in ends.values()) >= 0
    assert max(last for _, last in ends.values()) < 10e6
    for name in ("receiver", "actor 0"):
        shared = min(ends[name][1], ends["learner"][1]) - max(ends[name][0], ends["learner"][0])
        assert shared > 0.3e6, f"{ends}: the same second, in microseconds"
    assert list((run[0] / "profile").rglob("*.xplane.pb")), "and TensorFlow's own"


@pytest.fixture(scope="module")
def page(run: Any) -> Path:
    with (run[0] / "events.log").open("a") as file:
        file.write("2026-01-01 00:00:00 actor 1 ended with code -9; <script>alert(1)</script>\n")
    return write_report(run[0])


def test_the_page_has_everything_and_loads_nothing(page: Path) -> None:
    text = page.read_text()
    for words in (
        "impala catch",
        "Return over frames",
        "Where the time goes",
        "Evaluations",
        "Videos",
        "Workers",
        "Faults",
        "batch_size",
    ):
        assert words in text, words
    assert "&lt;script&gt;" in text
    assert "<script" not in text
    assert not re.findall(r"(?:src|href)=['\"](?!data:)", text)
    assert text.count("data:image/gif") >= 2
    assert len(text) < 12e6


@pytest.mark.skipif(not BROWSER and os.environ.get("CI") != "true", reason="no browser: apt-get install chromium")
def test_a_browser_shows_the_page_on_a_desktop_and_on_a_phone(page: Path, tmp_path: Path) -> None:
    (page.parent / "look.html").write_text(LOOK)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(page.parent))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    words = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}", "--window-size=1900,1000"]
    words += ["--enable-logging=stderr", "--virtual-time-budget=20000", "--dump-dom"]
    text = ""
    for _ in range(3):  # its clock runs ahead of a busy machine: then it looks before the page is there
        address = f"http://127.0.0.1:{server.server_port}/look.html"
        seen = subprocess.run([*words, address], capture_output=True, text=True, timeout=120, check=True)
        assert "CONSOLE" not in seen.stderr, seen.stderr
        if text := re.findall(r'id="found">(.*?)</pre>', seen.stdout, flags=re.S)[0].strip():
            break
    server.shutdown()
    found = json.loads(text)
    for name, width, columns in (("wide", 1280, 3), ("narrow", 400, 1)):
        assert found[name]["images"] == found[name]["seen"] >= 12, found
        assert found[name]["scroll"] <= width, "nothing sticks out"
        assert found[name]["columns"] == columns
        assert found[name]["smallest"] >= 12


def test_runs_of_one_name_are_one_line_in_a_band(tmp_path: Path) -> None:
    study = ROOT / "sandbox" / "case_studies"
    words = [str(study / f"pong_seed{seed}.csv") for seed in (1, 2)]
    out = tmp_path / "curve.png"
    command = ["-m", "mlma.evaluation.plot", *words, "--labels=pong,pong", "--level=atari_pong", f"--out={out}"]
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True, timeout=60)
    picture = cv2.imread(str(out))
    assert picture is not None
    assert picture.shape[1] > 800
    assert picture.std() > 10


def test_published_lines_are_drawn_where_they_do_not_squeeze_the_curves() -> None:
    _, axis = plt.subplots()
    axis.plot([0, 1], [0, 30])
    assert draw_reference_lines(axis, {"near": 40.0, "far": 800.0}) == ["far 800"]
    assert axis.get_ylim()[1] < 50
    assert published_returns("PongNoFrameskip-v4")["IMPALA, deep"] == 21
    assert published_returns("atari_pong")["human"] == pytest.approx(14.6)
    assert published_returns("tmaze") == {}


@pytest.mark.parametrize(("words", "answer"), [(["nowhere"], "nowhere"), (["sandbox", "--report"], "metrics.csv")])
def test_what_is_no_run_is_said_in_one_line(words: list[str], answer: str) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "mlma.evaluation.plot", *words], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 2
    assert answer in run.stderr.splitlines()[-1]


def test_a_run_that_has_not_learned_anything_yet_has_a_page(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("frames,seconds,frames_per_second,learner/wait,return/mean\n0,1.5,0,0.0001,nan\n")
    assert "<h2>Where the time goes</h2>" in write_report(tmp_path).read_text()
