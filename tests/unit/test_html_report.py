"""Evaluations and videos during training, the trace, charts, and the report page, in a real browser."""

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

from mlma.evaluation.html_report import write_report
from tests.support.runs import ROOT, SMALL, Process, rows

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "")
# Opens the report in frames as wide as a desktop and as a phone, and measures the layout.
PROBE_PAGE = """<!doctype html><link rel=icon href=data:,><body>
<iframe id=wide src=report.html width=1280 height=900></iframe>
<iframe id=narrow src=report.html width=400 height=900></iframe>
<pre id=result></pre><script>
onload = async () => {
  const result = {};
  for (const name of ["wide", "narrow"]) {
    const inner = document.getElementById(name).contentDocument;
    const images = [...inner.images];
    await Promise.all(images.map(image => image.decode()));
    result[name] = {
      scroll: inner.documentElement.scrollWidth, images: images.length,
      visible: images.filter(
        image => image.naturalWidth > 0 && image.clientWidth > 250 && image.clientHeight > 80
      ).length,
      columns: new Set(images.map(image => image.getBoundingClientRect().left)).size,
      smallest: Math.min(
        ...[...inner.querySelectorAll("p, td, span, pre")].map(e => parseFloat(getComputedStyle(e).fontSize))
      ),
    };
  }
  document.getElementById("result").textContent = JSON.stringify(result);
};
</script>"""


