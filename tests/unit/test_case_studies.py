"""Pages about runs, from logdirs as a run writes them: what is on them, what survives, what an incomplete run gets."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import cv2
import pytest

from mlma.evaluation.case_studies.__main__ import main, make_case_studies
from mlma.evaluation.case_studies.pages import NOTES_BEGIN, NOTES_END
from mlma.evaluation.case_studies.records import MAX_GIF_BYTES, MAX_ROWS, find_logdirs, load, read_record
from tests.support.runs import SMALL, Process

COMMIT = "b8eed0ed27798bbcff74792a5d71a27e1ca536b2"
FLAGS: dict[str, Any] = {
    "level_name": "BreakoutNoFrameskip-v4", "algorithm": "impala", "agent_name": "ShallowConvNetAgent", "seed": 1,
    "total_environment_frames": 20e6, "num_actors": 2, "envs_per_actor": 32, "life_loss_ends_return": True,
    "fire_reset": False, "noop_max": 30, "sticky_actions": -1.0, "preset": "fast", "entropy_cost": 0.0015,
    "logdir": "/home/somebody/logs/run", "actor_hosts": "host:9001", "dataset_path": "/data/images",
}  # fmt: skip


def reports(end: float, final: float, columns: str = "return/mean", count: int = 500) -> str:
    """metrics.csv of two sessions: the second one counts its core-seconds from zero, from half of the frames on."""
    names = columns.split(",")
    lines = [f"frames,seconds,frames_per_second,core_seconds,host/busy,{columns}"]
    for i in range(1, count + 1):
        seconds = i / count * end / 8000
        spent = 1.5 * (seconds if i <= count // 2 else seconds - end / 16000)
        values = ",".join(str(final * i / count * (1 + n)) for n in range(len(names)))
        lines.append(f"{end * i / count:.0f},{seconds},8000,{spent},0.9,{values}")
    return "\n".join(lines) + "\n"


def write_run(folder: Path, name: str, end: float = 20e6, final: float = 320.0, **flags: Any) -> Path:
    """A logdir without sessions and evaluations."""
    logdir = folder / name
    logdir.mkdir(parents=True)
    (logdir / "config.json").write_text(json.dumps(FLAGS | flags))
    (logdir / "metrics.csv").write_text(reports(end, final))
    return logdir


def add_session(logdir: Path, **changes: Any) -> None:
    """How the run was started."""
    command = f"/opt/env/bin/python experiment.py --level_name=x --config=/home/me/c.json --logdir={logdir}"
    session = {"command": command, "commit": COMMIT, "started": "2026-11-26 01:36:05", "frames": 0, "cores": 2}
    (logdir / "sessions.json").write_text(json.dumps([session | changes]))


def add_evaluation(logdir: Path, mean: float, frames: float = 20e6, gif: bytes = b"GIF", **changes: Any) -> None:
    """An evaluation of four episodes, and the GIF of its median episode."""
    name = f"evaluation-{frames:.0f}-20261126"
    (logdir / "evaluation").mkdir(exist_ok=True)
    record = {
        "frames": frames, "episodes": 4, "actions": "sampled", "checkpoint": f"{logdir}/checkpoints/checkpoint-7.npz",
        "mean": mean, "median": mean - 1, "min": mean - 50, "max": mean + 60, "standard_error": 9.0,
        "human_normalised": 100 * (mean - 1.7) / 28.8, "date": "2026-11-26 02:20:00 +0000", "commit": COMMIT,
    }  # fmt: skip
    (logdir / "evaluation" / f"{name}.json").write_text(json.dumps(record | changes))
    rows = "".join(f"{i},{value},1000,x\n" for i, value in enumerate((mean + 60, mean - 50, mean - 9, mean - 1)))
    (logdir / "evaluation" / f"{name}.csv").write_text("episode,return,frames,level\n" + rows)
    folder = logdir / "videos" / name
    folder.mkdir(parents=True)
    (folder / "median.gif").write_bytes(gif)


def row(page: Path, name: str, number: int = 0) -> list[str]:
    """The cells of the line of a run, in the table of this number."""
    lines = [line for line in page.read_text().splitlines() if line.startswith(f"| {name} |")]
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", lines[number])[1:-1]]


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    """The pages of two seeds of Breakout, one of them incomplete."""
    runs, out = tmp_path / "runs", tmp_path / "pages"
    complete = write_run(runs, "breakout_fast_1")
    add_session(complete)
    add_evaluation(complete, 350.0)
    write_run(runs, "breakout_fast_2", end=5e6, final=40.0, seed=2)
    make_case_studies([runs], out)
    return out


def test_a_page_has_all_numbers_of_a_run(pages: Path) -> None:
    cells = row(pages / "breakout.md", "breakout_fast_1")
    # 20 M frames at 8,000 a second; 1.5 cores, in two sessions; RLlib's IMPALA at 20 M frames
    assert cells == [
        "breakout_fast_1", "impala", "fast", "1", "20 M", "41.7", "62", "8,000", "320",
        "350, 349, 300, 410 (4 episodes)", "1,209 %", "RLlib IMPALA 304",
    ]  # fmt: skip
    origin = row(pages / "breakout.md", "breakout_fast_1", 1)
    command = ".venv/bin/python experiment.py --level_name=x --config=c.json --logdir=logdir/breakout_fast_1"
    assert origin[1:] == [f"`{command}`", f"`{COMMIT[:12]}`", "2026-11-26 01:36:05", "1 + 2 x 32", "2"]


def test_an_incomplete_run_is_shown_with_what_it_lacks(pages: Path) -> None:
    text, cells = (pages / "breakout.md").read_text(), row(pages / "breakout.md", "breakout_fast_2")
    assert cells[4:] == ["5 M of 20 M", "10.4", "16", "8,000", "40", "none", "–", "RLlib IMPALA 34.8"]
    assert "* `breakout_fast_2` stood at 5 M of 20 M frames when this page was made." in text
    assert "* `breakout_fast_2` has no evaluation." in text
    origin = row(pages / "breakout.md", "breakout_fast_2", 1)
    assert origin[1:4] == ["not recorded; flags: `runs/breakout_fast_2.json`", "not recorded", "–"]


def test_protocols_and_published_returns_are_on_the_page(pages: Path) -> None:
    text = (pages / "breakout.md").read_text()
    joined = " ".join(text.split())
    assert "## Published at 20 M frames" in text
    assert row(pages / "breakout.md", "RLlib IMPALA")[1:5] == ["304", "6, from 239 to 330", "20 M", "RLlib"]
    assert row(pages / "breakout.md", "IMPALA, deep")[1:5] == ["787", "", "200 M", "IMPALA paper"]
    for words in (
        "* These runs: no sticky actions, a lost life ends the learned return, no FIRE at reset, up to 30 no-ops, last",
        "* RLlib: no sticky actions, a lost life ends the learned return, FIRE at reset",
        "* Dopamine: sticky actions 0.25, whole games",
        "* LASER paper: protocol not checked.",
    ):
        assert joined.count(words) == 1, words


def test_there_is_one_table_over_all_games(tmp_path: Path, pages: Path) -> None:
    write_run(tmp_path / "more", "catch_7", seed=7, level_name="catch", preset=None, total_environment_frames=1e5)
    make_case_studies([tmp_path / "more"], pages)
    lines = [line for line in (pages / "scores.md").read_text().splitlines() if line.startswith("| [")]
    assert [line.split(" | ")[:2] for line in lines] == [
        ["| [Breakout](breakout.md)", "breakout_fast_1"],
        ["| [Breakout](breakout.md)", "breakout_fast_2"],
        ["| [catch](catch.md)", "catch_7"],
    ]
    text = (pages / "catch.md").read_text()
    assert "Published" not in text and "RLlib" not in text and "Gray" not in text


def test_what_is_kept_is_small_and_names_no_folder_of_the_machine(tmp_path: Path, pages: Path) -> None:
    files = [path for path in pages.rglob("*") if path.is_file() and path.suffix != ".png"]
    assert {path.name for path in files} >= {"breakout_fast_1.json", "breakout_fast_1.csv", "breakout.md", "scores.md"}
    for path in files:
        assert path.stat().st_size < 20_000, path
        for place in (str(tmp_path), "/home", "/opt", "/data/images", "host:9001"):
            assert place not in path.read_text(errors="replace"), path
    ((record, table), _) = load(pages / "runs")
    assert record.flags["entropy_cost"] == 0.0015
    assert len(table["frames"]) == MAX_ROWS
    assert (table["frames"][-1], table["return/mean"][-1]) == (20e6, 320)
    assert record.core_minutes == pytest.approx(62.5, rel=0.01)


def test_the_same_pages_come_from_what_is_kept_when_the_logdirs_are_gone(tmp_path: Path, pages: Path) -> None:
    before = {path: path.read_bytes() for path in pages.rglob("*") if path.is_file()}
    make_case_studies([], pages)
    assert {path: path.read_bytes() for path in pages.rglob("*") if path.is_file()} == before
    later = write_run(tmp_path / "later", "breakout_fast_3", seed=3)
    make_case_studies([later], pages)
    assert [row(pages / "breakout.md", f"breakout_fast_{seed}")[3] for seed in (1, 2, 3)] == ["1", "2", "3"]


def test_notes_survive_and_a_page_that_is_not_generated_is_not_overwritten(pages: Path) -> None:
    page = pages / "breakout.md"
    begin, _, rest = page.read_text().partition(NOTES_BEGIN)
    notes = "\nSeed 2 was stopped: a | and `code`.\n\n## A heading of mine\n"
    page.write_text(begin.replace("RLlib", "changed") + NOTES_BEGIN + notes + NOTES_END + rest.partition(NOTES_END)[2])
    make_case_studies([], pages)
    assert f"{NOTES_BEGIN}{notes}{NOTES_END}" in page.read_text()
    assert "changed" not in page.read_text(), "only the notes are kept"
    page.write_text("# My own page\n")
    with pytest.raises(ValueError, match=r"breakout\.md: is not a generated page"):
        make_case_studies([], pages)
    assert page.read_text() == "# My own page\n"


def test_the_gif_is_the_median_episode_of_the_best_run_and_of_limited_size(tmp_path: Path, pages: Path) -> None:
    def shown() -> tuple[bytes, list[tuple[str, str]]]:
        text = (pages / "breakout.md").read_text()
        return (pages / "breakout.gif").read_bytes(), re.findall(
            r"median evaluation episode of `(\w+)`.* (\d+)\.", text
        )

    assert shown() == (b"GIF", [("breakout_fast_1", "349")])
    for name, mean, gif in (
        ("better", 400.0, b"GIF2"),
        ("worse", 100.0, b"GIF3"),
        ("large", 500.0, b"x" * MAX_GIF_BYTES * 2),
    ):
        add_evaluation(write_run(tmp_path / "more", name), mean, gif=gif)
    make_case_studies([tmp_path / "more"], pages)
    assert shown() == (b"GIF2", [("better", "399")])
    make_case_studies([], pages)
    assert shown() == (b"GIF2", [("better", "399")])


def test_the_last_evaluation_with_the_most_frames_counts_and_what_is_unusual_is_said(tmp_path: Path) -> None:
    logdir = write_run(tmp_path / "runs", "run_1")
    add_evaluation(logdir, 100.0, frames=10e6, date="2026-11-28")
    add_evaluation(logdir, 200.0, frames=15e6, actions="greedy")
    make_case_studies([logdir], tmp_path / "pages")
    page = tmp_path / "pages" / "breakout.md"
    assert row(page, "run_1")[9] == "200, 199, 150, 260 (4 episodes)"
    assert "* `run_1` was evaluated at 15 M frames." in page.read_text()
    assert "* Evaluated with greedy actions: `run_1`." in page.read_text()


def test_without_core_seconds_the_load_of_the_machine_is_a_bound(tmp_path: Path) -> None:
    logdir = write_run(tmp_path / "runs", "run_1")
    (logdir / "metrics.csv").write_text(reports(20e6, 10.0).replace("core_seconds", "x"))
    assert read_record(logdir)[0].core_minutes is None
    add_session(logdir, cores=2)
    record = read_record(logdir)[0]
    assert record.core_minutes == pytest.approx(2 * 0.9 * 20e6 / 8000 / 60)
    assert record.core_minutes_is_bound
    make_case_studies([logdir], tmp_path / "pages")
    assert row(tmp_path / "pages" / "breakout.md", "run_1")[6] == "≤ 75"


def test_a_hand_written_session_may_lack_everything_but_one_field(tmp_path: Path) -> None:
    logdir = write_run(tmp_path / "runs", "run_1")
    (logdir / "sessions.json").write_text(json.dumps([{"commit": f"{COMMIT}+"}]))
    (logdir / "events.log").write_text("2026-11-26 01:36:05 INFO logdir x\nmore\n")
    make_case_studies([logdir], tmp_path / "pages")
    origin = row(tmp_path / "pages" / "breakout.md", "run_1", 1)
    assert origin[2:4] == [f"`{COMMIT[:12]}`, changed", "2026-11-26 01:36:05"]


def test_returns_at_a_small_epsilon_are_preferred(tmp_path: Path) -> None:
    logdir = write_run(tmp_path / "runs", "apex_1", algorithm="apex", level_name="ALE/Breakout-v5")
    (logdir / "metrics.csv").write_text(reports(20e6, 50.0, "return/mean,return/greedy"))
    make_case_studies([logdir], tmp_path / "pages")
    page = tmp_path / "pages" / "breakout.md"
    cells = row(page, "apex_1")
    assert (cells[8], cells[11]) == ("100", "RLlib Ape-X 83.1")
    assert "only episodes with a small epsilon count" in " ".join(page.read_text().split())
    assert "These runs: sticky actions 0.25" in page.read_text()


def test_a_run_of_several_levels_has_a_row_and_a_panel_for_each_and_no_published_curves(tmp_path: Path) -> None:
    levels = ["BreakoutNoFrameskip-v4", "PongNoFrameskip-v4"]
    logdir = write_run(tmp_path / "runs", "popart_1", level_name=",".join(levels))
    columns = ",".join(["return/mean", *(f"level_return/{level}" for level in levels)])
    (logdir / "metrics.csv").write_text(reports(20e6, 10.0, columns))
    result = {"episodes": 4, "mean": 5.0, "median": 5.0, "min": 1.0, "max": 9.0, "human_normalised": 12.0}
    add_evaluation(logdir, 7.0, levels={levels[0]: result, levels[1]: result | {"mean": 6.0}})
    make_case_studies([logdir], tmp_path / "pages")
    page = tmp_path / "pages" / "breakout_pong.md"
    assert page.read_text().startswith("# Breakout, Pong in one network\n")
    first, second = row(page, f"popart_1: {levels[0]}"), row(page, f"popart_1: {levels[1]}")
    assert (first[8], second[8]) == ("20", "30")
    assert (first[9], second[9]) == ("5, 5, 1, 9 (4 episodes)", "6, 5, 1, 9 (4 episodes)")
    assert first[11] == second[11] == "–"
    assert "RLlib" not in page.read_text()


def test_the_chart_is_legible_on_a_page_and_shows_what_is_published(tmp_path: Path, pages: Path) -> None:
    image = cv2.imread(str(pages / "breakout.png"))
    assert image is not None
    assert 800 < image.shape[1] < 1000 and (pages / "breakout.png").stat().st_size < 200_000
    write_run(tmp_path / "other", "tmaze_1", level_name="tmaze")
    make_case_studies([tmp_path / "other"], pages)
    plain = cv2.imread(str(pages / "tmaze.png"))
    assert plain is not None
    margin = slice(int(0.85 * image.shape[1]), None)  # where the labels of published curves are
    gray = (image[:, margin].max(axis=-1) < 160).sum()
    assert gray > 3 * (plain[:, margin].max(axis=-1) < 160).sum()


def test_runs_without_reports_are_left_out_and_folders_without_runs_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "runs", "good_1")
    (write_run(tmp_path / "runs", "early_2") / "metrics.csv").unlink()
    (write_run(tmp_path / "runs", "broken_3") / "config.json").write_text("{")
    main([str(tmp_path / "runs"), f"--out={tmp_path / 'pages'}"])
    printed = capsys.readouterr()
    assert printed.out.split() == [str(tmp_path / "pages" / name) for name in ("breakout.md", "scores.md")]
    assert re.findall(r"left out: \S+/(\w+)/", printed.err) == ["broken_3", "early_2"]
    assert find_logdirs(tmp_path / "runs" / "good_1") == [tmp_path / "runs" / "good_1"]
    with pytest.raises(SystemExit):
        main([str(tmp_path), f"--out={tmp_path / 'pages'}"])
    assert "contains no logdir" in capsys.readouterr().err


def test_two_logdirs_of_one_name_are_refused(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / name, "run_1").parent for name in ("a", "b")]
    with pytest.raises(ValueError, match="run_1: a name of several logdirs"):
        make_case_studies(folders, tmp_path / "pages")


def test_a_real_run_and_its_evaluation_give_a_page(tmp_path: Path) -> None:
    logdir = tmp_path / "runs" / "catch_1"
    with Process(
        tmp_path, "run", *SMALL, "--num_actors=1", "--total_environment_frames=30000", f"--logdir={logdir}"
    ) as run:
        assert run.wait(120) == 0, run.text()
    test = ["--mode=test", f"--config={logdir}/config.json", f"--logdir={logdir}", "--test_num_episodes=20"]
    with Process(tmp_path, "test", *test, "--record_video") as run:
        assert run.wait(120) == 0, run.text()
    make_case_studies([tmp_path / "runs"], tmp_path / "pages")
    page = tmp_path / "pages" / "catch.md"
    cells = row(page, "catch_1")
    assert re.fullmatch(r"30,\d{3}", cells[4])
    assert float(cells[6]) >= 0
    assert re.fullmatch(r"-?[\d.]+, -?1, -?1, -?1 \(20 episodes\)", cells[9])
    origin = row(page, "catch_1", 1)
    assert origin[1].startswith("`.venv/bin/python")
    assert "--logdir=logdir/catch_1`" in origin[1]
    assert re.match(r"`[0-9a-f]{12}`", origin[2])
    assert (tmp_path / "pages" / "catch.gif").read_bytes()[:3] == b"GIF"
    assert str(tmp_path) not in page.read_text()
