"""Former command line, until 0.3: `python -m mlma.bench_scale` names its successor."""

from mlma.command.former import exit_with_successor

if __name__ == "__main__":
    exit_with_successor("mlma.bench_scale", "benchmarks.scaling")