SHORT_RUN = "frames,seconds,frames_per_second,learner/wait,return/mean\n0,1.5,0,0.0001,nan\n"  # one report, no return


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The logdir and the console of a run with evaluations, videos and a profile."""
    folder = tmp_path_factory.mktemp("report")
    logdir = folder / "run"
    flags = ["--num_actors=2", "--total_environment_frames=150000", "--evaluate_every=50000", "--record_video"]
    flags += ["--video_every_episodes=100", "--profile=1", "--test_num_episodes=4", f"--logdir={logdir}"]
    with Process(folder, "console", *SMALL, *flags) as process:
        assert process.wait(240) == 0, process.text()
        return logdir, process.text()


def test_a_run_is_evaluated_during_training_and_at_its_end(run: Any) -> None:
    logdir, console = run
    records = [json.loads(path.read_text()) for path in (logdir / "evaluation").glob("*.json")]
    logged = re.findall(r"evaluation after ([\d,]+) frames: mean (-?[\d.]+)", console)
    assert len(logged) == len(records) >= 2
    assert {int(frames.replace(",", "")) for frames, _ in logged} == {record["frames"] for record in records}
    assert len({record["frames"] for record in records}) == len(records), "the last weights are evaluated once"
    assert max(record["frames"] for record in records) >= 150000
    assert all(record["episodes"] == 4 for record in records)
    assert "evaluation/mean" in rows(logdir)[-1]
    assert not list((logdir / "evaluation").glob("*.npz"))


def test_actor_0_records_videos_of_training(run: Any) -> None:
    videos = sorted((run[0] / "videos" / "training").glob("*-game-*.mp4"))
    assert [int(path.stem.rpartition("-")[2]) for path in videos][:2] == [0, 100]
    video = cv2.VideoCapture(str(videos[0]))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 10, "an episode of Catch"
    assert video.read()[1].std() > 5
    assert videos[0].with_suffix(".gif").stat().st_size > 1000


def test_the_trace_shows_learner_and_actor_on_one_time_axis(run: Any) -> None:
    events = json.loads((run[0] / "profile" / "trace.json").read_text())["traceEvents"]
    lanes = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert sorted(lanes.values()) == ["actor 0", "learner", "receiver"]
    spans = {
        name: [e for e in events if e["ph"] == "X" and lanes[e["pid"], e["tid"]] == name] for name in lanes.values()
    }
    assert {"wait", "train", "gradient", "publish"} <= {e["name"] for e in spans["learner"]}
    assert {"simulate", "infer", "send", "wait", "fetch"} == {e["name"] for e in spans["actor 0"]}
    ranges = {name: (min(e["ts"] for e in lane), max(e["ts"] + e["dur"] for e in lane)) for name, lane in spans.items()}
    assert min(first for first, _ in ranges.values()) >= 0
    assert max(last for _, last in ranges.values()) < 10e6
    for name in ("receiver", "actor 0"):
        overlap = min(ranges[name][1], ranges["learner"][1]) - max(ranges[name][0], ranges["learner"][0])
        assert overlap > 0.3e6, f"{ranges}: the same second, in microseconds"
    assert list((run[0] / "profile").rglob("*.xplane.pb")), "the profile of TensorFlow"


@pytest.fixture(scope="module")
def page(run: Any) -> Path:
    """The report of the run, with a line to escape in its log."""
    with (run[0] / "events.log").open("a") as file:
        file.write("2026-01-01 00:00:00 WARNING actor 1 ended with code -9; <script>alert(1)</script>\n")
    return write_report(run[0])


def test_the_page_is_complete_and_loads_nothing(page: Path) -> None:
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
    assert "<b>2026-01-01 00:00:00 WARNING actor 1 ended with code -9; &lt;script&gt;" in text, "warnings stand out"
    assert "<script" not in text
    assert not re.findall(r"(?:src|href)=['\"](?!data:)", text)
    assert text.count("data:image/gif") >= 2
    assert len(text) < 12e6


@pytest.mark.skipif(not BROWSER and os.environ.get("CI") != "true", reason="no browser: apt-get install chromium")
def test_a_browser_shows_the_page_on_a_desktop_and_on_a_phone(page: Path, tmp_path: Path) -> None:
    (page.parent / "probe.html").write_text(PROBE_PAGE)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(page.parent))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}"]
    command += ["--window-size=1900,1000", "--enable-logging=stderr", "--virtual-time-budget=20000", "--dump-dom"]
    text = ""
    for _ in range(3):  # on a busy machine the virtual time can end before the page has loaded
        address = f"http://127.0.0.1:{server.server_port}/probe.html"
        browser = subprocess.run([*command, address], capture_output=True, text=True, timeout=120, check=True)
        assert "CONSOLE" not in browser.stderr, browser.stderr
        if text := re.findall(r'id="result">(.*?)</pre>', browser.stdout, flags=re.S)[0].strip():
            break
    server.shutdown()
    result = json.loads(text)
    for name, width, columns in (("wide", 1280, 3), ("narrow", 400, 1)):
        assert result[name]["images"] == result[name]["visible"] >= 12, result
        assert result[name]["scroll"] <= width, "no horizontal scroll bar"
        assert result[name]["columns"] == columns
        assert result[name]["smallest"] >= 12


def plot(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs `python -m mlma.evaluation.plot` in a folder."""
    command = [sys.executable, "-m", "mlma.evaluation.plot", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)


def test_runs_with_the_same_label_are_one_line_with_a_band(tmp_path: Path) -> None:
    runs = [ROOT / "sandbox" / "case_studies" / f"pong_seed{seed}.csv" for seed in (1, 2)]
    out = tmp_path / "curve.png"
    result = plot(ROOT, *runs, "--labels=pong,pong", "--level=atari_pong", f"--out={out}")
    assert result.returncode == 0, result.stderr
    image = cv2.imread(str(out))
    assert image is not None
    assert image.shape[1] > 800
    assert image.std() > 10


@pytest.mark.parametrize(
    ("flags", "files"),
    [
        ([], ["run/curve.png"]),
        (["run/metrics.csv", "--labels=seed,seed"], ["curve.png"]),
        (["--report"], ["run/report.html"]),
        (["--report", "--out=chart.png"], ["chart.png", "run/report.html"]),
    ],
)
def test_a_report_alone_draws_no_chart(tmp_path: Path, flags: list[str], files: list[str]) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.csv").write_text(SHORT_RUN)
    result = plot(tmp_path, "run", *flags)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == files
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.[ph]*")) == files


RETURNS = "frames,seconds,frames_per_second,learner/wait,return/mean\n" + "".join(
    f"{frames:.0f},{frames / 8000},8000,0.2,{frames / 1e5}\n" for frames in (0.5e6, 4e6, 9e6, 20e6)
)


