"""``python -m onnxplain`` is the same as the command ``onnxplain``."""

from onnxplain.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
