"""`python -m mlma.export LOGDIR`: writes the policy of a run into a folder that needs nothing of this package.

The folder has the policy in the formats asked for, policy.json (what goes in and comes out), policy.py (which loads any
of them) and README.md, a model card. See docs/guides/export.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mlma.core.config.flags import print_mistake
from mlma.utils.atomic_file import check_writable
from mlma.utils.child_process import EXIT_USAGE
from mlma.utils.failure import running
from mlma.utils.import_object import import_object
from mlma.utils.tensorflow_setup import import_tensorflow


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code; 2 for wrong arguments, with one line."""
    parser = argparse.ArgumentParser(
        prog="python -m mlma.export", description="Write a trained policy for use without this package."
    )
    parser.add_argument("source", type=Path, metavar="LOGDIR", help="logdir of a run, or one of its checkpoints")
    parser.add_argument(
        "--format", default="savedmodel", help="savedmodel, onnx, tflite, or several separated by commas"
    )
    parser.add_argument("--output", type=Path, help="the folder to write; default: LOGDIR/export")
    parser.add_argument("--checkpoint", default="last", help="last, best, or a file")
    parser.add_argument("--license", default="apache-2.0", help="of the policy, as hubs call it; default: that of mlma")
    parser.add_argument("--name", default="", help="title of the model card; default: algorithm and level")
    arguments = parser.parse_args(argv)
    try:
        export(
            arguments.source,
            arguments.format.split(","),
            arguments.output,
            arguments.checkpoint,
            arguments.license,
            arguments.name,
        )
    except ValueError as mistake:
        print_mistake(mistake)
        return EXIT_USAGE
    except RuntimeError as failure:
        print(failure, file=sys.stderr)
        return 1
    return 0


def export(
    source: Path, formats: list[str], output: Path | None, checkpoint: str = "last", licence: str = "", name: str = ""
) -> Path:
    """Writes the folder and returns its path. ValueError in one line for what cannot be exported."""
    import_tensorflow()
    from mlma.evaluation.saved_policy import MAKE_AGENT, find_run, load_saved_policy
    from mlma.export.description import describe, prepare_folder, write_description
    from mlma.export.formats import check_formats, difference, write_format
    from mlma.export.model_card import write_card
    from mlma.export.policy_function import PolicyFunction

    check_formats(formats)
    logdir, _ = find_run(source, checkpoint)
    folder = output or logdir / "export"
    check_writable(folder, "--output")
    prepare_folder(folder)
    saved = load_saved_policy(source, checkpoint, import_object(MAKE_AGENT))
    function = PolicyFunction(saved.agent, saved.spec)
    description = describe(saved, function)
    write_description(folder, description)
    for each in formats:
        path = write_format(each, function, folder)
        with running():
            description.differences[each] = found = difference(each, saved, folder)
        print(f"{path}: logits differ by at most {found:.1e} from those of {saved.checkpoint.name}", flush=True)
    write_description(folder, description)
    print(write_card(folder, saved, description, formats, licence, name), flush=True)
    return folder


if __name__ == "__main__":
    sys.exit(main())