@pytest.mark.parametrize(("level", "is_published"), [("ALE/Breakout-v5", True), ("catch", False)])
def test_a_report_compares_the_run_with_published_curves_of_its_level(
    tmp_path: Path, level: str, is_published: bool
) -> None:
    (tmp_path / "metrics.csv").write_text(RETURNS)
    config = {"level_name": level, "noop_max": 30, "fire_reset": False, "life_loss_ends_return": True}
    (tmp_path / "config.json").write_text(json.dumps(config))
    text = write_report(tmp_path).read_text()
    for words in (
        "<td>RLlib IMPALA</td><td>304</td><td>6, from 239 to 330</td><td>20 M</td><td>RLlib</td>",
        "<td>Dopamine DQN, CNN</td><td>93.4</td>",
        "<td>IMPALA, shallow</td><td>640</td><td></td><td>200 M</td>",
        "Dopamine: sticky actions 0.25, whole games",
        "This run: sticky actions 0.25, a lost life ends",
    ):
        assert (words in text) == is_published, words  # fmt: skip
    assert ("Gray: published" in text) == is_published


def test_the_chart_finds_the_level_of_its_runs_and_leaves_out_what_is_published_on_request(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.csv").write_text(RETURNS)
    pictures = {}
    for level in ("atari_breakout", "tmaze"):
        (run / "config.json").write_text(json.dumps({"level_name": level}))
        for name, flags in (("with", []), ("without", ["--no-published"]), ("loss", ["--column=learner/wait"])):
            result = plot(tmp_path, "run", "--labels=run", f"--out={name}.png", *flags)
            assert result.returncode == 0, result.stderr
            pictures[level, name] = (tmp_path / f"{name}.png").read_bytes()
    assert pictures["atari_breakout", "with"] != pictures["tmaze", "with"]
    assert pictures["atari_breakout", "without"] == pictures["tmaze", "without"] == pictures["tmaze", "with"]
    assert pictures["atari_breakout", "loss"] == pictures["tmaze", "loss"], "only returns are compared"


def test_a_level_that_is_named_must_have_something_published() -> None:
    result = plot(ROOT, "sandbox/case_studies/pong_seed1.csv", "--level=tmaze")
    assert result.returncode == 2
    assert "--level=tmaze: nothing is published about it in " in result.stderr


@pytest.mark.parametrize(("arguments", "message"), [(["nowhere"], "nowhere"), (["sandbox", "--report"], "metrics.csv")])
def test_a_folder_without_a_run_is_refused_in_one_line(arguments: list[str], message: str) -> None:
    result = plot(ROOT, *arguments)
    assert result.returncode == 2
    assert message in result.stderr.splitlines()[-1]


def test_a_run_without_learner_steps_has_a_page(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(SHORT_RUN)
    assert "<h2>Where the time goes</h2>" in write_report(tmp_path).read_text()


def test_refusals_by_reason_are_not_counted_twice(tmp_path: Path) -> None:
    columns = "frames,seconds,frames_per_second,faults/messages_refused,faults/refused_header,faults/refused_parts"
    (tmp_path / "metrics.csv").write_text(f"{columns}\n0,1.5,0,7,5,2\n")
    text = write_report(tmp_path).read_text()
    assert "<b>7</b><span>faults</span>" in text
    assert "messages refused: 7; refused header: 5; refused parts: 2" in text


def test_episodes_and_faults_are_those_of_all_sessions(tmp_path: Path) -> None:
    columns = "frames,seconds,frames_per_second,core_seconds,episodes,faults/actors_restarted"
    rows = "10,1,0,5,30,\n20,2,0,9,60,2\n30,3,0,4,10,\n40,4,0,9,70,3\n"  # resumed after 20 frames
    (tmp_path / "metrics.csv").write_text(f"{columns}\n{rows}")
    text = write_report(tmp_path).read_text()
    assert "<b>130</b><span>episodes</span>" in text
    assert "<b>5</b><span>faults</span>" in text
    assert "actors restarted: 5" in text
