"""The time table of tools/bench.py on a CUDA device: plain pass, compiled engine and torch libraries all run there.

    python tools/bench_gpu.py build/bench [--peer-python TORCH/bin/python] [--json FILE]

Inputs come from the computer's memory and results go back to it, in the plain pass as well.
"""

from bench import options, write


def main() -> None:
    """Print the table."""
    parser = options(__doc__)
    parser.set_defaults(providers="cuda", engines=("compiled",), parts=("speed",), profile=False)
    write(parser.parse_args())


if __name__ == "__main__":
    main()
